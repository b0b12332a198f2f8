"""`esource` and `python -m esource`: serve, or one of the commands, which have a table.

`esource --help` says which there are, and what their exit codes mean; it is made of that table.
"""

import logging
import sys
from collections.abc import Sequence

from esource import __version__
from esource.command import checks, clients, engines, histories, settings
from esource.errors import printable

COMMANDS = {
    command.name: command
    for command in (
        *clients.COMMANDS,
        *checks.COMMANDS,
        *histories.COMMANDS,
        *engines.COMMANDS,
        *settings.COMMANDS,
    )
}
HELP = """\
Settings are environment variables (ESOURCE_DIR, ESOURCE_BIND, …; see the README).
Gunicorn's options work as always, `gunicorn --help` lists them:

    ESOURCE_DIR=/srv/events esource -b 127.0.0.1:8000

follow and pipe are clients of a hub, and need its URL alone. The other commands are for the files
in ESOURCE_DIR, unless a folder is named. check, rotate and trim may run beside a hub; the others
leave a folder alone that a hub holds. With ESOURCE_STORE, check, trim, rm and erase are for the
engine, and may run beside its hubs.

Exit codes:
  0  all is well: no file has anything wrong, or the hub was told to stop
  1  it is not: a file has something wrong, the folder is held, the hub cannot start or says no
  2  the command line makes no sense
  3  the hub failed while it started to serve; its log says why
"""


def usage() -> str:
    """Return what `esource --help` says."""
    lines = ["esource [serve] [GUNICORN OPTIONS]"]
    lines += [f"esource {command.name} {command.usage}" for command in COMMANDS.values()]
    lines += ["esource version", "esource COMMAND --help"]
    summaries = {"serve": "start the hub (also without the word), as plain gunicorn does here"}
    summaries |= {command.name: command.summary for command in COMMANDS.values()}
    summaries["version"] = "print the version"
    words = "".join(f"{name:8} {summary}\n" for name, summary in summaries.items())
    return "usage: " + "\n       ".join(lines) + f"\n\n{words}\n{HELP}"


def main() -> None:
    """Run the command of the command line."""
    arguments = sys.argv[1:]
    command = arguments[0] if arguments else "serve"
    if command in ("-h", "--help", "help"):
        print(usage(), end="")
    elif command in ("-v", "--version", "version"):
        print(f"esource {__version__}")
    elif command in COMMANDS:
        _log_to_terminal()
        try:
            sys.exit(COMMANDS[command].main(arguments[1:]))
        except KeyboardInterrupt:
            sys.exit(130)
    elif command == "serve" or command.startswith("-"):
        _serve(arguments[command == "serve" :])
    else:
        print(f"esource: there is no command {command!r}; see esource --help", file=sys.stderr)
        sys.exit(2)


def _serve(options: Sequence[str]) -> None:
    """Run the server with gunicorn's options; does not return."""
    from gunicorn.app.wsgiapp import WSGIApplication

    # The last -c wins, so a person's own still counts.
    sys.argv[1:] = ["-c", "python:esource.server", *options]
    WSGIApplication(prog="esource").run()


def _log_to_terminal() -> None:
    """Have what the log's functions have to say printed, fit for a terminal."""
    handler = logging.StreamHandler()
    handler.format = lambda record: printable(record.getMessage())  # type: ignore[method-assign]
    logging.basicConfig(handlers=[handler])


if __name__ == "__main__":
    main()
