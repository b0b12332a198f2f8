"""How a line of the log looks: gunicorn's own and the hub's alike.

    text, to a terminal or a file   [2026-11-24 21:15:59 +0000] [7950] [WARNING] ...
    text, to journald               <4>...
    json                            {"time": "...", "level": "warning", "pid": 7950, ...}

journald knows the time and the process itself, and takes the priority from the number in
front (sd-daemon(3)). One event is one line; what has to be several, a traceback, goes on
with spaces in front, so that no text of a stranger looks like a line of the hub. An access line is
gunicorn's text in the first two forms, and the message of the third.

Strangers do not write the log: of what they can repeat, a worker logs the first few lines in each
minute, and then the tenth, the hundredth, and so on, with how many were left out.

Nor does it tell their secrets: the value of a parameter that is not the hub's business, most likely
a token, is taken out of every record as it is made, whoever logs it in whatever form.
"""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import TextIO

from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.instrument.statsd import Statsd

from esource.config import variable
from esource.errors import printable
from esource.server.gunicorn import Settings, is_of_gunicorn

CONTINUATION = "\n    "
SETTING = variable("log_format")
MINUTE_SECONDS = 60.0
FEW = 3  # lines of one place in the code, in a minute
MASK = r"\1=***"
_PLAIN = logging.Formatter()


def mask(names: Collection[str]) -> None:
    """From now on let no record of this process have a value of these parameters of a query."""
    if not names:
        return

    def spelt(name: str) -> str:
        """Return the pattern of a name: each byte is a character, as in WSGI, or `%` and digits."""
        return "".join([f"(?:{re.escape(chr(byte))}|(?i:%{byte:02x}))" for byte in name.encode()])

    # A value ends with the query: at a space, but for the quotation mark that a format puts there.
    name, value = "|".join(map(spelt, names)), "[^& \t\r\n]*?"
    pair = re.compile(rf"""(?<![^?&#"'\s])({name})={value}(?=["']?(?:[& \t\r\n]|\Z))""")

    def masked_in(record: logging.LogRecord) -> logging.LogRecord:
        with suppress(Exception):  # of arguments that do not fit: the handler says so
            text = record.getMessage()
            masked = pair.sub(MASK, text)
            if masked != text:
                record.msg, record.args = masked, None
        if record.exc_info:
            record.exc_text = pair.sub(MASK, _PLAIN.formatException(record.exc_info))
        return record

    logging.setLogRecordFactory(lambda *about, **more: masked_in(logging.LogRecord(*about, **more)))


def let_threads_log(log: logging.Logger) -> None:
    """Let several threads log at once, from now on; call it once gevent has patched Python.

    gevent's locks are for greenlets. Of threads that wait for one, which have no loop, not all are
    ever told that it is free: a folder with many torn rows, and the hub was still. No handler of
    ours switches greenlets, so a thread's own lock does.
    """
    from gevent.monkey import get_original

    for handler in log.handlers:
        handler.lock = get_original("_thread", "RLock")()


class Few(logging.Filter):
    """Lets through a few warnings and errors of one place in the code a minute, with a count."""

    def __init__(self) -> None:
        super().__init__()
        # Of a place: since when, how many there were, and how many of them were left out.
        self._seen: dict[tuple[str, int], tuple[float, int, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is logged; say in it how many before it were not."""
        if record.levelno < logging.WARNING:
            return True
        place = record.pathname, record.lineno
        since, count, left_out = self._seen.get(place, (record.created, 0, 0))
        if not 0 <= record.created - since < MINUTE_SECONDS:
            since, count = record.created, 0
        count += 1
        is_logged = count <= FEW or str(count).strip("0") == "1"
        self._seen[place] = since, count, 0 if is_logged else left_out + 1
        if is_logged and left_out:
            record.msg = f"{record.getMessage()} ({left_out} more like this were left out)"
            record.args = None
        return is_logged


class Logger(GunicornLogger):  # type: ignore[misc]  # gunicorn has no types
    """Gunicorn's log with the hub's formats."""

    def __new__(cls, cfg: Settings) -> "Logger":
        """Return a log that also counts for statsd, if gunicorn's options name one.

        Gunicorn chooses so by itself, but only between its own two.
        """
        log: Logger = super().__new__(_Statsd if cfg.statsd_host else cls)
        return log

    def setup(self, cfg: Settings) -> None:
        """Configure the log, also when the configuration is read again."""
        super().setup(cfg)
        for log, form in ((self.error_log, self.error_fmt), (self.access_log, self.access_fmt)):
            for handler in log.handlers:
                # Not those of an operator's own configuration, nor syslog's.
                if isinstance(handler, logging.StreamHandler) and is_of_gunicorn(handler):
                    handler.setFormatter(formatter(handler.stream, os.environ, form))


class _Statsd(Logger, Statsd):  # type: ignore[misc]
    pass


def formatter(
    stream: TextIO, environ: Mapping[str, str], form: str = GunicornLogger.error_fmt
) -> logging.Formatter:
    """Return what formats the lines for a stream; `form` is for text, but to journald."""
    journal = _is_journal(stream, environ)
    if environ.get(SETTING) == "json":
        return _Json(journal)
    return _Journal() if journal else _Text(form)


def last_line(text: str) -> str:
    """Return a line for stderr that says why the process ends before it has a log."""
    form = formatter(sys.stderr, os.environ)
    if type(form) is _Text:
        return f"esource: {text}"
    return form.format(logging.LogRecord("esource", logging.CRITICAL, "", 0, text, None, None))


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Return whether a stream goes to journald (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _priority(level: int) -> str:
    """Return a level as the kernel and syslog count them."""
    for least, priority in ((50, 2), (40, 3), (30, 4), (20, 6)):
        if level >= least:
            return f"<{priority}>"
    return "<7>"


class _Text(logging.Formatter):
    def __init__(self, form: str) -> None:
        super().__init__(form, GunicornLogger.datefmt)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- logging's name
        record.message = printable(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), "\n\t").replace("\n", CONTINUATION)


class _Journal(_Text):
    def __init__(self) -> None:
        super().__init__("%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        priority = _priority(record.levelno)
        return priority + super().format(record).replace("\n", f"\n{priority}")


class _Json(logging.Formatter):
    def __init__(self, journal: bool) -> None:
        super().__init__()
        self.journal = journal

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = record.exc_text or self.formatException(record.exc_info)
        return (_priority(record.levelno) if self.journal else "") + json.dumps(line)
