"""Rows -> JSON, and lines of JSON -> rows. Pure.

    {"id":"2017-04-05T11:40:10.793000Z","event":"deploy","data":"…"}

One object a line, every key always there, data always a string: so what was sent comes
back, and `jq -r .data` works. Read kindly: keys may be missing, other keys are ignored,
and data that is not a string is kept as its JSON text.
"""

import orjson

from esource import tsv
from esource.errors import BadInput
from esource.event import Event, check_data, check_id, check_type


def encode(rows: bytes, malformed: list[bytes]) -> bytes:
    """Return one line of JSON for each event of whole rows."""
    return b"".join([line + b"\n" for line in _objects(rows, malformed)])


def encode_elements(rows: bytes, malformed: list[bytes]) -> bytes:
    """Return the elements of a JSON array, each after a comma."""
    return b"".join([b",\n" + line for line in _objects(rows, malformed)])


def _objects(rows: bytes, malformed: list[bytes]) -> list[bytes]:
    objects = []
    # Not `decode(errors=…)` on a field each: one pass over the whole is several times faster.
    text = rows.decode(errors="replace")
    slow = "\r" in text
    for row in text.split("\n")[:-1]:
        try:
            id, type, data = row.split("\t", 2)
        except ValueError:
            malformed.append(row.encode())
            continue
        if slow:
            data = tsv.unfold(data.encode()).decode()
        elif "\x0b" in data:
            data = data.replace("\x0b", "\n")
        objects.append(orjson.dumps({"id": id, "event": type, "data": data}))
    return objects


def decode_line(line: bytes) -> Event:
    """Return the event of one line; an `id` that is missing is empty. Raises `BadInput`."""
    try:
        fields = orjson.loads(line)
    except ValueError as error:
        raise BadInput(f"not JSON: {error}") from None
    if type(fields) is not dict:
        raise BadInput('not an object with "id", "event" and "data"')
    id, event, data = fields.get("id", ""), fields.get("event", ""), fields.get("data", "")
    if type(id) is not str or type(event) is not str:
        raise BadInput('"id" and "event" must be strings')
    text = data.encode() if type(data) is str else orjson.dumps(data)
    return Event(check_id(id), check_type(event), check_data(text))
