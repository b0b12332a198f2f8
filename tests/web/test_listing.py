"""Pages of the list, one after the other."""

from hypothesis import given
from hypothesis import strategies as st

from esource.web import listing

NAMES = st.lists(st.text("abAB", min_size=4, max_size=6), unique=True)


@given(NAMES, st.integers(1, 5), st.sampled_from(["", "a", "AB", "x"]))
def test_pages_one_after_the_other_are_all_names_in_order(
    names: list[str], limit: int, match: str
) -> None:
    wanted = sorted(name for name in names if match.lower() in name.lower())
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        page = listing.page(sorted(names), after, match, limit)
        assert page.total == len(wanted)
        assert len(page.names) <= limit
        seen += page.names
        after = page.next
    assert seen == wanted
