"""`docs/troubleshooting.md` has each line of the log, and each that refuses a start."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.harness import ROOT
from tests.harness.document import Document

PAGE = Document("docs/troubleshooting.md")
LEVELS = {"info", "warning", "warn", "error", "critical", "exception"}
ERRORS = {"StartError", "StorageError", "StorageFull"}
# Of commands and of tests: what they say is not in the log.
OTHERS = ("check.py", "command/", "client/", "log/memory.py")
CAUSES = re.compile(r"%[srd]|%\.?\d*[a-z]")


def _text(node: ast.expr) -> str:
    """Return a text as the code has it, with `%s` for what is put in."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(
                str(value.value) if isinstance(value, ast.Constant) else "%s" for value in values
            )
    return ""


def lines() -> Iterator[str]:
    """Yield the texts of all lines of the code."""
    package = ROOT / "esource"
    for path in sorted(package.rglob("*.py")):
        if str(path.relative_to(package)).startswith(OTHERS):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(attr=name), args=[first, *_]) if name in LEVELS:
                    yield _text(first)
                case ast.Call(func=ast.Name(id=name), args=[first, *_]) if name in ERRORS:
                    yield _text(first)
                case ast.Assign(targets=[ast.Attribute(attr="refusal")], value=value):
                    yield _text(value)


def part(text: str) -> str:
    """Return the longest part of a line that is always the same, of what is wrong if it can be."""
    for each in (text.partition(";")[0], text):
        pieces = [piece.partition(", since")[0].strip(" :;,()'\"") for piece in CAUSES.split(each)]
        if longest := max(pieces, key=len):
            return longest.removeprefix("esource: ")
    return ""


ALL = sorted({part(line) for line in lines()} - {""})


@pytest.mark.parametrize("line", ALL)
def test_each_line_is_in_the_page(line: str) -> None:
    assert line in PAGE.text


def test_there_are_many() -> None:
    assert len(ALL) > 50
