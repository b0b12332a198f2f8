"""The grammar of a channel file, and rows <-> events. Pure: bytes in, bytes out.

    file  = *row
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

from collections.abc import Callable, Iterator
from typing import NamedTuple

from esource.event import DEFAULT_ID_BYTES, Event, default_id, micros_of

# Encodes whole rows, and puts those that are not events into the list, without their LF.
Encode = Callable[[bytes, list[bytes]], bytes]


class Draft(NamedTuple):
    """Whole rows, checked and LF-terminated, of which some may still lack an id."""

    rows: bytes
    events: int  # how many rows there are
    without_id: int  # how many of them lack an id
    newest_micros: int = -1  # the greatest time of a default id among the others; -1 without one


def encode(event: Event) -> bytes:
    """Return one LF-terminated row."""
    data = event.data
    if b"\n" in data:
        data = data.replace(b"\n", b"\x0b")
    return b"%b\t%b\t%b\n" % (event.id, event.type, data)


def stamp(draft: Draft, micros: int) -> bytes:
    """Return the rows with an id each: those without get default ids from a time on."""
    if not draft.without_id:
        return draft.rows
    if draft.events == 1:
        return default_id(micros) + draft.rows
    stamped = []
    for row in draft.rows.split(b"\n")[:-1]:
        if row.startswith(b"\t"):
            stamped.append(b"%b%b\n" % (default_id(micros), row))
            micros += 1
        else:
            stamped.append(row + b"\n")
    return b"".join(stamped)


def draft(event: Event) -> Draft:
    """Return an event as a row to append; its id may be empty."""
    return Draft(encode(event), 1, not event.id, micros_of(event.id) if event.id else -1)


def newest_micros(rows: bytes) -> int:
    """Return the greatest time of a default id in rows, in microseconds; -1 without one."""
    ids = [row.partition(b"\t")[0] for row in rows.split(b"\n")]
    ids = [id for id in ids if len(id) == DEFAULT_ID_BYTES and id.endswith(b"Z")]
    # In the order of bytes they are in the order of time, but for those that are no times.
    return next((micros for id in sorted(ids, reverse=True) if (micros := micros_of(id)) >= 0), -1)


def id_of(row: bytes) -> bytes:
    """Return the id of a row."""
    return row[: row.index(b"\t")]


def decode(rows: bytes) -> Iterator[Event]:
    """Yield the events of whole rows, LF-terminated; rows that are not events are skipped."""
    for row in rows.split(b"\n"):
        fields = row.split(b"\t", 2)
        if len(fields) == 3:
            yield Event(fields[0], fields[1], unfold(fields[2]))


def encode_raw(rows: bytes, malformed: list[bytes]) -> bytes:
    """Return the data of whole rows, each with a line end; line breaks in it are LF."""
    data = []
    for row in rows.split(b"\n")[:-1]:
        fields = row.split(b"\t", 2)
        if len(fields) == 3:
            data.append(unfold(fields[2]) + b"\n")
        else:
            malformed.append(row)
    return b"".join(data)


def malformed(rows: bytes) -> Iterator[int]:
    """Yield the offset of each row that is not an event, in whole rows."""
    offset = 0
    for row in rows.split(b"\n")[:-1]:
        if row.count(b"\t") < 2:
            yield offset
        offset += len(row) + 1


def unfold(data: bytes) -> bytes:
    """Return the data of a row with LF for line breaks, as an event holds it."""
    if b"\r" in data:
        data = data.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data.replace(b"\x0b", b"\n")
