"""Event streams, by the standard: the decoder fed in pieces, and frames of rows from elsewhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esource.event import Event
from esource.rows import sse, tsv
from tests.rows.strategies import events


def test_a_cr_in_a_foreign_id_or_type_cannot_break_out_of_its_line() -> None:
    frames = sse.encode(b"a\rdata: forged\tb\rid: forged\tc\n", [])
    assert frames == b"event: b id: forged\nid: a data: forged\ndata: c\n\n"


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


@given(st.lists(events), st.sampled_from([b"\n", b"\r\n"]), st.data())
def test_frames_decode_alike_however_they_are_cut(
    many: list[Event], line_end: bytes, data: st.DataObject
) -> None:
    stream = sse.HEARTBEAT + sse.encode(b"".join(map(tsv.encode, many)), [])
    stream = stream.replace(b"\n", line_end)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=20)))
    decoder = sse.Decoder()
    decoded = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        decoded += decoder.feed(stream[start:end])
    assert decoded == many


@given(st.lists(events), st.sampled_from([b"\n", b"\r\n"]))
def test_byte_by_byte_is_like_whole_and_what_is_incomplete_is_kept(
    many: list[Event], line_end: bytes
) -> None:
    stream = sse.encode(b"".join(map(tsv.encode, many)), []).replace(b"\n", line_end)
    decoder = sse.Decoder()
    decoded = [event for n in range(len(stream)) for event in decoder.feed(stream[n : n + 1])]
    assert decoded == many
    assert decoder.feed(b"data: trailing") == []
    assert decoder.feed(b"\n\n") == [Event(b"", b"", b"trailing")]


def test_a_byte_order_mark_may_come_byte_by_byte() -> None:
    decoder = sse.Decoder()
    stream = b"\xef\xbb\xbfdata: x\n\n"
    decoded = [event for n in range(len(stream)) for event in decoder.feed(stream[n : n + 1])]
    assert decoded == [Event(b"", b"", b"x")]


def test_rows_of_which_some_have_many_lines_are_frames_like_any_other() -> None:
    rows = b"1\tt\ta\x0bb\x0bc\x0bd\n2\t\te\n"  # as many tabs and breaks as three plain rows
    frames = b"event: t\nid: 1\ndata: a\ndata: b\ndata: c\ndata: d\n\nid: 2\ndata: e\n\n"
    assert sse.encode(rows, []) == frames


@pytest.mark.parametrize("type", [b"", b"t", b"%b"])
@pytest.mark.parametrize(
    "odd",
    [
        b"1\t\tx\n", b"1\tu\tx\n", b"\tt\tx\n", b"\t\tx\n", b"1\tt\tx\ty\n", b"1\tt\n", b"1\n",
        b"1\t\t\t\tx\n", b"1\tt\ta\x0bb\n", b"1\tt\tx\r\n", b"id: \tt\tx\n", b"id: \t\tx\n", b"\n",
    ],
)  # fmt: skip
def test_many_rows_are_the_frames_of_each(type: bytes, odd: bytes) -> None:
    alike = [b"%d\t%b\t%b\n" % (n, type, b"x" * 50) for n in range(400)]
    assert len(b"".join(alike)) > tsv.ALIKE_BYTES
    for rows in (alike, [*alike, odd], [odd, *alike], [*alike, odd, *alike]):
        malformed: list[bytes] = []
        each: list[bytes] = []
        frames = sse.encode(b"".join(rows), malformed)
        assert frames == b"".join(sse.encode(row, each) for row in rows)
        assert malformed == each
