"""The formats of a read, by name and by media type. Pure.

What the hub emits, it accepts: TSV, event streams and NDJSON, byte for byte. JSON is the
same objects as NDJSON in one array, and raw is the data alone, for people and pipes.

An event stream of such objects (`sse-json`) is for pages. A browser's `EventSource` loses events
of the types that the page did not name beforehand; so here a frame has no type, but its data has.
"""

from typing import NamedTuple

from esource.rows import ndjson, sse, tsv


class Format(NamedTuple):
    """How a stream of rows is written."""

    name: str
    content_type: str
    encode: tsv.Encode
    head: bytes = b""  # before everything
    separator: bytes = b""  # before each event, but not the first
    end: bytes = b""  # after everything
    heartbeat: bytes = b""  # what can be sent while there are no events; only asked for in NDJSON


TSV = Format("tsv", "text/tab-separated-values; charset=utf-8", lambda rows, malformed: rows)
SSE = Format(
    "sse", "text/event-stream; charset=utf-8", sse.encode, head=sse.HEARTBEAT,
    heartbeat=sse.HEARTBEAT,
)  # fmt: skip
NDJSON = Format("ndjson", "application/x-ndjson", ndjson.encode, heartbeat=b"\n")
JSON = Format(
    "json", "application/json", ndjson.encode_elements, head=b"[", separator=b",", end=b"\n]\n"
)
SSE_JSON = Format(
    "sse-json", SSE.content_type, ndjson.encode_frames, head=sse.HEARTBEAT,
    heartbeat=sse.HEARTBEAT,
)  # fmt: skip
RAW = Format("raw", "text/plain; charset=utf-8", tsv.encode_raw)

FORMATS = {format.name: format for format in (TSV, SSE, SSE_JSON, NDJSON, JSON, RAW)}
MEDIA_TYPES = {
    format.content_type.partition(";")[0]: format for format in (TSV, SSE, NDJSON, JSON, RAW)
}
# None is registered, and all are in use.
MEDIA_TYPES |= dict.fromkeys(
    ("application/ndjson", "application/jsonl", "application/x-jsonlines"), NDJSON
)
EVENT_STREAMS = (SSE, SSE_JSON)
