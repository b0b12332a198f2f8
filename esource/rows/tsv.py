"""The grammar of a channel file, and rows <-> events. The one room that knows of the two tabs.

    file  = [BOM] *row                     ; a byte order mark is no part of the first row
    row   = id TAB event TAB data LF        ; UTF-8
    id    = *<any byte but TAB, LF>         ; the hub writes no control characters, and no empty id
    event = *<any byte but TAB, LF>         ; may be empty
    data  = *<any byte but LF>              ; everything after the second tab, tabs included

A line break inside data is VT (0x0B), the in-field line break of tab-separated
exports. So a row is one line for `grep`, `cut`, `awk`, `wc -l` and Python's
`for line in file`, and single-line data stands in the file byte for byte.

Rows that others wrote are read kindly: a CR in data is a line break, a CR at the
row's end is nothing (a file with CRLF line ends), an id may be missing. A row with
fewer than two tabs is not an event.

What this format cannot do: there is no checksum, so a flipped bit goes unseen; there
is no index, so finding an id is a search; NUL and VT cannot be stored; which of CRLF,
CR and LF a publisher used is forgotten.
"""

import re
from collections.abc import Callable, Iterator
from io import BytesIO
from operator import itemgetter
from typing import AnyStr, NamedTuple

from esource.errors import TooLarge
from esource.event import DEFAULT_ID_BYTES, Event, default_id, micros_of

# Encodes whole rows, and puts those that are not events into the list, without their LF.
Encode = Callable[[bytes, list[bytes]], bytes]

# To be filled with id, event and data, where an `Event` in between would take too long.
ROW = b"%b\t%b\t%b\n"
BOM = "\ufeff".encode()  # as some editors put it at the beginning of a file
# What each row begins with that is an event; the group is its id.
BEGINNING = re.compile(rb"^([^\t\n]*)\t[^\t\n]*\t", re.MULTILINE)
# What a default id ends with, for each microsecond of a millisecond.
_MICROS = [b"%03dZ" % n for n in range(1000)]
ALIKE_BYTES = 1 << 14  # of rows, from which on it is worth to know that they are alike
SAMPLE_BYTES = 1024  # of rows, of which one sees whether the others may be like them
# Every byte but those that structure a row or break a line.
_TEXT = bytes(set(range(256)) - set(b"\t\n\x0b\r"))


class Draft(NamedTuple):
    """Whole rows, checked and LF-terminated, of which some may still lack an id."""

    rows: bytes
    events: int  # how many rows there are
    without_id: int  # how many of them lack an id
    newest_micros: int | None = None  # the greatest time of a default id among the others

    @classmethod
    def of(cls, rows: bytes) -> "Draft":
        """Return checked rows, and what there is to know of them."""
        events = count(rows)
        without_id = rows.count(b"\n\t") + rows.startswith(b"\t")
        return cls(rows, events, without_id, newest_micros(rows) if without_id < events else None)

    @property
    def size(self) -> int:
        """How many bytes the rows are once each has its id."""
        return len(self.rows) + self.without_id * DEFAULT_ID_BYTES


class Gathering:
    """Drafts that become one, so that a thousand small ones do not cost a thousand times theirs."""

    def __init__(self) -> None:
        self._rows = bytearray()
        self._events = self._without_id = 0
        self._newest: int | None = None
        self.size = 0  # as that of a draft

    def add(self, draft: Draft) -> None:
        """Put the rows of a draft behind the others."""
        self._rows += draft.rows
        self._events += draft.events
        self._without_id += draft.without_id
        self.size += draft.size
        newest = draft.newest_micros
        if newest is not None and (self._newest is None or newest > self._newest):
            self._newest = newest

    def draft(self) -> Draft:
        """Return all of them as one."""
        return Draft(bytes(self._rows), self._events, self._without_id, self._newest)


def count(rows: bytes) -> int:
    """Return how many lines end in what is given, and so how many rows.

    To double each LF takes half the time of `bytes.count`, which looks at each byte by itself, for
    rows of 100 bytes; a fourth for 1000.
    """
    return len(rows.replace(b"\n", b"\n\n")) - len(rows)


# -- events -> rows ------------------------------------------------------------------------


def encode(event: Event) -> bytes:
    """Return one LF-terminated row."""
    data = event.data
    if b"\n" in data:
        data = data.replace(b"\n", b"\x0b")
    return ROW % (event.id, event.type, data)


def draft(event: Event) -> Draft:
    """Return an event as a row to append; its id may be empty."""
    return Draft(encode(event), 1, not event.id, micros_of(event.id) if event.id else None)


def stamp(draft: Draft, micros: int) -> bytes:
    """Return the rows with an id each: those without get default ids, one microsecond apart.

    The first is that of `micros`, in microseconds since 1970.
    """
    if not draft.without_id:
        return draft.rows
    if draft.events == 1:
        return default_id(micros) + draft.rows
    each = each_of(draft.rows)
    if draft.without_id == draft.events:
        return b"".join(_stamped(each, micros))
    stamped = []
    for row in each:
        if row.startswith(b"\t"):
            stamped.append(default_id(micros))
            micros += 1
        stamped.append(row)
    return b"".join(stamped)


def _stamped(each: list[bytes], micros: int) -> Iterator[bytes]:
    """Yield the rows of each millisecond; all lack an id.

    Almost nothing here is done row by row, so it takes a third of the time.
    """
    start = 0
    while start < len(each):
        to_the_milli, of_it = default_id(micros)[: -len(_MICROS[0])], micros % 1000
        stop = start + 1000 - of_it
        rows = each[start:stop]
        fields = [to_the_milli, b"", b""] * len(rows)
        fields[1::3], fields[2::3] = _MICROS[of_it : of_it + len(rows)], rows
        yield b"".join(fields)
        start, micros = stop, micros + len(rows)


def too_large(limit: int) -> TooLarge:
    """Return what is to be raised for data over a limit, in bytes."""
    return TooLarge(f"an event over the limit of {limit} bytes")


# -- rows -> fields ------------------------------------------------------------------------


def each_of(rows: bytes) -> list[bytes]:
    """Return each of whole rows, with its LF: half the time of `bytes.split`."""
    return BytesIO(rows).readlines()


def is_event(row: bytes) -> bool:
    """Return whether a row, with or without its LF, is an event."""
    return row.count(b"\t") >= 2


def id_of(row: bytes) -> bytes:
    """Return the id of an event's row."""
    return row[: row.index(b"\t")]


def type_of(row: bytes) -> bytes:
    """Return the type of an event's row."""
    return row.split(b"\t", 2)[1]


def split(rows: AnyStr, malformed: list[AnyStr]) -> Iterator[list[AnyStr]]:
    """Yield the fields of each event in whole rows: id, event, and data as it stands there.

    Rows that are not events go to `malformed`, without their LF. Takes text as well: some
    formats are put together faster of characters than of bytes.
    """
    lf, tab = ("\n", "\t") if isinstance(rows, str) else (b"\n", b"\t")
    for row in rows.split(lf)[:-1]:
        fields = row.split(tab, 2)
        if len(fields) == 3:
            yield fields
        else:
            malformed.append(row)


def placed(rows: bytes) -> Iterator[tuple[list[bytes], int]]:
    """Yield (the fields of an event, the offset right behind it) for each event in whole rows."""
    end = 0
    for row in rows.split(b"\n")[:-1]:
        end += len(row) + 1
        fields = row.split(b"\t", 2)
        if len(fields) == 3:
            yield fields, end


def plain(rows: bytes, end: bytes = b"") -> tuple[list[bytes], list[bytes], list[bytes]] | None:
    """Return all ids, all types, all data with `end` after each, if every row is plain.

    A plain row has no third tab, no VT and no CR: its data is one line, as the event's. Almost
    nothing here is done row by row, so it takes half the time of `split`.
    """
    return columns(rows, end) if are_plain(rows) else None


def are_plain(rows: bytes) -> bool:
    """Return whether all rows are plain (see `plain`)."""
    if b"\x0b" in rows:
        return False
    structure = rows.translate(None, _TEXT)
    return structure == b"\t\t\n" * (len(structure) // 3)


def columns(rows: bytes, end: bytes = b"") -> tuple[list[bytes], list[bytes], list[bytes]]:
    """Return all ids, all types, all data with `end` after each, of plain rows."""
    fields = rows.replace(b"\n", end + b"\t").split(b"\t")[:-1]
    return fields[::3], fields[1::3], fields[2::3]


def alike(
    rows: bytes, end_of: Callable[[bytes], bytes]
) -> tuple[bytes, list[bytes]] | None:  # fmt: skip
    """Return (the type of plain rows, what is around it), if each has an id and all the same type.

    Around it is the first id; the data, with `end_of` the type behind it, and the id of the next
    row, as one; and the last data with that end. May be None all the same: of few rows, for which
    it is not worth it, or if an id ends as such an end does.
    """
    if len(rows) < ALIKE_BYTES or rows.startswith(b"\t"):
        return None
    first = rows[: rows.find(b"\n", SAMPLE_BYTES) + 1]
    last = rows[rows.find(b"\n", -SAMPLE_BYTES) + 1 :]
    types = {*first.split(b"\t")[1::2], *last.split(b"\t")[1::2]}
    if len(types) != 1:
        return None
    type = types.pop()
    end = end_of(type)
    fields = rows.replace(b"\n", end).split(b"\t")
    pieces = fields[::2]
    if fields[1::2].count(type) < len(pieces) - 1:
        return None
    if end[-1] in map(itemgetter(-1), pieces[1:-1]):  # there may be no id behind it
        return None
    return type, pieces


def join(ids: list[AnyStr], types: list[AnyStr], data: list[AnyStr]) -> AnyStr:
    """Return rows of as many ids, types and data; data is one line each. The reverse of `plain`.

    At least one; of text the rows are text.
    """
    nothing, tab, lf = ("", "\t", "\n") if isinstance(data[0], str) else (b"", b"\t", b"\n")
    fields = [nothing, tab, nothing, tab, nothing, lf] * len(ids)
    fields[::6], fields[2::6], fields[4::6] = ids, types, data
    return nothing.join(fields)


def newest_micros(rows: bytes) -> int | None:
    """Return the greatest time of a default id in rows, in microseconds since 1970."""
    size = DEFAULT_ID_BYTES
    ids = [row[:size] for row in each_of(rows) if row[size - 1 : size + 1] == b"Z\t"]
    # In the order of bytes they are in the order of time, but for those that are no times.
    times = map(micros_of, sorted(ids, reverse=True))
    return next((micros for micros in times if micros is not None), None)


def malformed(rows: bytes) -> Iterator[int]:
    """Yield the offset of each row that is not an event, in whole rows."""
    offset = 0
    for row in rows.split(b"\n")[:-1]:
        if row.count(b"\t") < 2:
            yield offset
        offset += len(row) + 1


def mark_bytes(rows: bytes) -> int:
    """Return how many bytes of a byte order mark are before rows, the first of a file."""
    return len(BOM) if rows.startswith(BOM) else 0


def of_id(rows: bytes, id: bytes) -> Iterator[tuple[int, int]]:
    """Yield (offset, size in bytes) of each event with an id, in whole rows."""
    wanted, found = id + b"\t", 0
    while (found := rows.find(wanted, found)) >= 0:
        end = rows.index(b"\n", found) + 1
        # Elsewhere in a row it is no id; then this row has another one.
        is_first = not found or rows[found - 1 : found] == b"\n"
        if is_first and is_event(rows[found:end]):
            yield found, end - found
        found = end


def erased(id: bytes, size: int) -> bytes:
    """Return the row of an event of which the id is left: it is as long as it was, `size` bytes.

    Its type is `erased`, as far as there is room for that, and its data are spaces.
    """
    room = size - len(ROW % (id, b"", b""))
    type = b"erased"[:room]
    return ROW % (id, type, b" " * (room - len(type)))


# -- rows -> events, and data --------------------------------------------------------------


def decode(rows: bytes) -> Iterator[Event]:
    """Yield the events of whole rows, LF-terminated; rows that are not events are skipped."""
    for id, type, data in split(rows, []):
        yield Event(id, type, unfold(data))


def encode_raw(rows: bytes, malformed: list[bytes]) -> bytes:
    """Return the data of whole rows, each with a line end; line breaks in it are LF."""
    columns = plain(rows, end=b"\n")
    if columns:
        return b"".join(columns[2])
    return b"".join([unfold(data) + b"\n" for _, _, data in split(rows, malformed)])


def unfold(data: bytes) -> bytes:
    """Return the data of a row with LF for line breaks, as an event holds it."""
    if b"\r" in data:
        data = data.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data.replace(b"\x0b", b"\n")


# -- rows -> some of them ------------------------------------------------------------------


def of_types(rows: bytes, types: frozenset[bytes]) -> bytes:
    """Return the rows that are events of one of these types."""
    kept = []
    for row in each_of(rows):
        fields = row.split(b"\t", 2)
        if len(fields) == 3 and fields[1] in types:
            kept.append(row)
    return b"".join(kept)


def types(rows: bytes) -> set[bytes]:
    """Return the types of all events in whole rows, and seldom a text that is none of them.

    (That takes both rows without a tab and rows with four.)
    """
    columns = rows.split(b"\t")
    if len(columns) == 2 * rows.count(b"\n") + 1:  # as many as if each row had two tabs
        found = set(columns[1::2])
        # Then each row begins in a column with an even number, and its type is the next one.
        if not any(b"\n" in column for column in found):
            return found
    each = (row.split(b"\t", 2) for row in rows.split(b"\n"))
    return {fields[1] for fields in each if len(fields) == 3}


def first(rows: bytes, limit: int) -> tuple[bytes, int]:
    """Return the rows up to and with the first `limit` events, and how many events they are."""
    end = count = 0
    while count < limit and end < len(rows):
        start, end = end, rows.index(b"\n", end) + 1
        count += rows.count(b"\t", start, end) >= 2
    return rows[:end], count


def until(rows: bytes, type: bytes) -> tuple[bytes, bool]:
    """Return the rows up to and with the first event of a type, and whether there is one."""
    wanted, start = b"\t%b\t" % type, 0
    while (found := rows.find(wanted, start)) >= 0:
        row = max(rows.rfind(b"\n", start, found) + 1, start)
        end = rows.index(b"\n", found) + 1
        if rows.find(b"\t", row) == found:  # and not somewhere in the data
            return rows[:end], True
        start = end
    return rows, False


def last(rows: bytes, limit: int, types: frozenset[bytes] = frozenset()) -> tuple[int, int]:
    """Return the offset of the last `limit` events in the rows, and how many events they are.

    With `types`, events of other types do not count. If there are fewer, the offset is 0.
    """
    start, count = len(rows), 0
    while count < limit and start > 0:
        end, start = start, rows.rfind(b"\n", 0, start - 1) + 1
        fields = rows[start:end].split(b"\t", 2)
        count += len(fields) == 3 and (not types or fields[1] in types)
    return start, count
