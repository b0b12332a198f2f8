"""`GET /<channel>` with `Accept: text/event-stream`: SPEC, sections 3 and 4."""

import re
import threading
from pathlib import Path

import pytest

from esource.event import Event
from esource.rows import tsv
from tests.harness import Hub, Stream, eventually, running_hub
from tests.harness.waiting import AT_ONCE_SECONDS, together
from tests.harness.wire import reset


def events_of(hub: Hub, channel: str) -> list[Event]:
    return list(tsv.decode(hub.content(channel)))


# -- the stream --------------------------------------------------------------------------------


def test_headers_and_a_comment_come_at_once(hub: Hub) -> None:
    with Stream(hub, "/at_once") as stream:
        assert stream.status == 200
        assert stream.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["Cache-Control"] == "no-store, no-transform"
        assert stream.headers["X-Accel-Buffering"] == "no"
        assert stream.headers["Esource-Resume"] == "live"
        assert stream.read_until(b"\n") == b":\n"
    assert not hub.has("at_once")


def test_frames_have_the_type_then_the_id_then_the_lines_of_data(hub: Hub) -> None:
    with Stream(hub, "/frames") as stream:
        hub.publish("/frames?id=1&event=deploy", "one\ntwo")
        hub.publish("/frames?id=2", "three")
        stream.read(2)
        assert stream.body == (
            b":\nevent: deploy\nid: 1\ndata: one\ndata: two\n\nid: 2\ndata: three\n\n"
        )


def test_a_stream_for_pages_stays_like_any_other_and_ends_with_a_hint(own_hub: Hub) -> None:
    own_hub.publish("/orders?event=old", "one")
    with Stream(own_hub, "/orders?format=sse-json", Accept="*/*") as stream:
        assert stream.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["Esource-Resume"] == "live"
        id = own_hub.publish("/orders?event=new", "two\nlines").encode()
        data = b'{"id":"%b","event":"new","data":"two\\nlines"}' % id
        assert stream.read(1) == [Event(id, b"", data)]
        own_hub.stop()
        assert re.search(rb"\nretry: \d+\n\Z", stream.read_to_end())


def test_without_a_resume_point_only_new_events_come(hub: Hub) -> None:
    hub.publish("/only_new", "old")
    with Stream(hub, "/only_new") as stream:
        hub.publish("/only_new", "new")
        assert [event.data for event in stream.read(1)] == [b"new"]


def test_head_has_the_headers_and_no_stream(hub: Hub) -> None:
    answer = hub.request("HEAD", "/head", None, Accept="text/event-stream")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.body == b""


@pytest.mark.parametrize(
    ("accept", "is_stream"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream", True),
        ("text/html, text/event-stream;q=0.5", True),
        ("text/event-stream; charset=utf-8", True),
        ("text/event-stream;q=0", False),
        ("*/*", False),
        ("text/*", False),
        ("text/html", False),
    ],
)
def test_the_stream_is_for_those_who_ask_for_it(hub: Hub, accept: str, is_stream: bool) -> None:
    answer = hub.request("HEAD", "/asked", None, Accept=accept)
    assert answer.headers["Content-Type"].startswith("text/event-stream") == is_stream


def test_silence_is_filled_with_bare_comment_lines(tmp_path: Path) -> None:
    with (
        running_hub(tmp_path, ESOURCE_HEARTBEAT_SECONDS="0.05") as hub,
        Stream(hub, "/silence") as stream,
    ):
        stream.read_until(b":\n" * 5)
        hub.publish("/silence?id=1", "x")
        text = stream.read_until(b"data: x\n\n:\n:\n")
        assert re.fullmatch(rb"(:\n)+id: 1\ndata: x\n\n(:\n)+", text)


def test_foreign_rows_are_served_as_they_are(own_hub: Hub) -> None:
    own_hub.put(
        "foreign",
        b"2017-04-05T11:40:10.793Z\tnews\tscala\x0bwas here\n"
        b"no tabs at all\n"
        b"1\tone tab\n"
        b"\t\tno id\n"
        b"dos\tx\tline\r\n"
        b"\n"
        b"last\t\tcr\rinside\n",
    )
    with Stream(own_hub, "/foreign?lastEventId=0") as stream:
        stream.read(4)
        assert stream.body == (
            b":\nevent: news\nid: 2017-04-05T11:40:10.793Z\ndata: scala\ndata: was here\n\n"
            b"data: no id\n\n"
            b"event: x\nid: dos\ndata: line\n\n"
            b"id: last\ndata: cr\ndata: inside\n\n"
        )
    with Stream(own_hub, "/foreign?lastEventId=0") as stream:
        stream.read(4)
    for line in (2, 3, 6):
        eventually(lambda line=line: f", line {line}: not an event" in own_hub.log)  # type: ignore[misc]
    assert own_hub.log.count("not an event") == 3
    assert own_hub.get("/foreign").body == own_hub.content("foreign")


def test_rows_that_are_no_events_are_named_once_though_many_follow_in_every_format(
    own_hub: Hub,
) -> None:
    rows = b"".join(b"no event\n%d\t\tan event\n" % n for n in range(1, 21))
    own_hub.put("foreign", rows)
    formats = ["sse", "sse-json", "ndjson", "json", "raw"]
    paths = [f"/foreign?after=0&timeout=0.5&follow=1&format={format}" for format in formats * 2]
    together(len(paths), lambda n: assert_ends(own_hub, paths[n]))
    with Stream(own_hub, "/foreign") as stream:  # and live
        own_hub.put("foreign", b"no event\n")
        own_hub.publish("/foreign", "the end")
        stream.read(1)
    for path in paths:
        assert_ends(own_hub, path)
    eventually(lambda: own_hub.log.count("not an event") >= 21)
    assert own_hub.stop() == 0  # it writes nothing more
    named = re.findall(r"foreign(?:\.tsv)?, line (\d+): not an event", own_hub.log)
    assert sorted(map(int, named)) == list(range(1, 42, 2))


def assert_ends(hub: Hub, path: str) -> None:
    answer = hub.get(path)
    assert answer.status == 200
    assert answer.body.count(b"an event") == 20


# -- resume ------------------------------------------------------------------------------------


KNOWN = {"a": "1", "b": "2", "a ": "3", "c": "4"}  # the space is cut off again: ids repeat
TIMES = {
    "2020-01-01T10:00:00.000000Z": "5",
    "2020-01-02T10:00:00Z": "6",
    "2020-01-02T13:00+01:00": "7",
}
MIXED = {"2020-01-01": "8", "zzz": "9"}


@pytest.mark.parametrize(
    ("ids", "resume_id", "verdict", "expected"),
    [
        (KNOWN, "a", "exact", "234"),
        (KNOWN, "b", "exact", "34"),
        (KNOWN, "c", "exact", ""),
        (KNOWN, "0", "start", "1234"),
        (KNOWN, "unheard of", "start", "1234"),
        (KNOWN, "2020-01-01", "start", "1234"),
        (TIMES, "2020-01-01T10:00:00.000000Z", "exact", "67"),
        (TIMES, "2019-12-31", "time", "567"),
        (TIMES, "2020-01-02", "time", "67"),
        (TIMES, "2020-01-02T11:00+01:00", "time", "7"),
        (TIMES, "2020-01-02T10:00", "time", "7"),
        (TIMES, "2030-01-01", "time", ""),
        (TIMES, "20200102", "start", "567"),
        (MIXED, "2020-01-02", "start", "89"),
    ],
)
def test_resuming(
    hub: Hub, ids: dict[str, str], resume_id: str, verdict: str, expected: str
) -> None:
    channel = f"resume-{abs(hash((str(ids), resume_id)))}"
    rows = "".join(f"{id.strip()}\t\t{data}\n" for id, data in ids.items())
    hub.put(channel, rows)
    with Stream(hub, f"/{channel}", Last_Event_ID=resume_id) as stream:
        assert stream.headers["Esource-Resume"] == verdict
        hub.publish(f"/{channel}", "live")  # nothing stands between history and it
        events = stream.read(len(expected) + 1)
        assert [event.data.decode() for event in events] == [*expected, "live"]


@pytest.mark.parametrize("name", ["lastEventId", "last_event_id", "Last-Event-ID"])
def test_browsers_resume_by_a_parameter(hub: Hub, name: str) -> None:
    hub.publish(f"/by_{name}?id=1", "one")
    hub.publish(f"/by_{name}?id=2", "two")
    with Stream(hub, f"/by_{name}?{name}=1") as stream:
        assert stream.headers["Esource-Resume"] == "exact"
        assert [event.data for event in stream.read(1)] == [b"two"]


def test_the_header_wins_over_the_parameter_and_an_empty_one_is_absent(hub: Hub) -> None:
    for id in "12":
        hub.publish(f"/wins?id={id}", id)
    with Stream(hub, "/wins?lastEventId=1", Last_Event_ID="2") as stream:
        assert stream.headers["Esource-Resume"] == "exact"
        hub.publish("/wins?id=3", "3")
        assert [event.id for event in stream.read(1)] == [b"3"]
    with Stream(hub, "/wins?lastEventId=2", Last_Event_ID="") as stream:
        assert [event.id for event in stream.read(1)] == [b"3"]
    with Stream(hub, "/wins?lastEventId=", Last_Event_ID="") as stream:
        assert stream.headers["Esource-Resume"] == "live"


def test_a_resume_id_that_is_no_utf8_is_latin1(hub: Hub) -> None:
    hub.publish("/latin?id=%C3%A4", "one")
    hub.publish("/latin?id=%C3%B6", "two")
    head = b"GET /latin?follow=0 HTTP/1.0\r\nLast-Event-ID: \xe4\r\n\r\n"
    with hub.connect() as connection:
        connection.sendall(head)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"Esource-Resume: exact" in answer
    assert answer.endswith("\r\n\r\nö\t\ttwo\n".encode())


def test_the_resume_id_is_utf8(hub: Hub) -> None:
    hub.publish("/umlaut?id=%C3%A4", "one")
    hub.publish("/umlaut?id=%C3%B6", "two")
    with Stream(hub, "/umlaut", Last_Event_ID="ä") as stream:  # sent as UTF-8
        assert stream.headers["Esource-Resume"] == "exact"
        assert stream.read(1)[0].id == "ö".encode()


def test_an_id_that_is_not_utf8_is_no_error(hub: Hub) -> None:
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "\xff"}
    answer = hub.request("HEAD", "/latin", None, **headers)
    assert (answer.status, answer.headers["Esource-Resume"]) == (200, "start")


def test_the_newest_id_of_a_download_leads_on_without_a_gap(hub: Hub) -> None:
    for n in range(3):
        hub.publish("/batch", f"{n}")
    newest = hub.get("/batch").headers["Last-Event-ID"]
    hub.publish("/batch", "3")
    with Stream(hub, "/batch", Last_Event_ID=newest) as stream:
        assert [event.data for event in stream.read(1)] == [b"3"]


# -- many readers ------------------------------------------------------------------------------


def test_readers_that_start_anywhere_while_publishers_run_see_exactly_the_file(hub: Hub) -> None:
    publishers, each, readers = 4, 150, 12
    done = threading.Event()

    def publish(number: int) -> None:
        for n in range(each):
            hub.publish(f"/anywhere?event=p{number}", f"{n} " + "x" * (n * 97 % 3000))

    seen: list[tuple[bytes, list[Event]]] = []

    def read(start: int) -> None:
        eventually(lambda: len(hub.rows("anywhere")) >= start)
        resume_id = hub.rows("anywhere")[start - 1].split(b"\t")[0] if start else b"0"
        with Stream(hub, "/anywhere", Last_Event_ID=resume_id.decode()) as stream:
            while True:
                stream.read_until(b"\n\n")
                if stream.events and stream.events[-1].data == b"the end":
                    break
                assert stream.read_more(777)  # slowly, in odd pieces
        seen.append((resume_id, stream.events))

    threads = [threading.Thread(target=publish, args=[n]) for n in range(publishers)]
    starts = [0, 0, *range(10, publishers * each, publishers * each // (readers - 2))]
    reading = [threading.Thread(target=read, args=[start]) for start in starts[:readers]]
    for thread in [*threads, *reading]:
        thread.start()
    for thread in threads:
        thread.join()
    hub.publish("/anywhere", "the end")
    for thread in reading:
        thread.join()
    done.set()
    events = events_of(hub, "anywhere")
    assert len(events) == publishers * each + 1
    assert len(seen) == len(reading)
    ids = [event.id for event in events]
    for resume_id, got in seen:
        start = 0 if resume_id == b"0" else ids.index(resume_id) + 1
        assert got == events[start:]
    for number in range(publishers):
        mine = [event.data for event in events if event.type == b"p%d" % number]
        assert [int(data.split()[0]) for data in mine] == list(range(each))


def test_a_reader_that_stalls_gets_everything_and_delays_nobody(hub: Hub) -> None:
    with Stream(hub, "/stalls") as stalled, Stream(hub, "/stalls") as quick:
        data = "x" * 500_000
        for n in range(40):  # 20 MB: more than any socket buffer
            hub.publish("/stalls", f"{n} {data}")
        assert len(quick.read(40)) == 40
        assert stalled.read(40) == quick.events


# -- those who go away -------------------------------------------------------------------------


def test_a_client_that_goes_away_is_noticed_at_once(own_hub: Hub) -> None:
    streams = [Stream(own_hub, "/go_away") for _ in range(20)]
    followed = own_hub.descriptors()
    for stream in streams:
        stream.close()
    # The heartbeat is 10 s away.
    eventually(lambda: own_hub.descriptors() <= followed - 20, AT_ONCE_SECONDS)


def test_a_client_that_only_stops_sending_is_not_gone(own_hub: Hub) -> None:
    with Stream(own_hub, "/half") as stream:
        stream.connection.shutdown(1)
        stream.read_until(b":\n:\n:\n")  # the hub has looked whether anybody is there
        own_hub.publish("/half", "still here")
        assert stream.read(1)[0].data == b"still here"


def test_a_client_that_sends_more_is_not_gone(own_hub: Hub) -> None:
    with Stream(own_hub, "/more") as stream:
        stream.connection.sendall(b"GET /more HTTP/1.1\r\n")
        own_hub.publish("/more", "still here")
        assert stream.read(1)[0].data == b"still here"


def test_a_reset_connection_is_gone_without_a_word_in_the_log(own_hub: Hub) -> None:
    before = own_hub.descriptors()
    stream = Stream(own_hub, "/reset")
    reset(stream.connection)
    stream.close()
    eventually(lambda: own_hub.descriptors() <= before, AT_ONCE_SECONDS)
    assert "Traceback" not in own_hub.log


# -- files that change under the hub -----------------------------------------------------------


@pytest.mark.files("files of other names, and edited ones")
def test_readers_of_a_file_that_is_rotated_away_go_on_with_the_new_one(own_hub: Hub) -> None:
    with Stream(own_hub, "/rotate") as stream:
        own_hub.publish("/rotate", "old")
        stream.read(1)
        own_hub.file("rotate").rename(own_hub.folder / "rotate-2017.tsv")
        own_hub.publish("/rotate", "new")
        own_hub.publish("/rotate", "newer")
        assert [event.data for event in stream.read(3)] == [b"old", b"new", b"newer"]
    assert len(own_hub.rows("rotate-2017")) == 1
    assert len(own_hub.rows("rotate")) == 2
    assert "is gone from this name" in own_hub.log


@pytest.mark.files("files of other names, and edited ones")
def test_a_file_that_was_changed_is_read_anew(own_hub: Hub) -> None:
    own_hub.publish("/edited?id=1", "one")
    file = own_hub.file("edited")
    file.write_bytes(file.read_bytes() + b"2\t\tappended\n")
    assert own_hub.get("/edited").body == b"1\t\tone\n2\t\tappended\n"
    copy = own_hub.folder / "copy"
    copy.write_bytes(b"1\t\tedited\n")
    copy.rename(file)  # as `sed -i` and most editors do
    assert own_hub.get("/edited").body == b"1\t\tedited\n"
    file.unlink()
    assert own_hub.get("/edited").body == b""
    own_hub.publish("/edited?id=3", "three")
    assert own_hub.rows("edited") == [b"3\t\tthree"]


def test_rows_that_are_appended_by_hand_reach_the_readers_with_the_next_event(
    own_hub: Hub,
) -> None:
    with Stream(own_hub, "/by_hand") as stream:
        own_hub.publish("/by_hand", "one")
        own_hub.put("by_hand", "2\t\ttwo\n")
        own_hub.publish("/by_hand", "three")
        assert [event.data for event in stream.read(3)] == [b"one", b"two", b"three"]


def test_a_large_history_is_searched_without_holding_up_others(own_hub: Hub) -> None:
    # 150 MB: searching it takes a while, in which the loop must not wait.
    row = b"%026d\t\t" + b"x" * 1000 + b"\n"
    rows = b"".join(row % n for n in range(150_000))
    own_hub.put("large", rows)
    with Stream(own_hub, "/large", Last_Event_ID=f"{149_998:026d}") as stream:
        assert stream.headers["Esource-Resume"] == "exact"
        assert int(stream.read(1)[0].id) == 149_999
    assert own_hub.content("large") == rows
