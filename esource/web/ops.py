"""HTTP: what lives under `/-/`, for operators and their tools.

    /-/health     does the hub do its work? 200, or 503 and what is wrong
    /-/ready      does it want more clients? 200, or 503 once it stops
    /-/metrics    what was counted, for Prometheus
    /-/channels   the list of channels

Nothing of it is a channel: their names are longer. Nobody writes here, and who may read is
as for channels.
"""

import errno
import os
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
from flask import Flask, Response, request
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from esource.errors import BadInput
from esource.hub.hub import Hub
from esource.hub.limits import RETRY_AFTER
from esource.hub.loop import in_thread, reads
from esource.web import answers, listing, metrics
from esource.web.metrics import Gauges
from esource.web.origin import Origins
from esource.web.views import preflight

TEXT, JSON = "text", "json"
MEDIA_TYPES = {"text/plain": TEXT, "application/json": JSON}
ALLOWED = "GET, HEAD, OPTIONS"
HEADERS = {"Cache-Control": "no-store", "Vary": "Accept"}
CHANNELS_PARAMETERS = ("after", "format", "limit", "match")
PAGE_CHANNELS = 1000  # on a page, at most: about a millisecond of the loop
PROBE_BYTES = 4096
PROBLEMS = 10  # named in the answer of /-/health


def register(app: Flask, hub: Hub) -> None:
    """Put the views into the app."""
    origins = Origins(hub.config)

    def get(view: str) -> Response:
        origins.check_host(request.environ.get("HTTP_HOST", ""))
        return views[view](hub, request.environ)

    def options(view: str) -> Response:
        headers = {**preflight(origins, request.environ), "Allow": ALLOWED}
        return answers.answer("", 204, headers)

    views: dict[str, Callable[[Hub, dict[str, Any]], Response]] = {
        "health": health,
        "ready": ready,
        "metrics": prometheus,
        "channels": partial(channels, listing.Names(hub.config.dir)),
    }
    rule = f"/-/<any({', '.join(views)}):view>"
    for function, methods in ((get, ["GET", "HEAD"]), (options, ["OPTIONS"])):
        app.add_url_rule(
            rule, f"ops.{function.__name__}", function, methods=methods,
            provide_automatic_options=False,
        )  # fmt: skip


# -- health --------------------------------------------------------------------------------


def health(hub: Hub, environ: dict[str, Any]) -> Response:
    """Answer whether events can be stored. Blocks while that is tried."""
    parameters = answers.parameters(environ, ("format",))
    problems = in_thread(reads(), _folder_problems, hub.config.dir)
    problems += [channel.log.failed for channel in hub.open_channels() if channel.log.failed]
    named = problems[:PROBLEMS]
    if len(problems) > len(named):
        named.append(f"{len(problems) - len(named)} more")
    return _state("ok", named, parameters, environ)


def ready(hub: Hub, environ: dict[str, Any]) -> Response:
    """Answer whether new clients are welcome: not while the hub stops."""
    problems = ["the hub is stopping"] if hub.draining else []
    return _state("ready", problems, answers.parameters(environ, ("format",)), environ)


def _state(
    good: str, problems: list[str], parameters: dict[str, str], environ: dict[str, Any]
) -> Response:
    status = 503 if problems else 200
    more = {"Retry-After": RETRY_AFTER} if problems else {}
    if _format(parameters, environ) == JSON:
        state = {"status": "failing" if problems else good, "problems": problems}
        return _answer(orjson.dumps(state) + b"\n", JSON, status, more)
    return _answer(f"{'; '.join(problems) or good}\n".encode(), TEXT, status, more)


def _folder_problems(folder: Path) -> list[str]:
    """Return why nothing can be written to the folder, if so.

    Only a write tells of a full disk and of a file system that went read-only. The file has
    no name, so that nobody sees it and a crash leaves nothing.
    """
    try:
        try:
            nameless = getattr(os, "O_TMPFILE", 0)
            fd = os.open(folder, nameless | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
            # Not every system has such files: then what the rights and flags say.
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
            return []
        try:
            os.write(fd, bytes(PROBE_BYTES))
        finally:
            os.close(fd)
    except OSError as error:
        return [f"cannot write to the folder {folder}: {error.strerror}"]
    return []


# -- metrics -------------------------------------------------------------------------------


def prometheus(hub: Hub, environ: dict[str, Any]) -> Response:
    """Answer with everything that was counted. Blocks while it is written down."""
    opened = refusing = 0
    subscribers = {}
    for channel in hub.open_channels():
        opened += 1
        refusing += bool(channel.log.failed)
        if hub.config.metrics_channels and channel.readers:
            subscribers[channel.name] = len(channel.readers)
    gauges = Gauges(hub.subscribers, opened, refusing, subscribers)
    accept = environ.get("HTTP_ACCEPT", "")
    content, content_type = in_thread(reads(), metrics.text, hub.stats, gauges, accept)
    return answers.answer(content, 200, HEADERS, content_type)


# -- channels ------------------------------------------------------------------------------


def channels(names: listing.Names, hub: Hub, environ: dict[str, Any]) -> Response:
    """Answer with a page of the list. Blocks while names and the ends of files are read."""
    parameters = answers.parameters(environ, CHANNELS_PARAMETERS)
    after, match = parameters.get("after", ""), parameters.get("match", "")
    page = in_thread(reads(), _page, names, after, match, _limit(parameters))
    opened = {name: channel for name in page.names if (channel := hub.opened(name))}
    files = in_thread(reads(), listing.files, hub.config.dir, page.names, opened)
    now = time.monotonic()
    rows = []
    for file in files:
        channel = opened.get(file.name)
        size, newest_id = file.size, file.newest_id
        if channel:  # only it knows what is committed
            size, newest_id = channel.committed, channel.newest_id
        rows.append(
            {
                "name": file.name,
                "bytes": size,
                "newest_id": newest_id.decode(errors="replace"),
                "modified": file.modified,
                "subscribers": len(channel.readers) if channel else 0,
                "rate": hub.stats.rates.of(file.name, now),
            }
        )
    if _format(parameters, environ) == JSON:
        content = orjson.dumps({"channels": rows, "total": page.total, "next": page.next})
        return _answer(content + b"\n", JSON)
    return _answer(in_thread(reads(), _table, rows, page, match).encode(), TEXT)


def _page(names: listing.Names, after: str, match: str, limit: int) -> listing.Page:
    return listing.page(names.all(), after, match, limit)


def _limit(parameters: dict[str, str]) -> int:
    text = parameters.get("limit") or str(PAGE_CHANNELS)
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= PAGE_CHANNELS:
        raise BadInput(f"limit is {text!r}, but must be 1 to {PAGE_CHANNELS}")
    return int(text)


def _table(rows: list[dict[str, Any]], page: listing.Page, match: str) -> str:
    """Return the list for people: a line for each channel, its columns one below the other."""
    lines = [("NAME", "BYTES", "EVENTS/S", "SUBSCRIBERS", "MODIFIED".ljust(20), "NEWEST ID")]
    for row in rows:
        modified = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row["modified"]))
        lines.append(
            (
                row["name"], str(row["bytes"]), f"{row['rate']:.1f}", str(row["subscribers"]),
                modified, _printable(row["newest_id"]),
            )
        )  # fmt: skip
    name, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    text = "".join(
        "  ".join([line[0].ljust(name), *map(str.rjust, line[1:5], others), line[5]]).rstrip()
        + "\n"
        for line in lines
    )
    if page.next is not None:
        query = urlencode({"after": page.next, **({"match": match} if match else {})})
        text += f"# {len(rows)} of {page.total}; the next page: /-/channels?{query}\n"
    return text


def _printable(id: str) -> str:
    """Return an id that a terminal only shows: files from elsewhere may hold anything."""
    return "".join(character if character.isprintable() else "\ufffd" for character in id)


# -- all of them ---------------------------------------------------------------------------


def _format(parameters: dict[str, str], environ: dict[str, Any]) -> str:
    """Return the format that the query names, or the client prefers: text if it does not say."""
    format = parameters.get("format")
    if format:
        if format not in (TEXT, JSON):
            raise BadInput(f"format is {format!r}, but must be one of {TEXT}, {JSON}")
        return format
    accepted = parse_accept_header(environ.get("HTTP_ACCEPT", ""), MIMEAccept)
    return MEDIA_TYPES[accepted.best_match(MEDIA_TYPES, "text/plain")]


def _answer(
    content: bytes, format: str, status: int = 200, more: dict[str, str] | None = None
) -> Response:
    content_type = answers.TEXT if format == TEXT else "application/json"
    return answers.answer(content, status, {**HEADERS, **(more or {})}, content_type)
