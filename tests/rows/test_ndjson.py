"""Lines of JSON, and frames that carry them to pages; bodies of them are in `test_ingest`."""

from hypothesis import given
from hypothesis import strategies as st

from esource.event import Event
from esource.rows import ndjson, sse, tsv
from tests.rows.strategies import events


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
