"""The bodies of batches -> rows to append, in pieces of any size. Pure.

    feed(piece) -> draft, feed(piece) -> draft, …, end() -> draft

A decoder is fed pieces, and each time returns a draft of the events that are complete with it,
which may be none. At the first line that is bad it returns what was good before, and sets
`error`, which names the line; then it must not be fed any more. Nothing is raised. What it keeps
of an event that is not complete is bounded by the limit of an event's data.
"""

import re
from collections.abc import Callable, Iterator
from typing import TypeAlias

from esource.errors import BadInput, EsourceError, TooLarge
from esource.event import MAX_TYPE_BYTES, Event, check_data, check_id, check_type
from esource.rows import ndjson, sse, tsv
from esource.rows.tsv import BOM, Draft, Gathering, too_large

EMPTY = Draft(b"", 0, 0)
REPLACEMENT = "\ufffd".encode()
OVERHEAD_BYTES = 4096  # of a line beyond its data
HELD_BYTES = 1024  # of a frame that is looked at as a whole, though it comes in two pieces

# Most ids, to be let through quickly; none that may be a place.
_PLAIN_ID = re.compile(rb"[!-?A-~](?:[ -~]{0,1022}[!-~])?").fullmatch

# Whole lines, LF-terminated, and the limit of an event's data -> all of them, or it raises.
DecodeLines = Callable[[bytes, int], Draft]


class LineDecoder:
    """For formats in which a line is an event."""

    def __init__(self, decode: DecodeLines, limit: int) -> None:
        """`limit` is in bytes of an event's data."""
        self.error: EsourceError | None = None
        self._decode = decode
        self._limit = limit
        self._rest = bytearray()  # of a line that has not ended
        self._escapes = 0  # in it, by which it may be longer than the event that it becomes
        self._line = 1  # of the next whole line

    @property
    def pending(self) -> int:
        """How many bytes are kept for an event that is not complete."""
        return len(self._rest)

    def feed(self, piece: bytes) -> Draft:
        """Return the events of the lines that end in `piece`."""
        cut = piece.rfind(b"\n") + 1
        if not cut:
            self._keep(piece)
            return EMPTY
        lines = piece[:cut]
        if self._rest:
            lines = bytes(self._rest) + lines
            self._rest, self._escapes = bytearray(), 0
        draft = self._lines(lines if self._line > 1 else lines.removeprefix(BOM))
        if not self.error:
            self._keep(piece[cut:])
        return draft

    def end(self) -> Draft:
        """Return the event of a last line that has no line end."""
        rest = bytes(self._rest if self._line > 1 else self._rest.removeprefix(BOM))
        return self._lines(rest + b"\n") if rest else EMPTY

    def _keep(self, piece: bytes) -> None:
        self._rest += piece
        self._escapes += piece.count(b"\\")
        least = len(self._rest) - self._escapes * (ndjson.ESCAPE_BYTES - 1)
        if least > self._limit + OVERHEAD_BYTES:
            self.error = TooLarge(f"line {self._line}: {too_large(self._limit)}")

    def _lines(self, lines: bytes) -> Draft:
        try:
            draft = self._decode(lines, self._limit)
        except EsourceError as error:
            draft = self._lines_before_the_bad_one(lines, error)
        self._line += tsv.count(lines)
        return draft

    def _lines_before_the_bad_one(self, lines: bytes, error: EsourceError) -> Draft:
        """Find the first bad line, by halves: none is decoded more than a few times."""
        each = lines.split(b"\n")[:-1]

        def decoded(start: int, end: int) -> Draft:
            return self._decode(b"\n".join([*each[start:end], b""]), self._limit)

        good, end = 0, len(each)  # so many are good, and the first that is not is before the end
        while end - good > 1:
            middle = (good + end) // 2
            try:
                decoded(good, middle)
                good = middle
            except EsourceError as found:
                end, error = middle, found
        self.error = type(error)(f"line {self._line + good}: {error}")
        return decoded(0, good) if good else EMPTY


class StreamDecoder:
    """For event streams."""

    def __init__(self, limit: int) -> None:
        """`limit` is in bytes of an event's data."""
        self.error: EsourceError | None = None
        self._decoder = sse.Decoder()
        self._limit = limit
        self._held = b""  # of a frame that has not ended: the decoder is not told yet

    @property
    def pending(self) -> int:
        """How many bytes are kept for an event that is not complete."""
        return self._decoder.pending + len(self._held)

    def feed(self, piece: bytes) -> Draft:
        """Return the events of the frames that end in `piece`."""
        text, self._held = self._held + piece, b""
        cut = text.rfind(b"\n\n")
        end = cut + 2 if cut >= 0 else 0
        gathering = Gathering()
        for part in self._parts(text[:end]):
            gathering.add(self._plain(part) or self._events(self._decoder.events(part)))
            if self.error:
                return gathering.draft()
        rest = text[end:]
        # With a CR there may be the end of a frame in it.
        if self._decoder.is_between_frames and len(rest) <= HELD_BYTES and b"\r" not in rest:
            self._held = rest
        elif rest:
            gathering.add(self._events(self._decoder.events(rest)))
        if not self.error and self._decoder.pending > self._limit + OVERHEAD_BYTES:
            self.error = TooLarge(f"line {self._decoder.line + 1}: {too_large(self._limit)}")
        return gathering.draft()

    def end(self) -> Draft:
        """Return the event that a last CR ends; one that no blank line ends is an error."""
        gathering = Gathering()
        gathering.add(self._events(self._decoder.events(self._held)))
        if not self.error:
            gathering.add(self._events(self._decoder.end()))
        if not self.error and self._decoder.is_inside_an_event:
            self.error = BadInput(
                f"line {self._decoder.line}: the last event is not ended by a blank line"
            )
        return gathering.draft()

    def _parts(self, text: bytes) -> Iterator[bytes]:
        """Yield what ends the frame at work, then frames that are whole, of what ends with one."""
        start = 0 if self._decoder.is_between_frames else text.find(b"\n\n") + 2
        yield from filter(None, (text[:start], text[start:]))

    def _plain(self, frames: bytes) -> Draft | None:
        """Return the events of whole frames; None if there is need of a closer look."""
        plain = sse.plain(frames) if self._decoder.is_between_frames else None
        if not plain or not _are_plain(*plain[1:]) or _has_long_line(frames, self._limit):
            return None
        try:
            _check_utf8(frames)
        except BadInput:
            return None
        self._decoder.line += tsv.count(frames)
        return plain[0]

    def _events(self, events: Iterator[Event]) -> Draft:
        rows = []
        try:
            for event in events:
                if event.id or event.type:
                    check_id(_text(event.id))
                    check_type(_text(event.type))
                _check_utf8(event.data)
                check_data(event.data)
                if len(event.data) > self._limit:
                    raise too_large(self._limit)
                rows.append(tsv.encode(event))
        except EsourceError as error:
            self.error = type(error)(f"line {self._decoder.line}: {error}")
        return Draft.of(b"".join(rows))


Decoder: TypeAlias = LineDecoder | StreamDecoder


def decode_tsv(lines: bytes, limit: int) -> Draft:
    """Return rows as they are, checked. Raises `BadInput`, `TooLarge`."""
    _check_text(lines)
    plain = tsv.plain(lines)
    if plain:
        ids, types, _ = plain
        given = list(filter(None, ids))
        if _are_plain(given, list(filter(None, set(types)))) and not _has_long_line(lines, limit):
            newest = tsv.newest_micros(lines) if given else None
            return Draft(lines, len(ids), len(ids) - len(given), newest)
    malformed: list[bytes] = []
    known = set()
    for id, type, data in tsv.split(lines, malformed):
        if id and not _PLAIN_ID(id):
            check_id(id.decode())
        if type not in known:
            check_type(type.decode())
            known.add(type)
        if len(data) > limit:
            raise too_large(limit)
    if malformed:
        raise BadInput("a row is id, TAB, event, TAB, data")
    return Draft.of(lines)


def decode_ndjson(lines: bytes, limit: int) -> Draft:
    """Return the events of lines of JSON; blank lines are none. Raises `BadInput`, `TooLarge`."""
    _check_utf8(lines)
    plain = ndjson.plain(lines)
    if plain and _are_plain(*plain[1:]) and not _has_long_line(lines, limit):
        return plain[0]
    each = [line for line in lines.split(b"\n") if line and not line.isspace()]
    return Draft.of(b"".join([ndjson.decode_row(line, limit) for line in each]))


def decode_each_line(type: bytes, replaces: bool = False) -> DecodeLines:
    """Return the decoder for plain text: each line is the data of an event of this type.

    It raises `TooLarge`, and `BadInput` for what cannot be stored, unless it `replaces` that.
    """
    beginning = tsv.encode(Event(b"", type, b""))[:-1]

    def decode(lines: bytes, limit: int) -> Draft:
        if replaces:
            lines = _replaced(lines)
        _check_text(lines)
        if b"\x0b" in lines:
            raise BadInput("the data holds a VT character")
        if b"\r" in lines:
            lines = lines.replace(b"\r\n", b"\n").replace(b"\r", b"\x0b")
        if _has_long_line(lines, limit):
            raise too_large(limit)
        rows = beginning + lines[:-1].replace(b"\n", b"\n" + beginning) + b"\n"
        events = tsv.count(lines)
        return Draft(rows, events, events)

    return decode


def _replaced(lines: bytes) -> bytes:
    """Return lines with U+FFFD for what is no UTF-8, for NUL and for VT; no line gets shorter."""
    try:
        _check_utf8(lines)
    except BadInput:
        lines = lines.decode(errors="replace").encode()
    return lines.replace(b"\0", REPLACEMENT).replace(b"\x0b", REPLACEMENT)


def _has_long_line(lines: bytes, limit: int) -> bool:
    return len(lines) > limit and max(map(len, lines.split(b"\n"))) > limit


def _are_plain(ids: list[bytes], types: list[bytes]) -> bool:
    """Return whether ids and types are good at a glance; if not, they may be good all the same.

    None is empty.
    """
    good = all(map(_PLAIN_ID, ids))
    return good and all(len(type) <= MAX_TYPE_BYTES and _PLAIN_ID(type) for type in types)


def _check_text(lines: bytes) -> None:
    _check_utf8(lines)
    if b"\0" in lines:
        raise BadInput("the data holds a NUL character")


def _check_utf8(text: bytes) -> None:
    if not text.isascii():
        _text(text)


def _text(text: bytes) -> str:
    try:
        return text.decode()
    except ValueError:
        raise BadInput("not valid UTF-8") from None
