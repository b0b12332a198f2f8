"""What the examples of this folder are made of: events that the hub writes, rows that others do."""

from hypothesis import strategies as st

from esource.event import Event
from esource.rows import tsv

# What the hub writes: no control characters in ids and types, LF for line breaks.
fields = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=8).map(str.encode)
lines = st.text(st.characters(exclude_characters="\0\x0b\r", exclude_categories=["Cs"]))
events = st.builds(Event, fields, fields, lines.map(str.encode))

TIMES = [
    b"2020-01-01", b"2020-01-02", b"2020-01-01T12:00Z", b"2020-01-01T12:00:00.000000Z",
    b"2020-01-02T00:00:00.000000Z", b"2020-01-02T00:00:00.000001Z", b"2020-13-02T00:00:00.000000Z",
]  # fmt: skip
ids = st.sampled_from([b"", b"a", b"aa", b"b", *TIMES])
# Of one row: an event, with a third tab or not, or no event at all.
shapes = st.sampled_from([b"%b\t\tdata\n", b"%b\ta\tdata\ta\n", b"%b\n", b"%b\tone tab\n"])
one_row = st.tuples(shapes, ids).map(lambda pair: pair[0] % pair[1])
rows = st.lists(one_row, max_size=12)


def is_event(row: bytes) -> bool:
    """Return whether a row is an event, found out without counting tabs."""
    return bool(list(tsv.decode(row)))
