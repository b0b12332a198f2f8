"""The README: short, and its two lines for the shell are those of the set-up and of CI."""

import re

from tests.harness import ROOT
from tests.harness.document import Document
from tests.harness.walk import SERVE

README = Document("README.md")
START, TEST = README.blocks("sh")[:2]


def test_it_is_short() -> None:
    assert README.text.count("\n") <= 240


def test_the_line_that_runs_the_tests_is_the_one_that_ci_runs() -> None:
    assert TEST in (ROOT / ".ci" / "run").read_text().splitlines(keepends=True)


def test_the_set_up_is_two_lines_that_need_nothing_else() -> None:
    commands = START.removesuffix("\n").split(" && ")
    assert commands == ["python3 -m venv .venv", ".venv/bin/pip install .", ".venv/bin/gunicorn"]
    assert commands[-1] == SERVE
    assert TEST.count("\n") == 1
    assert TEST.endswith(".venv/bin/python -m pytest\n")


def test_the_walk_shows_everything_that_it_should() -> None:
    commands = "\n".join(README.commands())
    for part in ("curl -N", "curl -d", "?event=", "Last-Event-ID: ", "curl -fsS -C -", SERVE):
        assert part in commands


def test_each_page_of_the_documentation_is_named() -> None:
    for path in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{path.name}" in README.text, path.name
    assert re.search(r"!\[|<img ", README.text)
