"""`esource` and `python -m esource`: start the hub, as plain `gunicorn` does in a checkout."""

import sys

from gunicorn.app.wsgiapp import WSGIApplication

from esource import __version__

USAGE = """\
usage: esource [GUNICORN OPTIONS]

Start the hub. Settings are environment variables (ESOURCE_DIR, ESOURCE_BIND, …; see the
README), and gunicorn's options work as always, for example:

    ESOURCE_DIR=/srv/events esource -b 127.0.0.1:8000

    -h, --help      this text; `gunicorn --help` lists gunicorn's options
    -v, --version   the version
"""


def main() -> None:
    """Run the server with gunicorn's options from the command line; does not return."""
    options = sys.argv[1:]
    if options and options[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
    elif options and options[0] in ("-v", "--version", "version"):
        print(f"esource {__version__}")
    else:
        # The last -c wins, so a person's own still counts.
        sys.argv[1:] = ["-c", "python:esource.server", *options]
        WSGIApplication(prog="esource").run()


if __name__ == "__main__":
    main()
