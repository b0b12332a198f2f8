"""A page of the documentation as a text that can be tried: its blocks, its tables, its links.

A page is Markdown. What a test does with it:

- A `console` block looks like a terminal, and is typed (`tests.harness.walk` says how).
- A block whose first line is a comment with the name of a file (`# balance.py`, `// live.mjs`,
  `<!-- plain.html -->`) is that file, which the reader has saved; so it is there for what is typed.
- All other blocks are to be read, and are not run.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from tests.harness.machine import ROOT

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"(?:<\?php\n)?(?:#|//|<!--|--) ([\w-]+\.\w+)(?: -->)?\n")
# A command goes on in the next line as long as there is a backslash at the end of one.
_COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n", re.MULTILINE)


class Step(NamedTuple):
    """A command, or none, and what is shown then."""

    command: str
    shown: str
    interrupted: bool


class Saved(NamedTuple):
    """A file that the reader has saved."""

    name: str
    text: str


class Document:
    """A page, by its path from the repository's root."""

    def __init__(self, path: str) -> None:
        self.path = ROOT / path
        self.text = self.path.read_text()

    def blocks(self, language: str = "") -> list[str]:
        """Return the blocks of a language, or all of them."""
        return [text for each, text in _BLOCK.findall(self.text) if language in ("", each)]

    def without_blocks(self, language: str = "") -> str:
        """Return the text without the blocks of a language, or without any."""

        def left(match: re.Match[str]) -> str:
            return "" if language in ("", match[1]) else match[0]

        return _BLOCK.sub(left, self.text)

    def walk(self) -> Iterator[Step | Saved]:
        """Yield what a reader does, from the top of the page to its end."""
        for language, block in _BLOCK.findall(self.text):
            if language == "console":
                first, *rest = _COMMAND.split(block)
                for command, shown in [("", first), *zip(rest[::2], rest[1::2], strict=True)]:
                    if command or shown:
                        yield Step(command, shown.removesuffix("^C\n"), shown.endswith("^C\n"))
            elif named := _FILE.match(block):
                yield Saved(named[1], block)

    def commands(self) -> list[str]:
        """Return all commands that are typed."""
        return [step.command for step in self.walk() if isinstance(step, Step) and step.command]

    def table(self, heading: str) -> list[list[str]]:
        """Return the cells of the first table below a heading, without its head."""
        below = self.text.partition(f"# {heading}\n")[2]
        rows = re.findall(r"^\| (.*) \|$", below.partition("\n\n#")[0], re.MULTILINE)
        assert rows, heading
        return [row.split(" | ") for row in rows[2:]]

    def links(self) -> list[str]:
        """Return where its links and pictures lead to."""
        text = re.sub(r"`[^`\n]+`|^    .*$", "", self.without_blocks(), flags=re.MULTILINE)
        in_markdown = re.findall(r"\]\(([^)\s]+)\)", text)
        return in_markdown + re.findall(r'\b(?:src|srcset|href)="([^"]+)"', text)

    def anchors(self) -> set[str]:
        """Return the anchors of its headings, as they are made of their text."""
        headings = re.findall(r"^#+ (.*)$", self.without_blocks(), re.MULTILINE)
        plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
        return {heading.strip().replace(" ", "-") for heading in plain}


def pages() -> list[str]:
    """Return the paths of all pages for people who use a hub."""
    found = [path.relative_to(ROOT) for path in (ROOT / "docs").glob("*.md")]
    return ["README.md", *sorted(map(str, found))]
