"""A channel made of another by a command, exactly once.

    IN ── ndjson ──► standard input ─► CMD ─► standard output ── batches, `unique=1` ──► OUT
          after OUT's newest id

OUT is the cursor. What CMD writes has the id of what it read, in order, so OUT's newest id says
where to go on; and an append whose answer got lost is settled by `unique=1`. So it may be killed at
any moment. It rests on ids that are unique in IN: at the first that is not, it ends.
"""

import json
import os
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from esource.client.mirror import place_after
from esource.client.patience import Patience, Stop
from esource.client.stream import HEARTBEAT_SECONDS, SILENCE_SECONDS
from esource.client.target import Away, Refused, Target
from esource.errors import EsourceError
from esource.event import micros_of
from esource.rows import tsv

PIECE_BYTES = 1 << 20
NDJSON = {"Accept": "application/x-ndjson"}
TSV = {"Accept": "text/tab-separated-values"}


class Broken(EsourceError):
    """IN, or CMD, is not what a pipe can rest on."""


class Pipe:
    """IN, CMD and OUT."""

    def __init__(self, source: Target, sink: Target, command: Sequence[str], stop: Stop) -> None:
        """Name them; nothing is asked or started yet."""
        self._source = source
        self._sink = sink
        self._command = command
        self._stop = stop

    def run(self, told: Callable[[int], None]) -> None:
        """Run until a signal, after which CMD gets to its end and what it wrote is stored.

        `told` is called with the number of events of each append, after it. Raises `Broken`,
        `Refused`, and `Stopped`, after which what is not stored is read again.
        """
        newest = self._newest()
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # so that Ctrl-C reaches the pipe alone, which lets it finish
        )
        feeder = _Feeder(self._source, newest, process, self._stop)
        feeder.start()
        try:
            self._drain(process, feeder, newest, told)
        except BaseException:
            process.kill()
            raise
        finally:
            feeder.end()
            process.wait()
        if feeder.failed:
            raise feeder.failed
        if process.returncode or not self._stop.is_asked:
            raise Broken(f"{self._command[0]} ended with {process.returncode}")

    def _newest(self) -> str:
        """Return OUT's newest id; wait while it is away."""
        patience = Patience(self._stop)
        while True:
            try:
                with self._stop.waiting():
                    return self._sink.kept().newest
            except Away as away:
                patience.wait(away)

    def _drain(
        self,
        process: "subprocess.Popen[bytes]",
        feeder: "_Feeder",
        newest: str,
        told: Callable[[int], None],
    ) -> None:
        """Store what CMD writes, whole lines, until it has ended."""
        assert process.stdout
        rest = b""
        while piece := os.read(process.stdout.fileno(), PIECE_BYTES):
            lines, lf, rest = (rest + piece).rpartition(b"\n")
            if not lf:
                continue
            batch = [(feeder.take(line), line) for line in lines.split(b"\n")]
            self._store(batch, newest)
            newest = batch[-1][0]
            told(len(batch))
        if rest:
            raise Broken(f"{self._command[0]} ended in the middle of a line")

    def _store(self, batch: list[tuple[str, bytes]], newest: str) -> None:
        """Append lines to OUT, whose newest id was as said; they are stored on return."""
        patience = Patience(self._stop)
        while batch:
            body = b"".join(line + b"\n" for _, line in batch)
            fields = {"Content-Type": "application/x-ndjson"}
            try:
                answer = self._sink.ask("POST", [("unique", "1")], fields, body)
                self._sink.text(answer)
                return
            except Away as away:
                patience.wait(away)  # after a signal it raises: what is not stored is read again
            except Refused as refused:
                if refused.status != 409:
                    raise
                there = self._since(newest, patience)
                if not there.intersection(id for id, _ in batch):
                    raise
                # A pipe before this one has stored them, after OUT was asked for the newest.
                batch = [(id, line) for id, line in batch if id not in there]

    def _since(self, newest: str, patience: Patience) -> set[str]:
        """Return the ids that OUT has after one."""
        while True:
            try:
                answer = self._sink.ask("GET", [("after", newest)], NDJSON)
                return {json.loads(line)["id"] for line in self._sink.text(answer).splitlines()}
            except Away as away:
                patience.wait(away)


class _Feeder(threading.Thread):
    """Gives CMD what IN has, and knows which of it CMD has not answered yet."""

    def __init__(
        self, source: Target, newest: str, process: "subprocess.Popen[bytes]", signals: Stop
    ) -> None:
        super().__init__(daemon=True)
        self.failed: Exception | None = None
        self._source = source
        self._process = process
        self._signals = signals
        self._newest = newest  # of what was given
        self._is_over = False
        self._given: deque[str] = deque()
        self._ids = _Ids(source, newest)
        signals.on_ask = source.interrupt

    def take(self, line: bytes) -> str:
        """Return the id of a line that CMD wrote; raise `Broken` if it is not one's turn."""
        try:
            id = json.loads(line)["id"]
        except (ValueError, TypeError, KeyError):
            text = line[:80].decode(errors="replace")
            raise Broken(f"CMD wrote what is no line of NDJSON with an id: {text!r}") from None
        while self._given:
            if self._given.popleft() == id:
                return str(id)
        raise Broken(f"CMD wrote the id {id!r}, which it has not read, or twice, or out of order")

    def end(self) -> None:
        """Have it end: no more is given."""
        self._is_over = True
        self._source.interrupt()
        self.join(5.0)

    def run(self) -> None:
        """Read IN and write to CMD, over every break, until a signal or until CMD has ended."""
        assert self._process.stdin
        patience = Patience(self._signals)
        try:
            while not self._signals.is_asked and not self._is_over:
                try:
                    for line in self._lines():
                        patience.works()
                        self._give(line)
                except Away as away:
                    if not self._signals.is_asked and not self._is_over:
                        self._signals.asked.wait(patience.delay(away))
        except BrokenPipeError:
            pass  # CMD has ended; its exit code says how
        except Exception as error:
            self.failed = error
        finally:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def _lines(self) -> Iterator[bytes]:
        """Yield the events that IN has and gets, as lines; raise `Away` at the end of it."""
        query = [("follow", "1"), ("heartbeat", str(HEARTBEAT_SECONDS)), ("after", self._newest)]
        answer = self._source.ask("GET", query, NDJSON, timeout=SILENCE_SECONDS)
        if self._newest and answer.headers.get("Esource-Resume") != "exact":
            raise Broken(f"{self._source.url} has no event {self._newest!r}, which OUT has last")
        rest = b""
        while piece := self._source.piece(answer, PIECE_BYTES):
            lines, lf, rest = (rest + piece).rpartition(b"\n")
            if lf:
                yield from filter(None, lines.split(b"\n"))
        self._source.close()
        raise Away(f"{self._source.url}: the stream ended")

    def _give(self, line: bytes) -> None:
        """Write an event to CMD; blocks while CMD is busy."""
        assert self._process.stdin
        id = json.loads(line)["id"]
        self._ids.check(id)
        self._given.append(id)
        self._newest = id
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()


class _Ids:
    """Tells the first event of IN whose id is empty, or has been there before.

    Ids that the hub gave rise, and cost nothing. Of others a hash is kept, from IN's beginning on:
    100 bytes each, or so. Where hashes meet, the hub knows which of the events is the first.
    """

    def __init__(self, source: Target, newest: str) -> None:
        self._source = source.another()
        self._before = newest  # the id before the one that is checked
        self._hashes: set[int] | None = None  # once there is an id that does not rise

    def check(self, id: str) -> None:
        """Raise `Broken` for an id that is empty or not the first of its kind, and `Away`."""
        if not id:
            after = f", after {self._before!r}" if self._before else ""
            raise Broken(f"{self._source.url} has an event without an id{after}")
        if self._hashes is None:
            if not self._rises(id):
                self._confirm(id)
                self._hashes = self._until(id)
        elif hash(id.encode()) in self._hashes:
            self._confirm(id)
        if self._hashes is not None:
            self._hashes.add(hash(id.encode()))
        self._before = id

    def _rises(self, id: str) -> bool:
        new, before = id.encode(), self._before.encode()
        if micros_of(new) is None:
            return False
        return not before or (micros_of(before) is not None and before < new)

    def _confirm(self, id: str) -> None:
        """Raise `Broken` if an event before has the id; that of the one right before is unique."""
        if self._before:
            first = place_after(self._source, id)
            before = place_after(self._source, self._before)
            if first is None or before is None or first.offset <= before.offset:
                raise Broken(f"{self._source.url} has more than one event with the id {id!r}")

    def _until(self, id: str) -> set[int]:
        """Return the hashes of the ids of all events before one."""
        hashes: set[int] = set()
        if not self._before:
            return hashes
        answer = self._source.ask("GET", [("before", id)], TSV)
        rest = b""
        while piece := self._source.piece(answer, PIECE_BYTES):
            rows, _, rest = (rest + piece).rpartition(b"\n")
            hashes.update(map(hash, tsv.BEGINNING.findall(rows)))
        return hashes
