"""The man page, esource(1), made of the parsers and of the table of settings.

It is in ASCII, in the macros of man(7), so that no program has to guess a coding. A text of a
command is paragraphs, and lines that are indented stand as they are.
"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import fields

from esource import __main__ as main
from esource import __version__
from esource.command.command import Command
from esource.command.settings import default
from esource.config import Config, variable

ABOUT = """\
esource is an HTTP event hub: publish with POST, follow with Server-Sent Events, read again what is
in plain files. Without a command it serves; it needs no other program, and no root.

Channels are at http://localhost:9000/NAME. What the hub answers is in docs/http.md.
"""
FILES = {
    "events/CHANNEL.tsv": "Events, one a line: ID, TAB, type, TAB, data. In ESOURCE_DIR.",
    "events/CHANNEL.OFFSET.tsv": "The segments of a channel with a rule (ESOURCE_KEEP).",
    "events/*.idx, events/*.ids": "What finds events quickly. They may be removed at any time.",
    "/etc/esource/esource.env": "Settings of the service, where systemd runs it.",
    "/etc/esource/NAME.env": "Settings of one of several hubs, esource@NAME.service.",
    "/etc/esource/follow/NAME.env": "What esource-follow@NAME.service follows.",
}
EXAMPLES = {
    "Serve ./events at port 8000:": "esource -b 127.0.0.1:8000",
    "Publish an event, and follow:": "curl -d 'one coffee' localhost:9000/orders\n"
    "curl -N -H 'Accept: text/event-stream' localhost:9000/orders",
    "A web hook that comes back where it was:": "esource follow http://localhost:9000/orders"
    " --cursor orders.cursor \\\n"
    "  --exec 'curl -fsS --retry 5 --max-time 30 --data-binary @- https://example.com/hook'",
    "Which settings are in force:": "esource config --env-file /etc/esource/esource.env",
}


def literal(text: str) -> str:
    """Return text as roff that shows just this, and copies as this."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    escaped = escaped.replace("`", "\\(ga").replace("^", "\\(ha").replace("~", "\\(ti")
    escaped = escaped.replace("…", "...")
    return re.sub(r"^(?=\.)", r"\\&", escaped, flags=re.MULTILINE)


def prose(text: str) -> str:
    """Return a text as roff; what stands between backticks is bold."""
    parts = re.split(r"`([^`]*)`", text)
    return "".join(rf"\fB{literal(part)}\fP" if at % 2 else literal(part)
                   for at, part in enumerate(parts))  # fmt: skip


def paragraphs(text: str) -> Iterator[str]:
    """Yield paragraphs; lines that are indented stand as they are."""
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        for indented, lines in _runs(paragraph.splitlines()):
            if indented:
                yield ".PP\n.RS 4\n.nf\n" + "\n".join(map(literal, lines)) + "\n.fi\n.RE"
            else:
                yield ".PP\n" + "\n".join(map(prose, lines))


def _runs(lines: list[str]) -> Iterator[tuple[bool, list[str]]]:
    while lines:
        indented = lines[0].startswith(" ")
        count = next((n for n, line in enumerate(lines) if line.startswith(" ") != indented),
                     len(lines))  # fmt: skip
        yield indented, lines[:count]
        lines = lines[count:]


def tagged(term: str, text: str) -> str:
    """Return a term in bold, and below it what it means."""
    return f".TP\n.B {literal(term)}\n{prose(text)}"


def page() -> str:
    """Return the whole page."""
    text = "\n".join([*_page(), ""])
    return re.sub(r"^(\.S[HS] .*\n)\.PP\n", r"\1", text, flags=re.MULTILINE)


def _page() -> Iterator[str]:
    yield '.\\" Made by docs/generate.py'
    yield f'.TH ESOURCE 1 "" "esource {literal(__version__)}" "User Commands"'
    yield ".SH NAME\nesource \\- an HTTP event hub, its client, and the care of its files"
    yield ".SH SYNOPSIS\n.nf"
    yield from (rf"\fBesource\fP {literal(line)}".rstrip() for line in _usages())
    yield ".fi\n.SH DESCRIPTION"
    yield from paragraphs(ABOUT)
    settings, _, codes = main.HELP.partition("Exit codes:\n")
    yield from paragraphs(settings)
    yield ".SH COMMANDS"
    for command in main.COMMANDS.values():
        yield from _command(command)
    yield ".SH EXIT STATUS"
    yield from (tagged(*line.split(None, 1)) for line in codes.splitlines())
    yield ".SH ENVIRONMENT\nEach is read once, at the start. An empty one counts as not set."
    for setting in fields(Config):
        usual = default(setting.default)
        meaning = setting.metadata["meaning"] + (f" (default: `{usual}`)" if usual else "")
        yield tagged(variable(setting.name), meaning)
    yield ".SH FILES"
    yield from (tagged(name, text) for name, text in FILES.items())
    yield ".SH EXAMPLES"
    for text, line in EXAMPLES.items():
        yield f".PP\n{prose(text)}\n.PP\n.RS 4\n.nf\n{literal(line)}\n.fi\n.RE"
    yield ".SH SEE ALSO\n.BR curl (1),\n.BR journalctl (1),\n.BR systemctl (1)"


def _usages() -> Iterator[str]:
    yield "[serve] [GUNICORN OPTIONS]"
    yield from (f"{command.name} {command.usage}" for command in main.COMMANDS.values())
    yield "version"
    yield "COMMAND --help"


def _command(command: Command) -> Iterator[str]:
    yield f".SS esource {literal(command.name)} {literal(command.usage)}"
    yield from paragraphs(f"{command.summary[0].upper()}{command.summary[1:]}.")
    yield from paragraphs(command.description)
    for action in command.parser()._actions:  # noqa: SLF001 -- argparse has no public name for them
        if action.help and action.dest != "help":
            yield tagged(written(action), action.help)


def written(action: argparse.Action) -> str:
    """Return how an argument is written: `-H, --header HEADER`, `CHANNEL`."""
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else "")
    takes = f" {value}" if value and action.nargs != 0 else ""
    return ", ".join(action.option_strings) + takes if action.option_strings else str(value)
