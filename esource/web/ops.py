"""HTTP: what lives under `/-/`, for operators and their tools.

    /-/health     does the hub do its work? 200, or 503 and what is wrong
    /-/ready      does it want more clients? 200, or 503 once it stops
    /-/metrics    what was counted, for Prometheus
    /-/channels   the list of channels

Nothing of it is a channel: their names are longer. There is nothing to write, and rights to
read are as for channels.
"""

import time
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlencode

import orjson
from flask import Flask, Response, request
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from esource.hub.hub import Hub
from esource.hub.limits import RETRY_SECONDS
from esource.hub.loop import in_thread, reads
from esource.web import answers, listing, metrics, query
from esource.web.environ import Environ, query_of
from esource.web.metrics import Gauges
from esource.web.origin import Origins
from esource.web.views import preflight

TEXT, JSON = "text", "json"
MEDIA_TYPES = {"text/plain": TEXT, "application/json": JSON}
ALLOWED = "GET, HEAD, OPTIONS"
HEADERS = {"Cache-Control": "no-store", "Vary": "Accept"}
CHANNELS_PARAMETERS = ("after", "format", "limit", "match")
PAGE_CHANNELS = 1000  # on a page, at most: about a millisecond of the loop
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

    views: dict[str, Callable[[Hub, Environ], Response]] = {
        "health": health,
        "ready": ready,
        "metrics": prometheus,
        "channels": channels,
    }
    rule = f"/-/<any({', '.join(views)}):view>"
    for function, methods in ((get, ["GET", "HEAD"]), (options, ["OPTIONS"])):
        app.add_url_rule(
            rule, f"ops.{function.__name__}", function, methods=methods,
            provide_automatic_options=False,
        )  # fmt: skip


# -- health --------------------------------------------------------------------------------


def health(hub: Hub, environ: Environ) -> Response:
    """Answer whether events can be stored. Blocks while that is tried."""
    parameters = query.parameters(query_of(environ), ("format",))
    problems = in_thread(reads(), hub.logs.problems)
    problems += [refusal for channel in hub.open_channels() if (refusal := channel.refusal)]
    named = problems[:PROBLEMS]
    if len(problems) > len(named):
        named.append(f"{len(problems) - len(named)} more")
    return _state("ok", named, parameters, environ)


def ready(hub: Hub, environ: Environ) -> Response:
    """Answer whether new clients are welcome: not while the hub stops."""
    problems = ["the hub is stopping"] if hub.draining else []
    return _state("ready", problems, query.parameters(query_of(environ), ("format",)), environ)


def _state(
    good: str, problems: list[str], parameters: dict[str, str], environ: Environ
) -> Response:
    status = 503 if problems else 200
    more = {"Retry-After": str(RETRY_SECONDS)} if problems else {}
    if _format(parameters, environ) == JSON:
        state = {"status": "failing" if problems else good, "problems": problems}
        return _answer(orjson.dumps(state) + b"\n", JSON, status, more)
    return _answer(f"{'; '.join(problems) or good}\n".encode(), TEXT, status, more)


# -- metrics -------------------------------------------------------------------------------


def prometheus(hub: Hub, environ: Environ) -> Response:
    """Answer with everything that was counted. Blocks while it is written down."""
    opened = refusing = 0
    subscribers = {}
    for channel in hub.open_channels():
        opened += 1
        refusing += bool(channel.refusal)
        if hub.config.metrics_channels and channel.followers:
            subscribers[channel.name] = len(channel.followers)
    gauges = Gauges(hub.subscribers, opened, refusing, subscribers)
    accept = environ.get("HTTP_ACCEPT", "")
    content, content_type = in_thread(reads(), metrics.text, hub.stats, gauges, accept)
    return answers.answer(content, 200, HEADERS, content_type)


# -- channels ------------------------------------------------------------------------------


class _Row(NamedTuple):
    """What the list says of a channel; the names are those of its JSON."""

    name: str
    bytes: int
    newest_id: str
    modified: float
    subscribers: int
    rate: float


def channels(hub: Hub, environ: Environ) -> Response:
    """Answer with a page of the list. Blocks while names and the ends of files are read."""
    parameters = query.parameters(query_of(environ), CHANNELS_PARAMETERS)
    after, match = parameters.get("after", ""), parameters.get("match", "")
    limit = query.count_up_to(PAGE_CHANNELS, parameters, "limit")
    page = in_thread(reads(), _page, hub, after, match, limit)
    summaries = in_thread(reads(), hub.logs.summaries, page.names)
    now = time.monotonic()
    rows = []
    for name, size, newest_id, modified in summaries:
        channel = hub.opened(name)
        if channel:  # only it knows what is committed
            _, size, newest_id = channel.view
        rows.append(
            _Row(
                name, size, newest_id.decode(errors="replace"), modified,
                len(channel.followers) if channel else 0, hub.stats.rates.of(name, now),
            )
        )  # fmt: skip
    if _format(parameters, environ) == JSON:
        content = orjson.dumps(
            {
                "channels": [row._asdict() for row in rows],
                "total": page.total,
                "next": page.next,
            }
        )
        return _answer(content + b"\n", JSON)
    return _answer(in_thread(reads(), _table, rows, page, match).encode(), TEXT)


def _page(hub: Hub, after: str, match: str, limit: int) -> listing.Page:
    return listing.page(hub.logs.names(), after, match, limit)


def _table(rows: list[_Row], page: listing.Page, match: str) -> str:
    """Return the list for people: a line for each channel, its columns one below the other."""
    lines = [("NAME", "BYTES", "EVENTS/S", "SUBSCRIBERS", "MODIFIED".ljust(20), "NEWEST ID")]
    for row in rows:
        modified = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row.modified))
        lines.append(
            (
                row.name, str(row.bytes), f"{row.rate:.1f}", str(row.subscribers),
                modified, _printable(row.newest_id),
            )
        )  # fmt: skip
    name, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    text = "".join(
        "  ".join([line[0].ljust(name), *map(str.rjust, line[1:5], others), line[5]]).rstrip()
        + "\n"
        for line in lines
    )
    if page.next is not None:
        link = urlencode({"after": page.next, **({"match": match} if match else {})})
        text += f"# {len(rows)} of {page.total}; the next page: /-/channels?{link}\n"
    return text


def _printable(id: str) -> str:
    """Return an id that a terminal only shows: files from elsewhere may hold anything."""
    return "".join(character if character.isprintable() else "\ufffd" for character in id)


# -- all of them ---------------------------------------------------------------------------


def _format(parameters: dict[str, str], environ: Environ) -> str:
    """Return the format that the query names, or the client prefers: text if it does not say."""
    if format := query.word(parameters, "format", (TEXT, JSON)):
        return format
    accepted = parse_accept_header(environ.get("HTTP_ACCEPT", ""), MIMEAccept)
    return MEDIA_TYPES[accepted.best_match(MEDIA_TYPES, "text/plain")]


def _answer(
    content: bytes, format: str, status: int = 200, more: dict[str, str] | None = None
) -> Response:
    content_type = answers.TEXT if format == TEXT else "application/json"
    return answers.answer(content, status, {**HEADERS, **(more or {})}, content_type)
