"""HTTP: what lives under `/-/`, for operators and their tools.

    /-/           the list of these

Nothing of it is a channel: their names are longer. There is nothing to write, and rights to
read are as for channels.
"""

import importlib.metadata
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import orjson
from flask import Flask, Response, request

from esource.config import Config
from esource.hub.hub import Hub
from esource.hub.limits import RETRY_SECONDS
from esource.hub.loop import in_thread, reads
from esource.hub.work import Listing, Work
from esource.web import answers, listing, metrics, openapi, query, several
from esource.web.metrics import Gauges
from esource.web.openapi import Schema
from esource.web.origin import Origins
from esource.web.post import Environ, client_of
from esource.web.query import Kind

TEXT, JSON = "text", "json"
MEDIA_TYPES = {"text/plain": TEXT, "application/json": JSON, "application/*": JSON}
CONTENT_TYPES = {TEXT: answers.TEXT, JSON: "application/json"}
HEADERS = {"Cache-Control": "no-store", "Vary": "Accept"}
PROBLEMS = 10  # named in the answer of /-/health

# A probe asks for an address, and not for one of the hub's names.
FOR_ANY_HOST = {"/-/health", "/-/ready"}
FORMAT = query.one_of(TEXT, JSON).named("FORMAT", "`text` or `json`, instead of `Accept`")
PAGE_CHANNELS = 1000  # on a page, at most: about a millisecond of the loop
STEP_CHANNELS = 100  # whose files are looked at in one step
NONE: dict[str, Kind[Any]] = {}
LIST: dict[str, Kind[Any]] = {
    "after": query.TEXT.named("NAME", "start after this channel: the `next` of the last page"),
    "limit": query.up_to(PAGE_CHANNELS).named("N", "end after N channels"),
    "match": query.TEXT.named("TEXT", "only channels whose names contain it, in any case"),
}


def register(app: Flask, hub: Hub, origins: Origins) -> None:
    """Put the views into the app."""

    def get(view: str = "") -> Response:
        return VIEWS[view].answer(hub, request.environ)

    def options(view: str = "") -> Response:
        return answers.answer("", 204, origins.preflight(request.environ, "GET, HEAD"))

    for function, methods in ((get, ["GET", "HEAD"]), (options, ["OPTIONS"])):
        for rule in ("/-/", f"/-/<any({', '.join(filter(None, VIEWS))}):view>"):
            app.add_url_rule(
                rule, f"ops.{function.__name__}", function, methods=methods,
                provide_automatic_options=False,
            )  # fmt: skip


class Asked(NamedTuple):
    """What a query asks for."""

    format: str  # TEXT or JSON
    parameters: dict[str, Any]


# -- health --------------------------------------------------------------------------------


def health(hub: Hub, environ: Environ, asked: Asked) -> Response:
    """Answer whether events can be stored, and what is missing of histories. Blocks to try it."""
    problems = in_thread(reads(), hub.logs.problems)
    problems += [refusal for channel in hub.open_channels() if (refusal := channel.refusal)]
    return _state("ok", _few(problems), asked.format, _few(hub.logs.gaps()))


def _few(lines: list[str]) -> list[str]:
    return lines[:PROBLEMS] + [f"{len(lines) - PROBLEMS} more"] * (len(lines) > PROBLEMS)


def ready(hub: Hub, environ: Environ, asked: Asked) -> Response:
    """Answer whether new clients are welcome: not while the hub stops."""
    return _state("ready", ["the hub is stopping"] if hub.draining else [], asked.format)


def _state(good: str, problems: list[str], format: str, gaps: Sequence[str] = ()) -> Response:
    """Answer with what is wrong; gaps are named, but what can be stored can be stored."""
    if format == JSON:
        state = {"status": "failing" if problems else good, "problems": problems}
        content = orjson.dumps(state | ({"gaps": gaps} if gaps else {})) + b"\n"
    else:
        content = f"{'; '.join([*(problems or [good]), *gaps])}\n".encode()
    if not problems:
        return _answer(content, format)
    return _answer(content, format, 503, {"Retry-After": str(RETRY_SECONDS)})


# -- metrics -------------------------------------------------------------------------------


def prometheus(hub: Hub, environ: Environ) -> Response:
    """Answer with everything that was counted. Blocks while it is written down."""
    _parameters(hub, environ, NONE)
    opened = refusing = 0
    subscribers = {}
    for channel in hub.open_channels():
        opened += 1
        refusing += bool(channel.refusal)
        if hub.config.metrics_channels and channel.followers:
            subscribers[channel.name] = len(channel.followers)
    usage = hub.meter.usage()
    store = hub.logs.shared.counts if hub.logs.shared else None
    gauges = Gauges(
        hub.subscribers, len(hub.parking), opened, refusing, subscribers, hub.body_bytes, usage,
        store,
    )  # fmt: skip
    accept = environ.get("HTTP_ACCEPT", "")
    work = Work(client_of(environ))
    content, content_type = work.do(metrics.text, hub.stats, gauges, accept)
    return answers.answer(content, 200, HEADERS, content_type)


# -- channels ------------------------------------------------------------------------------


def channels(hub: Hub, environ: Environ, asked: Asked) -> Response:
    """Answer with a page of the list. Blocks while names and the ends of files are read."""
    after, match = asked.parameters.get("after", ""), asked.parameters.get("match", "")
    limit = asked.parameters.get("limit", PAGE_CHANNELS)
    work = Listing(client_of(environ))
    page = work.do(lambda: listing.page(hub.logs.names(), after, match, limit))
    summaries = [
        summary
        for start in range(0, len(page.names), STEP_CHANNELS)
        for summary in work.do(hub.logs.summaries, page.names[start : start + STEP_CHANNELS])
    ]
    now = time.monotonic()
    rows = []
    for name, size, newest_id, modified, segments in summaries:
        channel = hub.opened(name)
        if channel and not hub.logs.shared:  # only it knows what is committed
            _, size, newest_id, _ = channel.view
        id = newest_id.decode(errors="replace")
        followers = len(channel.followers) if channel else 0
        rate = hub.stats.rates.of(name, now)
        rows.append(listing.Row(name, size, id, modified, followers, rate, segments))
    if asked.format == JSON:
        return _answer(listing.json(rows, page), JSON)
    return _answer(work.do(listing.table, rows, page, match), TEXT)


# -- all of them ---------------------------------------------------------------------------


def index(hub: Hub, environ: Environ, asked: Asked) -> Response:
    """Answer with the list of what is here."""
    paths = {f"/-/{name}": view.description["summary"] for name, view in VIEWS.items()}
    if asked.format == JSON:
        return _answer(orjson.dumps(paths) + b"\n", JSON)
    lines = [f"{path:<16} {what}\n" for path, what in paths.items()]
    return _answer("".join(lines).encode(), TEXT)


def description(hub: Hub, environ: Environ) -> Response:
    """Answer with what all paths take and give."""
    _parameters(hub, environ, NONE)
    return _answer(_description(hub.config), JSON)


@cache
def _description(config: Config) -> bytes:
    paths = {f"/-/{name}": view.description for name, view in VIEWS.items()}
    return orjson.dumps(openapi.document(config, paths, _documentation())) + b"\n"


def _documentation() -> str | None:
    """Return where the documentation is, as the package that is installed says."""
    try:
        links = importlib.metadata.metadata("esource").get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return dict(link.split(", ", 1) for link in links).get("Documentation")


def _parameters(hub: Hub, environ: Environ, kinds: Mapping[str, Kind[Any]]) -> dict[str, Any]:
    """Return the parameters of a request. Raises `BadInput` unless they are of these kinds."""
    pairs = query.pairs(environ.get("QUERY_STRING", ""), hub.config.ignore_parameters)
    return query.parameters(pairs, kinds)


class View(NamedTuple):
    """What is at one path."""

    answer: Callable[[Hub, Environ], Response]
    description: Schema  # of its `GET`; the `summary` says what it is for


def _listed(
    answer: Callable[[Hub, Environ, Asked], Response], what: str, shape: Schema,
    kinds: Mapping[str, Kind[Any]] = NONE, statuses: tuple[int, ...] = (200,),
) -> View:  # fmt: skip
    """Return a view that answers in text, or in JSON of a shape.

    In what the query names, or else the client prefers; in text if neither says.
    """
    kinds = {**kinds, "format": FORMAT}

    def asked(hub: Hub, environ: Environ) -> Response:
        parameters = _parameters(hub, environ, kinds)
        format = parameters.get("format")
        if not format:
            accepted = answers.accepted(environ.get("HTTP_ACCEPT", ""))
            format = next((MEDIA_TYPES[kind] for kind in accepted if kind in MEDIA_TYPES), TEXT)
        return answer(hub, environ, Asked(format, parameters))

    content = {"text/plain": openapi.STRING, "application/json": shape}
    return View(asked, openapi.of_list(answer.__name__, what, kinds, content, statuses))


VIEWS = {
    "": _listed(index, "this list", openapi.PATHS),
    "health": _listed(
        health, "does the hub do its work? 200, or 503 and what is wrong", openapi.STATE,
        statuses=(200, 503),
    ),
    "ready": _listed(
        ready, "does it want more clients? 200, or 503 once it stops", openapi.STATE,
        statuses=(200, 503),
    ),
    "metrics": View(
        prometheus,
        openapi.of_list(
            "metrics", "what was counted, for Prometheus", NONE,
            dict.fromkeys(("text/plain", "application/openmetrics-text"), openapi.STRING),
        ),
    ),
    "read": View(
        several.read,
        openapi.of_several(
            "readSeveral", "several channels in one stream: ?channel=NAME&channel=NAME&follow",
            several.KINDS, several.OWN_FORMATS,
        ),
    ),
    "channels": _listed(
        channels, "the list of channels: ?match=, ?after=, ?limit=, ?format=json",
        openapi.CHANNELS, LIST,
    ),
    "openapi.json": View(
        description,
        openapi.of_list(
            "openapi", "what all paths take and answer, for programs (OpenAPI)", NONE,
            {"application/json": {"type": "object"}},
        ),
    ),
}  # fmt: skip


def _answer(
    content: bytes, format: str, status: int = 200, more: dict[str, str] | None = None
) -> Response:
    return answers.answer(content, status, {**HEADERS, **(more or {})}, CONTENT_TYPES[format])
