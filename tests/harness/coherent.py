"""Hooks of schemathesis: what OpenAPI cannot say of the hub's requests.

It is loaded by name (`SCHEMATHESIS_HOOKS`) into the process of `schemathesis run` alone.

- A follow never ends by itself, and a `wait` is long. So each is of no time at all: it ends as soon
  as there is nothing more.
- Some parameters only make sense together, or not together. In examples that are meant to be right,
  what does not go with the others is left out.
- The bodies of batches have a grammar.
- What is read should be there: examples that are meant to be right are of one channel, and their
  publishers know no `ETag` by chance.
"""

from typing import Any

import schemathesis
from hypothesis import strategies as st

BATCHES = {
    "text/tab-separated-values": b"%d\t%b\tx y\n",
    "application/x-ndjson": b'{"id":%d,"event":"%b","data":{"x":"y"}}\n',
    "application/ndjson": b'{"id":"%d","event":"%b","data":"x"}\r\n',
    "application/jsonl": b'\n{"data":[%d,"%b"]}\n',
    "application/x-jsonlines": b'{"id":null,"data":%d,"event":"%b"}\n',
    "text/event-stream": b":\nid: %d\nevent: %b\ndata: x\ndata: y\n\n",
}


def batch(row: bytes) -> st.SearchStrategy[bytes]:
    """Return batches of one row or several; some of them are cut off or no UTF-8."""
    rows = st.builds(lambda number, type: row % (number, type), st.integers(0, 99), TYPES)
    return st.builds(b"%b%b".__mod__, st.tuples(st.lists(rows, min_size=1).map(b"".join), ENDS))


TYPES = st.sampled_from([b"", b"a", "größe".encode()])
STREAMS = ("sse", "sse-json")
ENDS = st.sampled_from([b"", b"", b"", b"", b"\xff", b"1\t", b"{"])
for media_type, row in BATCHES.items():
    schemathesis.openapi.media_type(media_type, batch(row))


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Change a case before it is sent."""
    query = case.query or {}
    is_meant = case.meta is not None and case.meta.generation.mode.is_positive
    if is_meant and "channel" in (case.path_parameters or {}):
        case.path_parameters["channel"] = "orders"
        (case.headers or {}).pop("If-Match", None)
    if case.method == "POST":
        if is_meant and ("each" in query or case.media_type in BATCHES):
            query.pop("id", None)
            if "each" not in query:
                query.pop("event", None)
        return
    is_stream = query.get("format") in STREAMS
    follows = query.get("follow", "1" if is_stream else "0") == "1"
    if is_meant:
        for name in ("wait", "before") if follows else ("timeout", "heartbeat", "prime"):
            query.pop(name, None)
        for name in () if is_stream else ("heartbeat", "prime"):
            query.pop(name, None)
        if "before" in query:
            query["before"] = "2100-01-01"
            query.pop("wait", None)
        if "channel" in query:
            query["channel"] = ["orders", "others"]
    if follows and is_number(query.get("timeout", 0)):
        query["timeout"] = "0"
    if is_number(query.get("wait")):
        query["wait"] = "0"


def is_number(value: object) -> bool:
    """Return whether the hub would take a value for a number of seconds."""
    return str(value).replace(".", "", 1).isdecimal()
