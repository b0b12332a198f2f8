"""Rows -> JSON, and lines of JSON -> rows. Pure.

    {"id":"2017-04-05T11:40:10.793000Z","event":"deploy","data":"…"}

One object a line, every key always there, data always a string: so what was sent comes
back, and `jq -r .data` works. What publishers send is read kindly: keys may be missing, other
keys are ignored, and data that is not a string is kept as its JSON text.

In rows that others wrote, what is not UTF-8 becomes U+FFFD: JSON cannot hold it.
"""

import json
import re

import orjson

from esource.errors import BadInput
from esource.event import check_data, check_id, check_type
from esource.rows import tsv

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n,]*")
_COLON = re.compile(r"[ \t\r\n]*:[ \t\r\n]*")


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


def decode_row(line: bytes, limit: int) -> bytes:
    """Return the row of one line; without `id` its id is empty. Raises `BadInput`, `TooLarge`.

    `limit` is in bytes of the event's data.
    """
    try:
        fields = orjson.loads(line)
    except ValueError as error:
        raise BadInput(f"not JSON: {error}") from None
    if type(fields) is not dict:
        raise BadInput('not an object with "id", "event" and "data"')
    id, event, data = fields.get("id", ""), fields.get("event", ""), fields.get("data", "")
    if type(id) is not str or type(event) is not str:
        raise BadInput('"id" and "event" must be strings')
    text = data.encode() if type(data) is str else _text_of_data(line)
    if len(text) > limit:
        raise tsv.too_large(limit)
    if b"\\" in line:  # else there is no line break in it, and nothing that is not allowed
        text = check_data(text).replace(b"\n", b"\x0b")
    return tsv.ROW % (check_id(id), check_type(event), text)


def _text_of_data(line: bytes) -> bytes:
    """Return the JSON text of an object's data, as it stands there: no digit of it is lost."""
    text = line.decode()
    try:
        end = text.index("{") + 1
        found = "null"
        while True:
            end = _SPACE.match(text, end).end()  # type: ignore[union-attr]
            if text[end] == "}":
                return found.encode()
            key, end = _DECODER.raw_decode(text, end)
            start = _COLON.match(text, end).end()  # type: ignore[union-attr]
            _, end = _DECODER.raw_decode(text, start)
            if key == "data":
                found = text[start:end]
    except (ValueError, RecursionError):
        raise BadInput("data that is nested too deeply, or no JSON") from None
