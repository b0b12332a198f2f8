"""Rows -> event stream, and event stream -> events (WHATWG HTML 9.2). Pure.

A frame is `event:` (left out if empty), `id:` (left out if empty: an empty one makes
clients forget their place), one `data:` line for each line of data, and a blank line.
The order is for people: they read the type first; to parsers all orders are alike.
"""

import re
from collections.abc import Iterator

from esource.event import Event
from esource.rows import tsv
from esource.rows.tsv import Draft

# A comment line without a blank line after it: a blank line is a phantom event to some clients.
HEARTBEAT = b":\n"
# Looked for at the beginning of a line alone: anywhere in it, a line would take its length squared.
_PLAIN_FRAME = re.compile(
    rb"^(?:event: ([^\n]+)\n)?(?:id: ([^\n]+)\n)?data: ([^\n]*)\n\n", re.MULTILINE
)
# What a frame without an id begins with, up to its data; the group is the type.
_ALIKE = re.compile(rb"(?:event: ([^\n]+)\n)?data: ")


def retry(milliseconds: int) -> bytes:
    """Return the line that tells a client when to come back.

    It counts as soon as it is read, so no blank line follows: for some clients a block
    without data is a phantom event.
    """
    return b"retry: %d\n" % milliseconds


def prime(place: bytes) -> bytes:
    """Return the block that tells a client where it stands: it comes back with this as its id.

    To a parser that follows the standard it is no event, and to others an empty one.
    """
    return b"id: %b\n\n" % place


def encode(rows: bytes, malformed: list[bytes]) -> bytes:
    """Return the frames of whole rows, LF-terminated.

    Rows that are not events go to `malformed`, without their LF.
    """
    return _encode_plain(rows) or _encode_any(rows, malformed)


def _encode_plain(rows: bytes) -> bytes:
    """Return the frames of rows that are all plain and have an id; nothing if they are not."""
    if not tsv.are_plain(rows):
        return b""
    return _encode_alike(rows) or _encode_each(rows)


def _encode_alike(rows: bytes) -> bytes:
    """Return the frames of plain rows, if it is seen that all have an id and are of one type."""
    found = tsv.alike(rows, lambda type: b"\n\n" + _before_id(type))
    if not found:
        return b""
    type, pieces = found
    pieces[0] = _before_id(type) + pieces[0]
    pieces[-1] = pieces[-1].removesuffix(_before_id(type))
    return b"\ndata: ".join(pieces)


def _encode_each(rows: bytes) -> bytes:
    """Return the frames of plain rows that all have an id; else nothing."""
    ids, types, data = tsv.columns(rows, end=b"\n\n")
    if not all(ids):
        return b""
    frames = [b"id: ", b"", b"\ndata: ", b""] * len(ids)
    if any(types):
        frames[::4] = [b"event: %b\nid: " % type if type else b"id: " for type in types]
    frames[1::4] = ids
    frames[3::4] = data
    return b"".join(frames)


def _before_id(type: bytes) -> bytes:
    """Return what a frame of this type begins with, up to its id."""
    return b"event: %b\nid: " % type if type else b"id: "


def _encode_any(rows: bytes, malformed: list[bytes]) -> bytes:
    # Latin-1 is bytes as characters: text is put together faster than bytes are.
    text = rows.decode("latin-1")
    is_foreign = "\r" in text
    frames = []
    others: list[str] = []
    for id, type, data in tsv.split(text, others):
        if is_foreign:  # a CR must not break out of its field
            id, type = id.replace("\r", " "), type.replace("\r", " ")
            data = tsv.unfold(data.encode("latin-1")).decode("latin-1").replace("\n", "\x0b")
        event_line = f"event: {type}\n" if type else ""
        id_line = f"id: {id}\n" if id else ""
        data = data.replace("\x0b", "\ndata: ")
        frames.append(f"{event_line}{id_line}data: {data}\n\n")
    malformed += [row.encode("latin-1") for row in others]
    return "".join(frames).encode("latin-1")


def plain(frames: bytes) -> tuple[Draft, list[bytes], list[bytes]] | None:
    """Return the rows of whole frames, and their ids and types to be looked at, if all are plain.

    Those that are empty are left out. A plain frame is written as `encode` writes it, and its data
    is one line. A tenth of the time that it takes a `Decoder`, and where frames have no id and are
    of one type, a third of that.
    """
    if b"\r" in frames or b"\0" in frames or b"\x0b" in frames:
        return None
    return _plain_alike(frames) or _plain_each(frames)


def _plain_alike(frames: bytes) -> tuple[Draft, list[bytes], list[bytes]] | None:
    """Return the same, if all frames begin alike: with the type, if any, and the name of data."""
    found = _ALIKE.match(frames)
    if not found or not frames.endswith(b"\n\n"):
        return None
    row = b"\t%b\t" % (found[1] or b"")
    between, instead = b"\n\n" + found[0], b"\n" + row
    data = frames[found.end() : -2]
    rows = data.replace(between, instead)
    replaced = (len(data) - len(rows)) // (len(between) - len(instead))
    if tsv.count(rows) != replaced:  # there are other lines
        return None
    count = replaced + 1
    return Draft(row + rows + b"\n", count, count), [], [found[1]] if found[1] else []


def _plain_each(frames: bytes) -> tuple[Draft, list[bytes], list[bytes]] | None:
    found = _PLAIN_FRAME.findall(frames)
    if not found:
        return None
    types, ids, data = map(list, zip(*found, strict=True))
    has_id, has_type = len(ids) - ids.count(b""), len(types) - types.count(b"")
    structure = has_type * len("event: \n") + has_id * len("id: \n") + len(data) * len("data: \n\n")
    texts = sum(map(len, types)) + sum(map(len, ids)) + sum(map(len, data))
    if structure + texts != len(frames):  # something is in between
        return None
    rows = tsv.join(ids, types, data)
    return Draft.of(rows), list(filter(None, ids)), list(filter(None, set(types)))


class Decoder:
    """Event stream -> events, fed in pieces of any size, by the rules of WHATWG HTML 9.2.6.

    But for one of them: an id belongs to the frame that it stands in, and the event of a frame
    without id has an empty one. (A browser repeats the last id; a hub, which stores it, must not.)
    """

    def __init__(self) -> None:
        self.line = 0  # how many lines have ended
        self.pending = 0  # bytes that are kept for an event that is not complete
        self.last_id = b""  # of the last block that has one, with an event or without: the cursor
        self.retry: int | None = None  # milliseconds, as the stream last said
        self._rest = bytearray()  # of a line that has not ended
        self._started = False
        self._id = self._type = b""
        self._data = bytearray()  # lines, each with its LF

    def feed(self, piece: bytes) -> list[Event]:
        """Return the events that `piece` completes. What is incomplete is kept for later."""
        return list(self.events(piece))

    def events(self, piece: bytes) -> Iterator[Event]:
        """Yield the events that `piece` completes; `line` is then the number of their last line."""
        waiting = self._rest.endswith(b"\r")
        self._rest += piece
        if self._started and not waiting and b"\n" not in piece and b"\r" not in piece:
            self.pending += len(piece)  # not looked at again for each piece: it may be long
            return
        text = bytes(self._rest)
        if not self._started:
            if tsv.BOM.startswith(text):  # too short to tell a byte order mark
                return
            self._started = True
            text = text.removeprefix(tsv.BOM)
        # A CR at the very end may be half of a CRLF: it waits for the next piece.
        half = b"\r" if text.endswith(b"\r") else b""
        if half or b"\r" in text:  # `re.split` would take 20 ms for a line of a MiB
            text = text.removesuffix(half).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = text.split(b"\n")
        self._rest = bytearray(lines.pop() + half)
        for line in lines:
            self.line += 1
            if not line:
                id, type, data = self._id, self._type, self._data
                self.last_id = id or self.last_id
                self._id = self._type = b""
                if data:
                    self._data = bytearray()
                    yield Event(id, type, bytes(data[:-1]))
                continue
            name, _, value = line.partition(b":")
            if value.startswith(b" "):
                value = value[1:]
            if name == b"data":
                self._data += value
                self._data += b"\n"
            elif name == b"event":
                self._type = value
            elif name == b"id" and b"\0" not in value:
                self._id = value
            elif name == b"retry" and value.isdigit():
                self.retry = int(value)
            # comments and unknown fields are no part of an event
        self.pending = len(self._rest) + len(self._data) + len(self._id) + len(self._type)

    def end(self) -> Iterator[Event]:
        """Yield the event that a CR at the very end completes; count a line that has no end."""
        return self.events(b"\n") if self._rest else iter(())

    @property
    def is_between_frames(self) -> bool:
        """Whether nothing is kept: what is fed next begins a frame, and not the stream."""
        return self._started and not (self._rest or self._data or self._id or self._type)

    @property
    def is_inside_an_event(self) -> bool:
        """Whether there is data that no blank line has ended; to be asked after `end`."""
        return bool(self._data)
