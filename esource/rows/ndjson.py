"""Rows -> JSON, and lines of JSON -> rows. Pure.

    {"id":"2017-04-05T11:40:10.793000Z","event":"deploy","data":"…"}

One object a line, every key always there, data always a string: so what was sent comes
back, and `jq -r .data` works. Publishers may leave out `id` and `event`, and send an id that is
null or a whole number. Data that is not a string is kept as its JSON text. Nothing is lost in
silence: there must be `data`, and no other key. (Of a key that is there twice the last one counts.)

In rows that others wrote, what is not UTF-8 becomes U+FFFD: JSON cannot hold it.
"""

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec
import orjson

from esource.errors import BadInput
from esource.event import MAX_ID_BYTES, check_data, check_id, check_type
from esource.rows import tsv
from esource.rows.tsv import Draft

# The most that JSON takes for a byte, by an escape: a control character.
ESCAPE_BYTES = 6
QUOTE = ord('"')
# Of lines, from which on it is worth to look whether they are alike: bytes, and how many, about.
ALIKE_BYTES, ALIKE_LINES = 1 << 12, 8
AROUND_BYTES = 1024  # of a line beside its data, so that what is remembered is small
NULL = msgspec.Raw(b"null")
SHAPE = 'a line is {"id":…,"event":…,"data":…}, or use each=line'
_CLEARER = {
    "Input data was truncated": "it ends too early, or holds half of a surrogate pair",
    "maximum recursion depth exceeded while deserializing an object": "nested too deeply",
}


class _Line(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    # Raw JSON is checked, but no objects are made of it: 2 ms for a MiB, and not 56.
    data: msgspec.Raw
    id: msgspec.Raw = NULL
    event: str = ""


class _PlainLine(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    data: str
    id: str | None = None
    event: str = ""


_LINE = msgspec.json.Decoder(_Line)
_PLAIN_LINE = msgspec.json.Decoder(_PlainLine)
_TEXT = msgspec.json.Decoder(str)


def encode(rows: bytes, malformed: list[bytes]) -> bytes:
    """Return one line of JSON for each event of whole rows; see `tsv.split` for other rows."""
    return b"".join([orjson.dumps(fields) + b"\n" for fields in _objects(rows, malformed)])


def encode_elements(rows: bytes, malformed: list[bytes]) -> bytes:
    """Return the events of whole rows as elements of a JSON array, each after a comma and LF."""
    return b"".join([b",\n" + orjson.dumps(fields) for fields in _objects(rows, malformed)])


def encode_frames(rows: bytes, malformed: list[bytes]) -> bytes:
    """Return the frames of an event stream without types: the data is the event's line of JSON."""
    frames = []
    for fields in _objects(rows, malformed):
        id = fields["id"].replace("\r", " ")  # from elsewhere: it must not break out of its field
        id_line = f"id: {id}\n".encode() if id else b""
        frames.append(b"%bdata: %b\n\n" % (id_line, orjson.dumps(fields)))
    return b"".join(frames)


def _objects(rows: bytes, malformed: list[bytes]) -> list[dict[str, str]]:
    """Return the object of each event of whole rows; other rows go to `malformed`."""
    # One pass over the whole is several times faster than one over each field.
    text = rows.decode(errors="replace")
    others: list[str] = []
    each = tsv.split(text, others)
    if "\x0b" in text or "\r" in text:
        each = ([id, type, tsv.unfold(data.encode()).decode()] for id, type, data in each)
    objects = [{"id": id, "event": type, "data": data} for id, type, data in each]
    malformed += map(str.encode, others)
    return objects


def encode_of(channel: str, cursor: str, fields: Sequence[bytes]) -> bytes:
    """Return an event as an object of a stream of several channels, without a line end.

    Its `id` is where a reader of them goes on behind it.
    """
    id, type, data = (
        field.decode(errors="replace") for field in (*fields[:2], tsv.unfold(fields[2]))
    )
    event = {"channel": channel, "id": cursor, "event_id": id, "event": type, "data": data}
    return orjson.dumps(event)


def plain(lines: bytes) -> tuple[Draft, list[bytes], list[bytes]] | None:
    """Return the rows of valid UTF-8, and their ids and types to be looked at, if all are plain.

    Those that are empty are left out, and a type that many have is there once. A plain line begins
    with its object, has no escape in it, and its data is text: so it has no control character
    either. A tenth of the time of `decode_row`, and where lines differ in their data alone, half of
    that.
    """
    if b"\\" in lines or lines[:1] != b"{":
        return None
    return _plain_alike(lines) or _plain_each(lines)


def _plain_alike(lines: bytes) -> tuple[Draft, list[bytes], list[bytes]] | None:
    """Return the same, if all lines differ in their data alone, and have no id."""
    first = lines[: lines.index(b"\n")]
    if len(lines) < ALIKE_BYTES or len(lines) < ALIKE_LINES * len(first):
        return None
    try:
        data = _PLAIN_LINE.decode(first).data.encode()
    except msgspec.DecodeError:
        return None
    start = first.rfind(b'"%b"' % data) + 1
    before, after = first[:start], first[start + len(data) :]
    type = _type_around(before, after) if len(before) + len(after) < AROUND_BYTES else None
    second, last = len(first) + 1, lines.rfind(b"\n", 0, -1) + 1
    are_alike = lines.startswith(before, second) and lines.startswith(before, last)
    if type is None or not (are_alike and lines.endswith(after + b"\n")):
        return None
    texts = lines[len(before) : -len(after) - 1].split(after + b"\n" + before)
    try:
        # All as one: there is no quote in it, and no control character, not even a line end.
        _TEXT.decode(b'"%b"' % b"".join(texts))
    except msgspec.DecodeError:
        return None
    beginning = b"\t%b\t" % type
    rows = beginning + (b"\n" + beginning).join(texts) + b"\n"
    return Draft(rows, len(texts), len(texts)), [], [type] if type else []


@lru_cache(maxsize=64)
def _type_around(before: bytes, after: bytes) -> bytes | None:
    """Return the type of each line that is text between these; None if that is not its data.

    Or if it has an id. The text has no quote and no escape in it.
    """
    try:
        one, other = (_PLAIN_LINE.decode(before + text + after) for text in (b"1", b"2"))
    except msgspec.DecodeError:
        return None
    return one.event.encode() if (one.data, other.data, one.id or "") == ("1", "2", "") else None


def _plain_each(lines: bytes) -> tuple[Draft, list[bytes], list[bytes]] | None:
    count = tsv.count(lines)
    # An object may not go on in the next line: a `{` at the beginning of each begins one, since
    # there is no LF in a text, and no object in this one. So there is one in each, or too many.
    # Most begin with the same key, and a long text is counted several times faster.
    alike = b"\n" + lines[: lines.find(b":")]
    if lines.count(alike) != count - 1 and lines.count(b"\n{") != count - 1:
        return None
    try:
        each = _PLAIN_LINE.decode_lines(lines)
    except msgspec.DecodeError:
        return None
    if len(each) != count:
        return None
    data = [fields.data for fields in each]
    types = {fields.event for fields in each}
    ids = [fields.id or "" for fields in each]
    if len(types) == 1 and not any(ids):
        beginning = f"\t{next(iter(types))}\t"
        rows = beginning + ("\n" + beginning).join(data) + "\n"
        return Draft(rows.encode(), count, count), [], _encoded(types)
    rows = tsv.join(ids, [fields.event for fields in each], data)
    return Draft.of(rows.encode()), _encoded(ids), _encoded(types)


def _encoded(texts: Iterable[str]) -> list[bytes]:
    return [text.encode() for text in texts if text]


def decode_row(line: bytes, limit: int) -> bytes:
    """Return the row of one line of valid UTF-8; without `id` its id is empty.

    `limit` is in bytes of the event's data. Raises `BadInput`, `TooLarge`.
    """
    is_plain = b"\\" not in line  # so there is no line break in it, and nothing forbidden
    try:
        fields = _LINE.decode(line)
        id, data = "" if fields.id is NULL else _id(fields.id), bytes(fields.data)
        if data[0] == QUOTE:
            data = data[1:-1] if is_plain else _TEXT.decode(data).encode()
        elif b"\r" in data:  # between the values
            is_plain = False
    except msgspec.ValidationError as error:
        raise BadInput(_explained(str(error))) from None
    except (msgspec.DecodeError, RecursionError) as error:
        text = str(error).removeprefix("JSON is malformed: ")
        raise BadInput(f"not JSON: {_CLEARER.get(text, text)}") from None
    if len(data) > limit:
        raise tsv.too_large(limit)
    if not is_plain:
        data = check_data(data).replace(b"\n", b"\x0b")
    return tsv.ROW % (check_id(id), check_type(fields.event), data)


def _id(raw: msgspec.Raw) -> str:
    """Return an id from its JSON, which is valid."""
    value = bytes(raw)
    if value == b"null":
        return ""
    if len(value) > MAX_ID_BYTES * ESCAPE_BYTES + 2:
        raise BadInput(f"id is over the limit of {MAX_ID_BYTES} bytes")
    if value.startswith(b'"'):
        return _TEXT.decode(value)
    if not value.removeprefix(b"-").isdigit():
        raise BadInput('"id" must be a string, a whole number or null')
    return value.decode()


def _explained(error: str) -> str:
    """Return in one line for a person what msgspec says of JSON that is no event."""
    unknown = re.match("Object contains unknown field `(.{0,40})", error, re.DOTALL)
    if unknown:
        return f"unknown key {json.dumps(unknown[1].removesuffix('`'))}; {SHAPE}"
    if "missing" in error:
        return f'no "data"; {SHAPE}'
    return '"event" must be a string' if "$.event" in error else f"not an object; {SHAPE}"
