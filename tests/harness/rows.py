"""What tests know of rows: awkward data, what it becomes, and the book of what is in a file."""

from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

from esource.rows import ndjson, sse, tsv
from tests.harness.hub import Hub

AWKWARD = [
    "plain",
    "",
    "tab\tseparated\tfields",
    "  edge spaces  ",
    ": a colon first",
    "line one\nline two\n\nline four",
    "dos\r\nlines",
    "old mac\rlines",
    "paragraph\u2028separator\u2029and\u0085next line",
    "emoji 🛩️ and umlauts äöü",
    '{"text": "escaped \\n and \\" inside", "n": [1, 2]}',
    "data: looks like a field\nid: 7\n\nevent: x",
    "\ufeffbyte order mark",
    "ends with a space \n and a line",
    "x" * (1 << 20),
]
ENCODE: dict[str, Callable[[bytes, list[bytes]], bytes]] = {
    "sse": sse.encode,
    "ndjson": ndjson.encode,
    "raw": tsv.encode_raw,
    "tsv": lambda rows, malformed: rows,
}


def kept(data: str) -> str:
    """Return data as every reader must see it: line breaks as LF, and none at the end."""
    data = data.replace("\r\n", "\n").replace("\r", "\n")
    return data[:-1] if data.endswith("\n") else data


def encoded(hub: Hub, channel: str, format: str, start: int = 0) -> bytes:
    """Return what a reader must get of a channel, from an offset to its end."""
    malformed: list[bytes] = []
    text = ENCODE[format](hub.content(channel)[start:], malformed)
    assert not malformed
    return text


def rows_of(path: Path) -> list[bytes]:
    """Return the whole rows of a file."""
    return path.read_bytes().split(b"\n")[:-1]


def ids_of(rows: Iterable[bytes]) -> list[str]:
    """Return the ids of rows."""
    return [row.split(b"\t")[0].decode() for row in rows]


def numbers(rows: list[bytes], name: str) -> list[int]:
    """Return the numbers of a publisher's events among rows, in order."""
    beginning = name.encode() + b" "
    found = []
    for row in rows:
        data = row.split(b"\t", 2)[2]
        if data.startswith(beginning):
            found.append(int(data.split(b" ")[1]))
    return found


def increases(values: list[int]) -> bool:
    """Return whether each value is greater than the one before."""
    return all(a < b for a, b in pairwise(values))
