"""`kill -9` of master and worker under load: nothing acknowledged is lost, doubled or torn."""

import os
import random
import signal
from pathlib import Path

from tests.harness import QUIET, Follower, Hub, Publisher, eventually, increases, numbers, size

CYCLES = size(15, 60)
LARGE = b"x" * 150_000 + b" "
SOME = b"x" * 20_000 + b" "  # of which fifty are a segment


class Book:
    """One channel's file, and what is known of it until now."""

    def __init__(self, hub: Hub, channel: str, publishers: list[Publisher]) -> None:
        self.hub = hub
        self.channel = channel
        self.publishers = publishers
        self.served = b""
        self.seen: dict[str, list[int]] = {publisher.name: [] for publisher in publishers}
        self._checked = {publisher.name: 0 for publisher in publishers}

    def check(self) -> None:
        """Compare what the hub serves with what the publishers know."""
        served = self.hub.get(f"/{self.channel}").body
        assert served.startswith(self.served), "what was served once has changed"
        assert served.endswith(b"\n") or not served
        rows = served[len(self.served) :].split(b"\n")[:-1]
        self.served = served
        assert all(row.count(b"\t") == 2 and row.endswith(b" ") for row in rows), "a torn row"
        for publisher in self.publishers:
            new = numbers(rows, publisher.name)
            seen = self.seen[publisher.name]
            assert increases(seen[-1:] + new), f"order or doubles: {seen[-1:]} {new}"
            seen += new
            acknowledged = set(publisher.acknowledged[self._checked[publisher.name] :])
            self._checked[publisher.name] = len(publisher.acknowledged)
            # Of a publisher that sends again, the answer may come a cycle after the row.
            lost = acknowledged - set(seen if publisher.retry else new)
            assert not lost, f"{len(lost)} acknowledged events lost: {sorted(lost)[:5]}"
            if publisher.retry:
                assert seen == list(range(len(seen))), "an event that was sent again is not once"


def test_kills_under_load_lose_no_acknowledged_event_and_repeat_and_tear_none(
    tmp_path: Path,
) -> None:
    random.seed(1)
    hub = Hub(tmp_path, ESOURCE_KEEP="closing/segment=1M", **QUIET)
    hub.folder.mkdir()
    closing = [Publisher(hub, f"closing{n}", "closing", padding=lambda _: SOME) for n in range(2)]
    shared = [Publisher(hub, f"p{n}", "shared") for n in range(4)]
    piped = [Publisher(hub, f"piped{n}", "piped", batch=20) for n in range(2)]
    again = [Publisher(hub, f"again{n}", "again", retry=True) for n in range(2)]
    several = [Publisher(hub, f"several{n}", f"several-{n}") for n in range(4)]
    steady = [*shared, *piped, *again, *several, *closing]
    books = [
        Book(hub, "shared", shared), Book(hub, "piped", piped), Book(hub, "again", again),
        Book(hub, "closing", closing),
        *(Book(hub, publisher.channel, [publisher]) for publisher in several),
    ]  # fmt: skip
    follower = Follower(hub, "shared").start()
    acknowledged = 0
    try:
        for cycle in range(CYCLES):
            if not hub.process:
                hub.start()
            for book in books:
                book.check()
            # Large rows are torn more often than small ones; their file is new each time.
            large = Publisher(hub, "large", f"large-{cycle}", padding=lambda _: LARGE)
            publishers = [*steady, large]
            for publisher in publishers:
                publisher.start()

            def done(publishers: list[Publisher] = publishers) -> int:
                return sum(len(publisher.acknowledged) for publisher in publishers)

            wanted = done() + random.randrange(20, 400)
            eventually(lambda wanted=wanted, done=done: done() >= wanted)  # type: ignore[misc]
            torn = False
            boots = hub.log.count("channels in")
            if cycle % 5 == 4:  # the worker alone: the master starts another one
                os.kill(hub.worker, signal.SIGKILL)
                eventually(lambda boots=boots: hub.log.count("channels in") > boots)  # type: ignore[misc]
            else:
                hub.kill()
                torn = cycle % 3 == 0
            for publisher in publishers:
                publisher.join()
            if torn:  # kills hardly ever hit a write, so here is what one in a write leaves
                for channel in ("shared", "closing"):
                    with hub.file(channel).open("ab") as file:
                        file.write(b"2026-01-01T00:00:00.000000Z\t\tp0 1000000")
            acknowledged += len(large.acknowledged)
            rows = hub.rows(large.channel)
            assert set(large.acknowledged) <= set(numbers(rows, "large"))
        if not hub.process:
            hub.start()
        for book in books:
            book.check()
        eventually(lambda: len(follower.events) >= len(hub.rows("shared")))
        assert follower.data == hub.data("shared")
    finally:
        follower.stop()
        if hub.process:
            hub.stop()
    acknowledged += sum(len(publisher.acknowledged) for publisher in steady)
    assert acknowledged > CYCLES * 20
    assert "Traceback" not in hub.log
    assert len(list(hub.folder.glob("closing.[0-9]*.tsv"))) > CYCLES / 10
    print(f"{CYCLES} kills, {acknowledged} acknowledged events")
