"""`/-/openapi.json` is valid, and says no other than the code and a real hub do.

Whether the answers are as it says, `tests/faults/test_openapi.py` asks.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from esource import errors
from esource.config import Config
from esource.errors import BadInput, EsourceError
from esource.rows.formats import FORMATS, MEDIA_TYPES
from esource.web import ops, origin, publish, query, several
from esource.web.app import create_app
from tests.harness import Hub

CHANNEL = "/{channel}"
KINDS = {**query.READ_KINDS, **publish.PARAMETERS, **several.KINDS, **ops.LIST}


@pytest.fixture(scope="module")
def document(hub: Hub) -> dict[str, Any]:
    answer = hub.get("/-/openapi.json")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    result: dict[str, Any] = json.loads(answer.body)
    return result


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the method, the least target at a hub, and the description of each operation."""
    for path, item in document["paths"].items():
        for method in item.keys() & {"get", "post"}:
            needed = [each["name"] for each in item[method]["parameters"] if each.get("required")]
            query = "&".join(f"{name}=orders" for name in needed)
            yield method.upper(), f"{path.replace(CHANNEL, '/orders')}?{query}", item[method]


def parameters(operation: dict[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """Return the schemas of an operation's parameters by name."""
    return {each["name"]: each["schema"] for each in operation["parameters"] if each["in"] == where}


def statuses(operation: dict[str, Any]) -> set[str]:
    return set(operation["responses"])


def test_it_is_valid(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)


def test_it_has_every_path_that_the_hub_lists(hub: Hub, document: dict[str, Any]) -> None:
    listed = json.loads(hub.get("/-/?format=json").body)
    assert set(document["paths"]) == {CHANNEL, *listed}


def test_its_parameters_are_those_that_the_hub_takes(hub: Hub, document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        text = hub.request(method, f"{path}&nothing=1").text
        known = re.fullmatch(r"unknown parameter 'nothing'; known here: (.*)\n", text)
        assert known, text
        assert known[1] == (", ".join(parameters(operation, "query")) or "none")


def test_what_may_be_given_twice_is_an_array(hub: Hub, document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        for name, schema in parameters(operation, "query").items():
            if name not in query.RESUME_PARAMETERS:  # of which the last one counts
                pair = f"{name}={quote(sample(schema.get('items', schema)))}"
                text = hub.request(method, f"{path}&{pair}&{pair}").text
                assert (text == f"{name} is given twice\n") == (schema["type"] != "array"), text


def sample(schema: dict[str, Any]) -> str:
    """Return a value of a parameter."""
    return str(schema.get("enum", [schema.get("minimum", "2026-01-31")])[0])


@pytest.mark.parametrize("name", KINDS)
def test_the_shape_of_a_parameter_is_what_is_taken(name: str) -> None:
    kind = KINDS[name]
    right: list[Any] = []
    wrong: list[Any] = []
    match kind.shape:
        case {"enum": words}:
            right, wrong = [*words], ["another", ""]
        case {"minimum": least, "maximum": most}:
            right, wrong = [least, most], [least - 1, most + 1, "", "another"]
        case {"maxLength": longest}:
            least = kind.shape.get("minLength", 0)
            right, wrong = ["a" * least, "a" * longest], ["a" * (longest + 1), *[""] * least]
    for value in right:
        kind(name, str(value))
    for value in wrong:
        with pytest.raises(BadInput):
            kind(name, str(value))
    assert kind.shape or kind.pattern == ".*"
    assert kind.meaning


@pytest.mark.parametrize(
    "text", ["15m", "1h30m", "1.5d", "1700000000", "2026-01-31", "2026-01-31T10:00:00.5+01:00"]
)
def test_the_pattern_of_a_moment_is_that_of_the_code(text: str) -> None:
    pattern = query.MOMENT.shape["pattern"]
    assert re.search(pattern, text)
    for wrong in (f"a{text}", f"{text}a", ""):
        assert not re.search(pattern, wrong)
        with pytest.raises(BadInput):
            query.MOMENT("since", wrong)


def test_it_has_every_status_of_the_errors(document: dict[str, Any]) -> None:
    channel = document["paths"][CHANNEL]
    said = statuses(channel["get"]) | statuses(channel["post"])
    assert {str(error.status) for error in raised(EsourceError)} <= said
    assert not statuses(channel["get"]) & {"403", "409", "412", "413", "415", "507"}
    assert not statuses(channel["post"]) & {"206", "304", "416"}


def raised(base: type[EsourceError]) -> Iterator[type[EsourceError]]:
    for error in base.__subclasses__():
        if error is not errors.StartError:
            yield error
        yield from raised(error)


def test_it_has_the_header_fields_that_pages_may_send_and_see(document: dict[str, Any]) -> None:
    sent, seen = set(), set()
    for _, _, operation in operations(document):
        sent |= set(parameters(operation, "header"))
        for answer in operation["responses"].values():
            seen |= set(answer.get("headers", ()))
    # OpenAPI has other places for these.
    assert sent | {"Cache-Control", "Content-Type"} == set(origin.REQUEST_HEADERS.split(", "))
    assert seen == {*origin.RESPONSE_HEADERS.split(", "), "Location"}


def test_it_has_the_formats(document: dict[str, Any]) -> None:
    channel = document["paths"][CHANNEL]
    read = {format.content_type.partition(";")[0] for format in FORMATS.values()}
    assert set(channel["get"]["responses"]["200"]["content"]) == read
    batches = {kind for kind, format in MEDIA_TYPES.items() if format in publish.BATCHES}
    assert set(channel["post"]["requestBody"]["content"]) == {*batches, "text/plain", "*/*"}


def test_it_says_the_limits_that_are_set(tmp_path: Path) -> None:
    config = Config(dir=tmp_path, max_event_bytes=12_345, max_batch_bytes=67_890)
    document = create_app(config).test_client().get("/-/openapi.json").get_json()
    text = document["paths"][CHANNEL]["post"]["requestBody"]["description"]
    assert "12345 bytes" in text
    assert "67890 bytes" in text
