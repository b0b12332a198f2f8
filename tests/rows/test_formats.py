"""Rows, frames and events: one table drives the encoders and the decoders."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esource.event import Event
from esource.rows import formats, ndjson, sse, tsv
from tests.rows.strategies import events

# event, its row in the file, its frame on the wire
TABLE = [
    (Event(b"1", b"", b"hello"), b"1\t\thello\n", b"id: 1\ndata: hello\n\n"),
    (Event(b"1", b"t", b""), b"1\tt\t\n", b"event: t\nid: 1\ndata: \n\n"),
    (Event(b"", b"", b"x"), b"\t\tx\n", b"data: x\n\n"),
    (Event(b"", b"t", b"x"), b"\tt\tx\n", b"event: t\ndata: x\n\n"),
    (Event(b"1", b"", b"a\nb"), b"1\t\ta\x0bb\n", b"id: 1\ndata: a\ndata: b\n\n"),
    (Event(b"1", b"", b"\n"), b"1\t\t\x0b\n", b"id: 1\ndata: \ndata: \n\n"),
    (Event(b"1", b"", b"a\tb"), b"1\t\ta\tb\n", b"id: 1\ndata: a\tb\n\n"),
    (Event(b"1", b"", b" a:b "), b"1\t\t a:b \n", b"id: 1\ndata:  a:b \n\n"),
    (
        Event(b"1", b"", "a\u2028b\u0085c\x0cd".encode()),
        "1\t\ta\u2028b\u0085c\x0cd\n".encode(),
        "id: 1\ndata: a\u2028b\u0085c\x0cd\n\n".encode(),
    ),
]


@pytest.mark.parametrize(("event", "row", "frame"), TABLE)
def test_the_table(event: Event, row: bytes, frame: bytes) -> None:
    malformed: list[bytes] = []
    assert tsv.encode(event) == row
    assert list(tsv.decode(row)) == [event]
    assert sse.encode(row, malformed) == frame
    assert sse.Decoder().feed(frame) == [event]
    assert not malformed


def test_rows_and_frames_follow_each_other() -> None:
    rows = b"".join(row for _, row, _ in TABLE)
    frames = b"".join(frame for _, _, frame in TABLE)
    assert sse.encode(rows, []) == frames
    assert sse.Decoder().feed(frames) == [event for event, _, _ in TABLE]
    assert list(tsv.decode(rows)) == [event for event, _, _ in TABLE]


def test_rows_with_fewer_than_two_tabs_are_set_aside() -> None:
    malformed: list[bytes] = []
    rows = b"no tab\n1\t\ta\none\ttab\n\n2\t\tb\n"
    assert sse.encode(rows, malformed) == b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n"
    assert malformed == [b"no tab", b"one\ttab", b""]
    assert [event.id for event in tsv.decode(rows)] == [b"1", b"2"]


def test_a_cr_in_a_foreign_row_is_a_line_break_and_at_its_end_nothing() -> None:
    rows = b"1\tt\ta\rb\r\n2\t\t\r\n3\t\ta\r\r\n"
    assert [event.data for event in tsv.decode(rows)] == [b"a\nb", b"", b"a\n"]
    assert sse.encode(rows, []) == (
        b"event: t\nid: 1\ndata: a\ndata: b\n\nid: 2\ndata: \n\nid: 3\ndata: a\ndata: \n\n"
    )


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
def test_the_stream_decoder_takes_every_line_end(line_end: bytes) -> None:
    frames = b"".join(frame for _, _, frame in TABLE).replace(b"\n", line_end)
    # A CR at the very end might be half of a CRLF, so the last frame waits for one more byte.
    assert sse.Decoder().feed(frames + b":") == [event for event, _, _ in TABLE]


@given(st.binary())
def test_no_rows_and_no_stream_make_the_codecs_fail(junk: bytes) -> None:
    rows = junk + b"\n"
    malformed: list[bytes] = []
    frames = sse.encode(rows, malformed)
    decoded = sse.Decoder().feed(frames)
    assert len(decoded) + len(malformed) == rows.count(b"\n")
    assert [event.data for event in decoded] == [event.data for event in tsv.decode(rows)]
    sse.Decoder().feed(junk)


@given(st.lists(events))
def test_no_event_is_lost_in_any_format(many: list[Event]) -> None:
    rows = b"".join(map(tsv.encode, many)) + b"no event\n"
    for format in formats.FORMATS.values():
        malformed: list[bytes] = []
        format.encode(rows, malformed)
        assert malformed == ([] if format is formats.TSV else [b"no event"])
    objects = [orjson.loads(line) for line in ndjson.encode(rows, []).splitlines()]
    assert objects == orjson.loads(b"[" + ndjson.encode_elements(rows, [])[1:] + b"]")
    assert [(o["id"], o["event"], o["data"]) for o in objects] == [
        tuple(field.decode() for field in event) for event in many
    ]
