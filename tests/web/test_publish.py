"""`POST /<channel>`: SPEC, section 2, through a real server."""

import json
import re
import threading
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path

import pytest

from esource.config import Config
from esource.errors import BadInput
from esource.hub.memory import BodyMemory
from esource.web.app import create_app
from esource.web.body import read
from esource.web.post import body_of
from tests.harness import AWKWARD, Hub, Stream, Wire, eventually, kept, running_hub
from tests.harness.rows import ids_of
from tests.harness.shims import SLOW_DISK, customized

DEFAULT_ID = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def test_the_answer_is_201_and_the_id_on_a_line_of_its_own(hub: Hub) -> None:
    answer = hub.post("/answer", "hello")
    assert answer.status == 201
    assert answer.headers["Content-Type"].startswith("text/plain")
    id, end = answer.text[:-1], answer.text[-1:]
    assert DEFAULT_ID.fullmatch(id)
    assert end == "\n"  # so that a terminal's next prompt is not behind it
    assert answer.headers["Last-Event-ID"] == id
    assert hub.rows("answer") == [id.encode() + b"\t\thello"]
    answer = hub.post("/answer?id=caf%C3%A9", "hello")
    assert answer.headers["Last-Event-ID"].encode("latin-1").decode() == "café"


# What a client accepts, and whether that is JSON rather than text.
ACCEPTS = {
    "application/json": True, "*/*": False, "": False, "text/plain": False,
    "application/json, text/plain, */*": False,  # axios
    "application/json, */*": False, "application/json, */*;q=0.9": True,
    "application/json;q=0.5, text/*;q=0.4": True, "application/json;q=0.4, text/*;q=0.5": False,
    "application/*": True, "text/plain;q=0, */*": True, "application/json;q=0": False,
    "APPLICATION/JSON; charset=utf-8": True, "text/html,application/xhtml+xml": False,
    "application/json;q=much, text/plain;q=0.1": False,
}  # fmt: skip


@pytest.mark.parametrize("is_plain", [True, False])
@pytest.mark.parametrize("accept", ACCEPTS)
def test_a_client_that_prefers_json_to_text_gets_the_answer_of_a_batch(
    hub: Hub, accept: str, is_plain: bool
) -> None:
    more = {} if is_plain else {"X_Other": "1"}  # which the fast path does not know
    answer = hub.post("/as_json", "x", Accept=accept, **more)
    id = hub.rows("as_json")[-1].split(b"\t")[0].decode()
    assert (answer.status, answer.headers["Last-Event-ID"]) == (201, id)
    if ACCEPTS[accept]:
        assert answer.headers["Content-Type"] == "application/json"
        assert json.loads(answer.text) == {"count": 1, "first": id, "last": id}
    else:
        assert answer.text == f"{id}\n"


def test_an_event_that_is_there_already_is_so_in_json(hub: Hub) -> None:
    for status, first in ((201, "a"), (200, None)):
        answer = hub.post("/as_json_twice?id=a&unique=1", "x", Accept="application/json")
        expected = {"count": int(status == 201), "first": first, "last": first}
        expected |= {"skipped": 1} if status == 200 else {}
        assert (answer.status, json.loads(answer.text)) == (status, expected)
        assert answer.headers["Last-Event-ID"] == "a"


def test_id_and_event_are_the_publishers_own_if_given(hub: Hub) -> None:
    assert hub.publish("/given?id=caf%C3%A9%201&event=deploy", "x") == "café 1"
    assert hub.rows("given") == ["café 1\tdeploy\tx".encode()]


def test_empty_id_and_event_count_as_absent(hub: Hub) -> None:
    id = hub.publish("/absent?id=&event=", "x")
    assert hub.rows("absent") == [f"{id}\t\tx".encode()]


@pytest.mark.parametrize("data", AWKWARD, ids=range(len(AWKWARD)))
def test_data_is_one_row_in_the_file_and_comes_back_as_it_was(hub: Hub, data: str) -> None:
    with Stream(hub, "/awkward", Last_Event_ID="") as stream:
        id = hub.publish("/awkward", data)
        row = kept(data).replace("\n", "\x0b").encode()
        assert hub.rows("awkward")[-1] == id.encode() + b"\t\t" + row
        assert stream.read(1)[0].data.decode() == kept(data)


def test_a_form_content_type_is_not_a_form(hub: Hub) -> None:
    hub.curl("-d", "a=1&b=%20", f"{hub.url}/form")
    assert hub.rows("form")[0].endswith(b"\t\ta=1&b=%20")


def test_a_charset_is_decoded(hub: Hub) -> None:
    hub.post("/charset", "grün".encode("latin-1"), Content_Type="text/plain; charset=ISO-8859-1")
    hub.post("/charset", "grün\n€".encode("utf-16"), Content_Type='text/plain; charset="UTF-16"')
    assert [row.split(b"\t")[2].decode() for row in hub.rows("charset")] == ["grün", "grün\x0b€"]


def test_exactly_one_trailing_line_end_is_dropped(hub: Hub) -> None:
    for body in ("one\n", "one\r\n", "one\r", "two\n\n", "\n"):
        hub.publish("/trailing", body)
    assert [row.split(b"\t")[2] for row in hub.rows("trailing")] == [
        b"one", b"one", b"one", b"two\x0b", b"",
    ]  # fmt: skip


def test_a_chunked_body_is_one_event(hub: Hub) -> None:
    answer = hub.raw(
        b"POST /chunked HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n",
        b"\r\n5\r\nhello\r\n", b"6\r\n world\r\n0\r\n\r\n",
    )  # fmt: skip
    assert answer.startswith(b"HTTP/1.1 201 Created\r\n")
    assert hub.rows("chunked")[0].endswith(b"\t\thello world")


def test_ids_increase_for_many_publishers_at_once(hub: Hub) -> None:
    def publish() -> None:
        for _ in range(25):
            hub.publish("/increase", "x")

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [row.split(b"\t")[0] for row in hub.rows("increase")]
    assert len(ids) == 200
    assert ids == sorted(set(ids))


def test_ids_increase_after_a_restart_with_an_id_from_the_future(own_hub: Hub) -> None:
    future = "2999-01-01T00:00:00.000000Z"
    own_hub.publish(f"/future?id={future}", "x")
    assert own_hub.publish("/future", "y") == "2999-01-01T00:00:00.000001Z"
    own_hub.restart()
    assert own_hub.publish("/future", "z") == "2999-01-01T00:00:00.000002Z"


def test_the_events_of_one_connection_keep_their_order(hub: Hub) -> None:
    count = 50
    requests = b"".join(
        b"POST /order HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%d" % (len(str(n)), n)
        for n in range(count)
    )
    with hub.connect() as connection:
        connection.sendall(requests)
        received = b""
        while received.count(b"HTTP/1.1 201") < count:
            received += connection.recv(65536)
    assert [row.split(b"\t")[2] for row in hub.rows("order")] == [b"%d" % n for n in range(count)]


# -- bad input: the status, one line of text, and nothing stored -------------------------------

CHUNKED = b"POST /bad_input HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
BAD = {
    "undecodable": (400, "/bad_input", b"\xff\xfe", {}),
    "undecodable ASCII": (400, "/bad_input", b"\xff", {"Content_Type": "a/b;charset=ascii"}),
    "NUL": (400, "/bad_input", b"a\0b", {}),
    "VT": (400, "/bad_input", b"a\x0bb", {}),
    "unknown charset": (415, "/bad_input", b"a", {"Content_Type": "text/plain; charset=klingon"}),
    "a codec that is no charset": (415, "/bad_input", b"a", {"Content_Type": "a/b; charset=hex"}),
    "an escape that is no charset": (
        415, "/bad_input", b"a", {"Content_Type": "a/b; charset=unicode_escape"},
    ),
    "gzip": (415, "/bad_input", b"a", {"Content_Encoding": "gzip"}),
    "identity": (415, "/bad_input", b"a", {"Content_Encoding": "identity"}),
    "tab in id": (400, "/bad_input?id=a%09b", b"a", {}),
    "line feed in id": (400, "/bad_input?id=a%0Ab", b"a", {}),
    "NUL in id": (400, "/bad_input?id=a%00b", b"a", {}),
    "DEL in id": (400, "/bad_input?id=a%7Fb", b"a", {}),
    "NEL in event": (400, "/bad_input?event=a%C2%85b", b"a", {}),
    "CR in event": (400, "/bad_input?event=a%0Db", b"a", {}),
    "space before id": (400, "/bad_input?id=%20a", b"a", {}),
    "space after event": (400, "/bad_input?event=a+", b"a", {}),
    "id too long": (400, "/bad_input?id=" + "a" * 1025, b"a", {}),
    "id too long in bytes": (400, "/bad_input?id=" + "%C3%A4" * 513, b"a", {}),
    "event too long": (400, "/bad_input?event=" + "a" * 257, b"a", {}),
    "id that is not UTF-8": (400, "/bad_input?id=%FF", b"a", {}),
    "misspelt parameter": (400, "/bad_input?evnt=a", b"a", {}),
    "id twice": (400, "/bad_input?id=a&id=b", b"a", {}),
    "name too short": (400, "/bad", b"a", {}),
    "name too long": (400, "/" + "a" * 65, b"a", {}),
    "name with a dot": (400, "/bad.input", b"a", {}),
    "name with a line feed": (400, "/bad_input%0A", b"a", {}),
    "name that climbs": (400, "/%2e%2e", b"a", {}),
    "two segments": (404, "/bad_input/b", b"a", {}),
    "over the limit": (413, "/bad_input", b"a" * ((1 << 20) + 1), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line_and_stores_nothing(hub: Hub, case: str) -> None:
    status, path, body, headers = BAD[case]
    answer = hub.post(path, body, **headers)
    assert answer.status == status
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert re.fullmatch(r"[^\n]+\n", answer.text)
    assert not hub.has("bad_input")
    assert not hub.folder.exists() or not [*hub.folder.glob("bad*")]


def test_the_longest_id_and_event_are_accepted(hub: Hub) -> None:
    assert hub.publish("/longest?id=" + "i" * 1024 + "&event=" + "e" * 256) == "i" * 1024


def test_a_name_of_the_wrong_form_is_told_the_pattern(hub: Hub) -> None:
    for method in ("GET", "POST", "HEAD"):
        assert hub.request(method, "/a.b.c").status == 400
    assert "[A-Za-z0-9_-]{4,64}" in hub.get("/a.b.c").text


def test_a_body_over_the_limit_is_refused_before_it_is_sent(hub: Hub) -> None:
    with hub.connect() as connection:
        request = b"POST /bad_input HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\n\r\n"
        connection.sendall(request)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    {
        "half a declared body": (
            b"POST /bad_input HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf", 400,
        ),
        "half a chunk": (CHUNKED + b"9\r\nhalf", 400),
        "no last chunk": (CHUNKED + b"4\r\nhalf\r\n", 400),
        "no end of the last chunk": (CHUNKED + b"4\r\nhalf\r\n0\r\n", 400),
        "a bad chunk size": (CHUNKED + b"4\r\nhalf\r\nZZ\r\n\r\n", 400),
        "a chunk that is longer than its size": (CHUNKED + b"4\r\nhalf and more\r\n0\r\n\r\n", 400),
        "over the limit, chunked": (
            CHUNKED + b"100001\r\n" + b"a" * 0x100001 + b"\r\n0\r\n\r\n", 413,
        ),
    }.values(),
    ids=lambda value: "" if isinstance(value, int) else repr(value[-12:]),
)  # fmt: skip
def test_a_body_is_whole_or_nothing_is_stored(hub: Hub, request_bytes: bytes, status: int) -> None:
    answer = hub.raw(request_bytes, half_close=True)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1") == 1  # what follows a broken body is not a request
    assert not hub.has("bad_input")


def test_what_follows_a_malformed_chunk_is_never_taken_for_a_request(hub: Hub) -> None:
    smuggled = b"POST /bad_input HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"
    answer = hub.raw(CHUNKED + b"4\r\nhalf\r\nZZ\r\n" + smuggled, half_close=True)
    assert answer.count(b"HTTP/1.1") == 1
    assert b"connection: close" in answer.lower()
    assert not hub.has("bad_input")


def test_no_length_and_no_chunks_is_an_empty_body(hub: Hub) -> None:
    answer = hub.raw(b"POST /no_body HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert hub.rows("no_body")[0].endswith(b"\t\t")


def test_other_methods_are_told_which_are_allowed(hub: Hub) -> None:
    answer = hub.request("DELETE", "/methods")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD, OPTIONS, POST")
    assert re.fullmatch(r"[^\n]+\n", answer.text)


# -- rows that others append ---------------------------------------------------------------------


def test_an_id_is_later_than_that_of_a_row_which_was_appended_by_hand(own_hub: Hub) -> None:
    own_hub.publish("/by_hand", "one")
    own_hub.put("by_hand", b"2999-12-31T23:59:59.999999Z\t\tby hand\n")
    two = own_hub.publish("/by_hand", "two")
    ids = ids_of(own_hub.rows("by_hand"))
    assert ids[-1] == two
    assert two > "2999-12-31T23:59:59.999999Z"
    assert ids == sorted(ids)


@pytest.mark.files("a disk that hangs")
def test_ids_increase_in_the_order_of_rows_though_some_waited_when_one_was_appended_by_hand(
    tmp_path: Path,
) -> None:
    with (
        running_hub(tmp_path, **customized(tmp_path, SLOW_DISK)) as hub,
        Wire(hub) as first,
        ExitStack() as stack,
    ):
        hub.publish("/waited", "before")
        hang = tmp_path / "hang"
        hang.touch()
        first.send("/waited", b"is being synced")
        eventually(lambda: len(hub.rows("waited")) == 2)
        wires = [stack.enter_context(Wire(hub)) for _ in range(5)]
        for wire in wires:
            wire.send("/waited", b"waits for that")
        hub.get("/up__")  # so the hub has had a turn for each
        hub.put("waited", b"2999-12-31T23:59:59.999999Z\t\tby hand\n")
        hang.unlink()
        assert [wire.reply().status for wire in [first, *wires]] == [201] * 6
        ids = ids_of(hub.rows("waited"))
    assert len(ids) == 8
    assert ids == sorted(set(ids))


def test_ids_go_on_increasing_in_the_file_after_a_rotation(own_hub: Hub) -> None:
    own_hub.put("rotated", b"2999-12-31T23:59:59.999999Z\t\tahead of the clock\n")
    ids = [own_hub.publish("/rotated", "before")]
    for _ in range(2):
        own_hub.take_away("rotated")
        ids.append(own_hub.publish("/rotated", "after"))
    assert "2999-12-31T23:59:59.999999Z" < ids[0] < ids[1] < ids[2]


@pytest.mark.files("in this process, with a folder")
def test_a_body_is_read_whole_also_without_gunicorn(tmp_path: Path) -> None:
    client = create_app(Config.from_env({"ESOURCE_DIR": str(tmp_path)})).test_client()
    assert client.post("/orders", data="one").status_code == 201
    rows = (tmp_path / "orders.tsv").read_bytes().splitlines()
    assert [row.split(b"\t")[2] for row in rows] == [b"one"]
    chunked = body_of({"wsgi.input": BytesIO(b"two"), "HTTP_TRANSFER_ENCODING": "chunked"})
    assert (chunked.size, list(chunked.pieces())) == (None, [b"two"])
    short = body_of({"wsgi.input": BytesIO(b"cut"), "CONTENT_LENGTH": "9"})
    with pytest.raises(BadInput, match="cut off after 3 of 9 bytes"):
        read(short, BodyMemory(99).share(print), limit=99)
