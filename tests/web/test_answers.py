import pytest

from esource.errors import BadInput
from esource.web.answers import parameters

ALLOWED = ("id", "event")


def test_parameters_are_told_by_name() -> None:
    assert parameters({"QUERY_STRING": "event=&id=gr%C3%B6%C3%9Fe+1"}, ALLOWED) == {
        "event": "", "id": "größe 1",
    }  # fmt: skip
    assert parameters({}, ALLOWED) == {}


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("id=1&Id=2", "unknown parameter 'Id'; allowed here: id, event"),
        ("id=1&event=a&id=1", "id is given twice"),
    ],
)
def test_others_and_repeated_ones_are_refused(query: str, reason: str) -> None:
    with pytest.raises(BadInput) as error:
        parameters({"QUERY_STRING": query}, ALLOWED)
    assert str(error.value) == reason
