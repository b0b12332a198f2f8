"""What a command is, and what all of them share."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TextIO

from esource.config import Config
from esource.errors import EsourceError, Missing, StartError, Unusable, printable

CODES = "Exit codes: 0 if all is well, 1 if not, 2 if the command line makes no sense."


class Command(NamedTuple):
    """A command: its line of the table, its help, its arguments, and what it does."""

    name: str
    usage: str  # what follows the name
    summary: str  # one line
    description: str
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]  # returns the exit code; raises what `main` prints

    def parser(self) -> argparse.ArgumentParser:
        """Return what reads its arguments and prints its help."""
        parser = argparse.ArgumentParser(
            usage=f"esource {self.name} {self.usage}", description=self.description, epilog=CODES,
            prog=f"esource {self.name}", formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        self.add(parser)
        return parser

    def main(self, arguments: list[str]) -> int:
        """Run it; return the exit code. What is wrong is one line."""
        options = self.parser().parse_args(arguments)
        try:
            return self.run(options)
        except EsourceError as error:
            say(f"esource: {error}", sys.stderr)
            return 2 if isinstance(error, Unusable) else 1
        except BrokenPipeError:
            pass
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            say(f"esource: {where}{error.strerror or error}", sys.stderr)
        return 1


def say(text: str, to: TextIO | None = None) -> None:
    """Print a line that may hold what a file says, or what it is called."""
    print(printable(text), file=to)


def is_for_engine(options: argparse.Namespace) -> bool:
    """Return whether a command is for the engine of ESOURCE_STORE: no folder is named, and it is.

    Raises `StartError` for settings that make no sense.
    """
    return not options.folder and bool(Config.from_env(os.environ).store)


def folder_of(options: argparse.Namespace) -> Path:
    """Return the folder that a command is for; raise `StartError` if it is none."""
    if is_for_engine(options):
        raise StartError("ESOURCE_STORE is an engine, which has no files; name a folder")
    folder: Path = options.folder or Config.from_env(os.environ).dir
    if not folder.is_dir():
        raise StartError(f"{folder} is not a folder")
    return folder


def channel_of(options: argparse.Namespace) -> str:
    """Return the channel that a command is for; raise `Missing` if there can be none."""
    from esource.log import NAME

    channel: str = options.channel
    if not NAME.fullmatch(channel):
        raise Missing(f"{channel!r} is no name of a channel: {NAME.pattern}")
    return channel
