"""`esource config` and `esource systemd`: what a hub is set to, and what starts it."""

import argparse
import json
import os
import re
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import esource
from esource.command.command import Command, say
from esource.config import OF_FOLDERS, SECRET, Config, unknown, variable
from esource.errors import Missing, StartError

CONFIG = """\
Print each setting, its value, and where that comes from: a hub that is started here and now
has these. A bad value is named, with exit code 1.

With --env-file the lines of FILE count as well, and win, as EnvironmentFile= of a unit does.
With --pid it is what the running hub of that process was started with. What may hold a password
is not shown. Options of gunicorn (-b) win over settings: those of a running hub are named.

  esource config --env-file /etc/esource/esource.env
  esource config --pid $(systemctl show --value --property=MainPID esource)
"""
SYSTEMD = """\
Print a file of deploy/systemd, for this installation: paths of the command are those of the one
that prints. (In a home folder systemd's sandbox does not see it: install it elsewhere.)

  esource systemd > /etc/systemd/system/esource.service
  esource systemd esource.socket > /etc/systemd/system/esource.socket
  esource systemd esource.env | install -D --mode=644 /dev/stdin /etc/esource/esource.env
"""
INSTALLED = "/opt/esource/bin/esource"  # as the files have it
LINE = re.compile(r"\s*(?:export\s+)?(\w+)=(.*)")


class Place(NamedTuple):
    """Where settings come from."""

    environ: dict[str, str]
    sources: dict[str, str]  # variable -> where it was set
    folder: Path  # the one that relative paths count from
    arguments: list[str]  # of the command line of a hub that runs


def default(value: object) -> str:
    """Return a default as one would set it."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, frozenset):
        return " ".join(sorted(value))
    return f"{value:g}" if isinstance(value, float) else str(value or "")


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--env-file", type=Path, metavar="FILE", help="as EnvironmentFile= does")
    where.add_argument("--pid", type=int, metavar="PID", help="of a hub that runs")


def _config(options: argparse.Namespace) -> int:
    place = _of_process(options.pid) if options.pid else _of_shell(options.env_file)
    config = Config.from_env(place.environ)
    rows = []
    for setting in fields(Config):
        name = variable(setting.name)
        text = place.environ.get(name, "")
        source = place.sources.get(name, "environment") if text else "default"
        text = text or default(setting.default)
        if setting.name in OF_FOLDERS and config.store:
            text, source = "", "not used with ESOURCE_STORE"
        elif setting.name == "dir":
            text = str(place.folder / text)
        elif setting.name in SECRET and text:
            text = "(not shown)"
        elif setting.name == "bind" and "LISTEN_FDS" in place.environ:
            source += "; systemd's socket counts"
        rows.append((name, text, source))
    strange = unknown(place.environ)
    if options.json:
        settings = [dict(zip(("name", "value", "from"), row, strict=True)) for row in rows]
        extra = {"unknown": strange, "arguments": place.arguments}
        print(json.dumps({"settings": settings, **extra}, indent=1))
        return 0
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, text, source in rows:
        say(f"{name:{widths[0]}}  {text:{widths[1]}}  {source}")
    for name in strange:
        say(f"esource: {name} is not a setting, and is ignored", sys.stderr)
    if place.arguments:
        say(f"esource: its options win: {shlex.join(place.arguments)}", sys.stderr)
    return 0


def _of_shell(env_file: Path | None) -> Place:
    environ, sources = dict(os.environ), {}
    if env_file:
        found = parse(env_file.read_text())
        environ |= found
        sources = dict.fromkeys(found, str(env_file))
    return Place(environ, sources, Path.cwd(), shlex.split(environ.get("GUNICORN_CMD_ARGS", "")))


def parse(text: str) -> dict[str, str]:
    """Return the variables of an environment file, as systemd and shells read it."""
    found = {}
    for line in text.splitlines():
        if not line.lstrip().startswith(("#", ";")) and (match := LINE.fullmatch(line)):
            value = match[2].strip()
            if value[:1] in ("'", '"') and value[-1:] == value[0] and len(value) > 1:
                value = value[1:-1]
            found[match[1]] = value
    return found


def _of_process(pid: int) -> Place:
    process = Path("/proc", str(pid))
    try:
        variables = (process / "environ").read_bytes().split(b"\0")[:-1]
        words = (process / "cmdline").read_bytes().split(b"\0")[:-1]
        folder = Path(os.readlink(process / "cwd"))
    except OSError as error:
        raise StartError(f"cannot look at process {pid}: {error.strerror}") from None
    pairs = (os.fsdecode(each).partition("=") for each in variables)
    environ = {name: value for name, _, value in pairs}
    arguments = list(map(os.fsdecode, words))
    at = next((n for n, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    options = [*shlex.split(environ.get("GUNICORN_CMD_ARGS", "")), *arguments[at:]]
    sources = dict.fromkeys(environ, f"environment of process {pid}")
    return Place(environ, sources, folder, options)


def deploy() -> Path:
    """Return the folder of what is deployed: the package's own, or the source's."""
    package = Path(esource.__file__).parent
    for folder in (package / "deploy", package.parent / "deploy"):
        if (folder / "systemd").is_dir():
            return folder
    raise Missing(f"there is no deploy/ in {package}, which it was installed with")


def _add_systemd(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "unit", nargs="?", default="esource.service", metavar="FILE",
        help="default: esource.service",
    )  # fmt: skip


def _systemd(options: argparse.Namespace) -> int:
    folder = deploy() / "systemd"
    names = sorted(path.name for path in folder.iterdir())
    if options.unit not in names:
        raise Missing(f"there is no {options.unit}; there are {', '.join(names)}")
    ours = Path(sys.prefix, "bin", "esource")
    text = (folder / options.unit).read_text()
    print(text.replace(INSTALLED, str(ours) if ours.exists() else sys.argv[0]), end="")
    return 0


COMMANDS = (
    Command(
        "config", "[--json] [--env-file FILE | --pid PID]",
        "print the settings that are in force, and where each comes from",
        CONFIG, _add_config, _config,
    ),
    Command(
        "systemd", "[FILE]",
        "print the unit for systemd, or another of its files", SYSTEMD, _add_systemd, _systemd,
    ),
)  # fmt: skip
