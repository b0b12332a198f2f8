"""What is made from the code stands in its pages, the man page and the completions as it is now."""

import importlib.util
import re
import subprocess
import sys
from dataclasses import fields
from types import ModuleType

import pytest

from esource.config import Config, variable
from tests.harness import PATIENCE_SECONDS, ROOT
from tests.harness.document import Document, pages


def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", pages())
def test_a_page_is_in_step_with_the_code(path: str) -> None:
    page = Document(path)
    assert generate().in_step(page.text) == page.text, "run: python docs/generate.py"


@pytest.mark.parametrize("path", generate().FILES)
def test_a_file_that_is_made_is_in_step_with_the_code(path: str) -> None:
    made = generate().FILES[path]()
    assert (ROOT / path).read_text() == made, "run: python docs/generate.py"


def test_each_part_is_in_a_page() -> None:
    parts = "".join(Document(path).text for path in pages())
    for name in generate().PARTS:
        assert f"<!-- made: {name} -->\n" in parts


def test_the_defaults_of_the_table_are_what_one_would_set() -> None:
    table = Document("docs/settings.md").table("Settings")
    rows = {row[0].strip("`"): row[1].strip(" `") for row in table}
    assert list(rows) == [variable(setting.name) for setting in fields(Config)]
    for setting in fields(Config):
        assert setting.metadata["cast"](rows[variable(setting.name)]) == setting.default


@pytest.mark.parametrize("name", generate().main.COMMANDS)
def test_each_command_says_with_help_what_the_page_says(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "esource", name, "--help"], capture_output=True, text=True,
        timeout=PATIENCE_SECONDS, check=True,
    )  # fmt: skip
    section = Document("docs/command.md").text.partition(f"## esource {name}\n")[2]
    options = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", section.partition("\n## ")[0]))
    assert options <= set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", done.stdout))
    for paragraph in generate().main.COMMANDS[name].description.strip().split("\n\n"):
        assert paragraph in section
        assert paragraph in done.stdout
