"""Rows, frames and events: one table drives the encoders and the decoders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esource.event import Event
from esource.rows import ndjson, sse, tsv

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

# What the hub writes: no control characters in ids and types, LF for line breaks.
fields = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=8).map(str.encode)
lines = st.text(st.characters(exclude_characters="\0\x0b\r", exclude_categories=["Cs"]))
events = st.builds(Event, fields, fields, lines.map(str.encode))


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


def test_a_cr_in_a_foreign_id_or_type_cannot_break_out_of_its_line() -> None:
    frames = sse.encode(b"a\rdata: forged\tb\rid: forged\tc\n", [])
    assert frames == b"event: b id: forged\nid: a data: forged\ndata: c\n\n"


@given(st.lists(events))
def test_a_frame_for_pages_has_its_type_in_the_data_which_is_a_line_of_json(
    many: list[Event],
) -> None:
    rows = b"".join(map(tsv.encode, many))
    decoded = sse.Decoder().feed(ndjson.encode_frames(rows, []))
    assert [(event.id, event.type) for event in decoded] == [(event.id, b"") for event in many]
    assert [event.data + b"\n" for event in decoded] == ndjson.encode(rows, []).splitlines(True)


def test_a_frame_for_pages_cannot_be_broken_out_of() -> None:
    malformed: list[bytes] = []
    frames = ndjson.encode_frames(b"a\rdata: forged\tb\rc\td\r\ne\n\t\tno id\n", malformed)
    assert frames == (
        b'id: a data: forged\ndata: {"id":"a\\rdata: forged","event":"b\\rc","data":"d"}\n\n'
        b'data: {"id":"","event":"","data":"no id"}\n\n'
    )
    assert malformed == [b"e"]


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
def test_the_stream_decoder_takes_every_line_end(line_end: bytes) -> None:
    frames = b"".join(frame for _, _, frame in TABLE).replace(b"\n", line_end)
    # A CR at the very end might be half of a CRLF, so the last frame waits for one more byte.
    assert sse.Decoder().feed(frames + b":") == [event for event, _, _ in TABLE]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"\xef\xbb\xbfdata: x\n\n", [Event(b"", b"", b"x")]),
        (b":comment\n:\ndata: x\n\n", [Event(b"", b"", b"x")]),
        (b"data:x\ndata:  y\n\n", [Event(b"", b"", b"x\n y")]),
        (b"data\n\n", [Event(b"", b"", b"")]),
        (b"id: 1\n\ndata: x\n\n", [Event(b"", b"", b"x")]),
        (b"id: a\0b\ndata: x\n\n", [Event(b"", b"", b"x")]),
        (b"retry: 10\nnonsense: 1\nevent: e\ndata: x\n\n", [Event(b"", b"e", b"x")]),
        (b"data: incomplete\n", []),
        (b"\n\n\n", []),
    ],
)
def test_the_stream_decoder_follows_the_standard(stream: bytes, expected: list[Event]) -> None:
    assert sse.Decoder().feed(stream) == expected


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
def test_a_line_end_may_be_cut_anywhere(line_end: bytes) -> None:
    stream = b"data: x\ndata: y\n\ndata: z\n\n:".replace(b"\n", line_end)
    for cut in range(len(stream)):
        decoder = sse.Decoder()
        decoded = decoder.feed(stream[:cut]) + decoder.feed(stream[cut:])
        assert decoded == [Event(b"", b"", b"x\ny"), Event(b"", b"", b"z")]


def test_rows_of_which_some_have_many_lines_are_frames_like_any_other() -> None:
    rows = b"1\tt\ta\x0bb\x0bc\x0bd\n2\t\te\n"  # as many tabs and breaks as three plain rows
    frames = b"event: t\nid: 1\ndata: a\ndata: b\ndata: c\ndata: d\n\nid: 2\ndata: e\n\n"
    assert sse.encode(rows, []) == frames


def test_a_byte_order_mark_may_come_byte_by_byte() -> None:
    decoder = sse.Decoder()
    stream = b"\xef\xbb\xbfdata: x\n\n"
    decoded = [event for n in range(len(stream)) for event in decoder.feed(stream[n : n + 1])]
    assert decoded == [Event(b"", b"", b"x")]


@given(st.lists(events), st.data())
def test_frames_decode_alike_however_they_are_cut(many: list[Event], data: st.DataObject) -> None:
    stream = sse.HEARTBEAT + sse.encode(b"".join(map(tsv.encode, many)), [])
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=20)))
    decoder = sse.Decoder()
    decoded = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        decoded += decoder.feed(stream[start:end])
    assert decoded == many


@given(st.lists(events))
def test_byte_by_byte_is_like_whole_and_what_is_incomplete_is_kept(many: list[Event]) -> None:
    stream = sse.encode(b"".join(map(tsv.encode, many)), [])
    decoder = sse.Decoder()
    decoded = [event for n in range(len(stream)) for event in decoder.feed(stream[n : n + 1])]
    assert decoded == many
    assert decoder.feed(b"data: trailing") == []
    assert decoder.feed(b"\n\n") == [Event(b"", b"", b"trailing")]


@given(st.lists(events))
def test_rows_round_trip(many: list[Event]) -> None:
    rows = b"".join(map(tsv.encode, many))
    assert rows.count(b"\n") == len(many)
    assert list(tsv.decode(rows)) == many


@given(st.binary())
def test_no_rows_and_no_stream_make_the_codecs_fail(junk: bytes) -> None:
    rows = junk + b"\n"
    malformed: list[bytes] = []
    frames = sse.encode(rows, malformed)
    decoded = sse.Decoder().feed(frames)
    assert len(decoded) + len(malformed) == rows.count(b"\n")
    assert [event.data for event in decoded] == [event.data for event in tsv.decode(rows)]
    sse.Decoder().feed(junk)
