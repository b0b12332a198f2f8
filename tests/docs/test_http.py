"""`docs/http.md`: its tables are those of the code, and bad input is answered as it says."""

import json
import re

import pytest

from esource import errors
from esource.web import publish, query
from tests.harness import Hub, Stream
from tests.harness.document import Document

PAGE = Document("docs/http.md")
table = PAGE.table


def test_the_parameters_are_those_of_the_tables() -> None:
    reads = dict(query.READ_KINDS)
    for name in query.RESUME_PARAMETERS:  # which have a section of their own
        del reads[name]
    for heading, kinds in (("Reading", reads), ("Publishing", publish.PARAMETERS)):
        shown = {f"`{name}={kind.example}`": kind.meaning for name, kind in kinds.items()}
        # One with several kinds of values begins with the first of them.
        rows = {cell.partition(", ")[0]: meaning for cell, meaning in table(heading)}
        assert rows == shown


RESUME_POINTS = {"live": "", "exact": "an id", "time": "2017-04-05T11:40Z", "start": "0"}
RESUME_POINTS["trimmed"] = "gone"


def test_each_way_to_resume_is_in_the_table_and_in_the_response(hub: Hub) -> None:
    assert [row[0].strip("`") for row in table("Where a stream begins")] == list(RESUME_POINTS)
    hub.publish("/resume?id=an%20id")
    hub.publish("/resume")
    kept = hub.folder / f"removed.{100:020}.tsv"
    kept.write_bytes(b"an id\t\tkept\n")
    hub.file("removed").symlink_to(kept.name)
    for verdict, id in RESUME_POINTS.items():
        channel = "removed" if verdict == "trimmed" else "resume"
        with Stream(hub, f"/{channel}", Last_Event_ID=id) as stream:
            assert stream.headers["Esource-Resume"] == verdict


CHUNKED = b"POST /orders HTTP/1.1\r\nHost: hub\r\nTransfer-Encoding: chunked\r\n\r\n"
# Each is (method, path, body, headers), or everything that is sent.
BAD_INPUT: dict[str, list[bytes | tuple[str, str, bytes, dict[str, str]]]] = {
    "a channel name of another form": [
        ("GET", "/abc", b"", {}),
        ("POST", "/" + "a" * 65, b"", {}),
        ("POST", "/orders.tsv", b"", {}),
    ],
    "a path that is not one name, such as `/orders/new`": [
        ("POST", "/orders/new", b"", {}), ("POST", "/orders/", b"", {}),
    ],
    "a method other than `GET`, `HEAD`, `OPTIONS` and `POST`": [
        (method, "/orders", b"", {}) for method in ("PUT", "DELETE", "PATCH")
    ],
    "an unknown query parameter, one given twice, or an empty one": [
        ("POST", "/orders?evnt=a", b"", {}),
        ("GET", "/orders?tail=", b"", {}),
        ("POST", "/orders?id=a&id=b", b"", {}),
        ("GET", "/orders?id=a", b"", {}),
    ],
    "a control character in the id or the event type, or a space before or after it": [
        ("POST", "/orders?id=a%0Ab", b"", {}), ("POST", "/orders?event=+a", b"", {}),
    ],
    "an id over 1024 bytes, or an event type over 256": [
        ("POST", "/orders?id=" + 1025 * "a", b"", {}),
        ("POST", "/orders?event=" + 257 * "a", b"", {}),
    ],
    "an id that has the form of a place, such as `@71e2d0c4a8f3-28`": [
        ("POST", "/orders?id=@71e2d0c4a8f3-28", b"", {}),
        ("POST", "/orders", b"@0-0\t\tx\n", {"Content_Type": "text/tab-separated-values"}),
    ],
    "the first id of a channel, if it begins with a byte order mark": [
        ("POST", "/orders?id=%EF%BB%BF1", b"", {}),
    ],
    "a NUL or VT character in the data": [
        ("POST", "/orders", b"a\0", {}), ("POST", "/orders", b"a\x0b", {}),
    ],
    "data that is not valid in its charset": [
        ("POST", "/orders", b"\xff", {}),
        ("POST", "/orders", b"\xff", {"Content_Type": "text/plain; charset=us-ascii"}),
    ],
    "a charset that is not known": [
        ("POST", "/orders", b"", {"Content_Type": "text/plain; charset=klingon"}),
    ],
    "a `Content-Encoding`": [("POST", "/orders", b"", {"Content_Encoding": "gzip"})],
    "a form with parts (`curl -F`)": [
        ("POST", "/orders", b"", {"Content-Type": "multipart/form-data; boundary=b"}),
    ],
    "a body that ends too early, or a malformed chunk": [
        b"POST /orders HTTP/1.1\r\nHost: hub\r\nContent-Length: 9\r\n\r\nhalf",
        CHUNKED + b"9\r\nhalf",
        CHUNKED + b"4\r\nhalf\r\nZZ\r\n\r\n",
    ],
    "a body over `ESOURCE_MAX_EVENT_BYTES`": [
        ("POST", "/orders", b"a" * ((1 << 20) + 1), {}),
    ],
    "a batch of declared length that is, or becomes rows, over `ESOURCE_MAX_BATCH_BYTES`": [
        (b"POST /orders?each=line HTTP/1.1\r\nHost: h\r\nContent-Length: 67108865\r\n\r\n"),
        ("POST", "/orders?each=line", b"\n" * (1 << 22), {}),
    ],
    "a head over 32 KiB, or over 4 KiB (`Accept`: 1 KiB) in a field that the hub reads": [
        ("GET", "/orders", b"", {"Accept": "a," * 600}),
        ("GET", "/orders", b"", {"Last_Event_ID": "i" * 4200}),
        ("GET", "/orders", b"", {f"X-{n}": "x" * 4000 for n in range(9)}),
    ],
    "HTTP/1.1 without `Host`, or a target that is neither a path nor an `http` address": [
        b"GET /orders HTTP/1.1\r\n\r\n",
        b"GET ftp://hub/orders HTTP/1.1\r\nHost: hub\r\n\r\n",
    ],
    "a `Range` beyond the end of the channel": [
        ("GET", "/orders", b"", {"Range": "bytes=9-"}),
    ],
    "a line of a batch that is none of its format, or has another key than the three": [
        ("POST", "/orders", b'{"data":"x","kind":"y"}\n', {"Content_Type": "application/x-ndjson"}),
        ("POST", "/orders", b"no tabs\n", {"Content_Type": "text/tab-separated-values"}),
        ("POST", "/orders", b"{}\n{\n", {"Content_Type": "application/x-ndjson"}),
        ("POST", "/orders?each=line", b"good\nb\0d\n", {}),
    ],
    "`before=` an event that is not there": [("GET", "/orders?before=unknown", b"", {})],
    "a `POST` by a page of another origin than the hub's and those of `ESOURCE_CORS_ORIGINS`": [
        ("POST", "/orders", b"", {"Origin": "https://example.org"}),
        ("POST", "/orders", b"", {"Sec_Fetch_Site": "cross-site"}),
    ],
    "a precondition that does not hold (`expect=`, `If-Match`, `If-None-Match`)": [
        ("POST", "/orders?expect=1", b"", {}),
        ("POST", "/orders", b"", {"If_Match": "*"}),
        ("POST", "/orders", b"", {"If_None_Match": '"0-0"'}),
    ],
    "`unique=1` with an id that is there with other data": [
        (
            "POST", "/orders?unique=1", b"1\t\ta\n1\t\tb\n",
            {"Content_Type": "text/tab-separated-values"},
        ),
    ],
}  # fmt: skip


def test_each_bad_input_of_the_table_is_tried() -> None:
    assert [row[0] for row in table("Bad input")] == list(BAD_INPUT)


def test_what_the_tables_say_is_in_the_description_for_programs(hub: Hub) -> None:
    paths = json.loads(hub.get("/-/openapi.json").body)["paths"]
    channel = paths.pop("/{channel}")
    assert {row[0].strip("`") for row in table("The hub's own paths")} == set(paths) - {"/-/"}
    described = set(channel["get"]["responses"]) | set(channel["post"]["responses"])
    # Which no method has.
    assert {row[1].strip("`") for row in table("Bad input")} <= described | {"405"}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_answered_as_in_the_table(hub: Hub, case: str) -> None:
    [status] = [row[1].strip("`") for row in table("Bad input") if row[0] == case]
    for request in BAD_INPUT[case]:
        if isinstance(request, bytes):
            answer = hub.raw(request, half_close=True)
            assert answer.startswith(f"HTTP/1.1 {status} ".encode())
            text = answer.partition(b"\r\n\r\n")[2].decode()
        else:
            method, path, body, headers = request
            answered = hub.request(method, path, body, **headers)
            assert str(answered.status) == status, request
            text = answered.text
        assert re.fullmatch(r"[^\n]+\n", text)
    assert not hub.file("orders").exists()


def test_a_file_that_cannot_be_used_is_answered_as_the_page_says(hub: Hub) -> None:
    hub.file("broken").mkdir()
    status = hub.post("/broken", "x").status
    assert (
        f"the answer is `{status}`; if the disk is full, `{errors.StorageFull.status}`" in PAGE.text
    )
    hub.file("broken").rmdir()
    hub.publish("/broken", "x")
