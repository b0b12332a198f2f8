"""Write what is made from the code into its pages: `python docs/generate.py`.

In a page it stands between two comments, `<!-- made: NAME -->` and `<!-- end -->`. What is around
them is written by hand. The man page and the completions, in `deploy/`, are made as a whole.
`tests/docs/test_generated.py` says when one is not in step.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

import completions
import manual

from esource import __main__ as main
from esource.command.settings import default
from esource.config import Config, variable

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
MADE = re.compile(r"(?<=^<!-- made: )(\w+)( -->\n).*?(?=^<!-- end -->$)", re.MULTILINE | re.DOTALL)


def settings() -> str:
    """Return the table of settings."""
    lines = ["| Variable | Default | Meaning |", "| --- | --- | --- |"]
    for setting in fields(Config):
        text = default(setting.default)
        cell = f"`{text}`" if text else ""
        lines.append(f"| `{variable(setting.name)}` | {cell} | {setting.metadata['meaning']} |")
    return "\n".join(lines)


def overview() -> str:
    """Return what `esource --help` says."""
    return f"```text\n{main.usage()}```"


def commands() -> str:
    """Return a section for each command: what its `--help` says."""
    return "\n\n".join(section for command in main.COMMANDS.values() for section in _of(command))


def _of(command: main.clients.Command) -> Iterator[str]:
    parser = command.parser()
    actions = parser._actions  # noqa: SLF001 -- argparse has no public name for them
    yield f"## esource {command.name}"
    yield f"```text\nesource {command.name} {command.usage}\n```"
    yield f"```text\n{command.description.strip()}\n```"
    rows = [_row(action) for action in actions if action.dest != "help"]
    if any(meaning for _, meaning in rows):
        yield "\n".join(
            ["| | |", "| --- | --- |", *[f"| `{name}` | {text} |" for name, text in rows]]
        )


def _row(action: argparse.Action) -> tuple[str, str]:
    """Return how an argument is written, and what it means."""
    name = manual.written(action)
    meaning = action.help or "the channel's name" * (name == "CHANNEL")
    return name.replace("|", "\\|"), meaning.replace("|", "\\|")


PARTS: dict[str, Callable[[], str]] = {
    "settings": settings, "overview": overview, "commands": commands,
}  # fmt: skip
FILES: dict[str, Callable[[], str]] = {
    "deploy/man/esource.1": manual.page,
    "deploy/completions/esource.bash": completions.bash,
    "deploy/completions/_esource": completions.zsh,
}


def in_step(text: str) -> str:
    """Return a page's text with all that is made of the code as it is now."""
    return MADE.sub(lambda match: f"{match[1]}{match[2]}\n{PARTS[match[1]]()}\n\n", text)


def made() -> Iterator[tuple[Path, str]]:
    """Yield each file of which something is made, and its text as it is now."""
    for path in sorted(FOLDER.glob("*.md")):
        yield path, in_step(path.read_text())
    for name, make in FILES.items():
        yield ROOT / name, make()


if __name__ == "__main__":
    for path, text in made():
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            print(path.relative_to(ROOT))
