"""`GET /<channel>`: selection x format x finite or follow.

A read is a view, a place in it to start from, and a format. It answers from that view alone,
however the channel goes on meanwhile. The whole log as TSV is a download, which can be continued,
asked about and sent without looking at it; so is any other part of it that is TSV and finite and
whole. What follows is in `stream`.
"""

import re
import time
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from typing import NamedTuple

from flask import Response
from werkzeug.datastructures import Headers
from werkzeug.http import (
    http_date,
    is_resource_modified,
    parse_range_header,
)

from esource.errors import BadInput, BadRange, Missing
from esource.event import PLACE
from esource.hub import download
from esource.hub.channel import Channel
from esource.hub.hub import Hub
from esource.hub.loop import in_thread, reads
from esource.hub.tail import Stretch
from esource.hub.view import Place, View, last_event
from esource.hub.work import Work
from esource.rows import sse, tsv
from esource.rows.find import Verdict
from esource.rows.formats import EVENT_STREAMS, FORMATS, MEDIA_TYPES, SSE, TSV, Format
from esource.web import answers, query, stream
from esource.web.encoder import Encoder
from esource.web.get import Begun, Connection, Get, connection_of
from esource.web.post import Environ, client_of
from esource.web.query import Pairs, Selection

# What monitors ask by mistake: as a channel that is empty it would be well for ever.
PROBES = {
    "health": "health", "healthz": "health", "livez": "health", "status": "health",
    "ready": "ready", "readyz": "ready", "metrics": "metrics",
}  # fmt: skip
HEADER_VALUE = re.compile(rb"[ -~\x80-\xff]+")  # RFC 9110, 5.5


class Start(NamedTuple):
    """Where a read starts."""

    view: View  # which it answers from
    offset: int
    verdict: Verdict | None  # how a resume point was found, if there was one
    searched: View  # in which that was looked for: the same, unless the read ends before its end


class Asked(NamedTuple):
    """What a query and an `Accept` ask for."""

    pairs: Pairs  # of the query
    wanted: Selection
    format: Format
    follow: bool


def ask(text: str, accept: str, ignored: Collection[str] = ()) -> Asked:
    """Return what a query and an `Accept` ask for, as WSGI has them. Pure; raises `BadInput`.

    `ignored` are names of parameters. What is said as so long ago is another moment each time.
    """
    pairs = query.pairs(text, ignored)
    wanted = query.parse(pairs)
    format = _format(wanted, accept)
    follow = format in EVENT_STREAMS if wanted.follow is None else wanted.follow
    check(wanted, format, follow)
    return Asked(pairs, wanted, format, follow)


def read(hub: Hub, name: str, environ: Environ) -> Response:
    """Answer a GET or HEAD. Blocks while the place to start from is looked for."""
    text, accept = environ.get("QUERY_STRING", ""), environ.get("HTTP_ACCEPT", "")
    asked = ask(text, accept, hub.config.ignore_parameters)
    is_opened = hub.config.ui and not asked.wanted.format and _is_navigation(environ)
    if not asked.follow or is_opened:
        return _read(hub, name, environ, asked, is_opened)
    begun = follow(hub, Get.from_environ(name, environ), asked, connection_of(environ))
    if isinstance(begun, Response):
        return begun
    return Response(begun.content, 200, Headers(list(begun.headers)), direct_passthrough=True)


def follow(hub: Hub, get: Get, asked: Asked, connection: Connection) -> Begun | Response:
    """Begin a follow, or answer why there is none. Blocks while the place is looked for."""
    answer = partial(_follow, hub, get, asked, connection)
    return stream.unless_away(hub, asked.format, True, answer)


def _follow(hub: Hub, get: Get, asked: Asked, connection: Connection) -> Begun | Response:
    channel, (_, wanted, format, _) = hub.unopened(get.channel), asked
    resume_id = utf8(get.last_event_id.encode("latin-1")) or wanted.resume
    work = Work(connection.client)
    start = view, offset, verdict, _ = start_of(channel, wanted, resume_id, True, work)
    if resume_id and format in EVENT_STREAMS and _has_ended(start, resume_id, wanted.until):
        return answers.answer("", 204, {"Cache-Control": "no-store"})
    if verdict:
        hub.stats.resumed(verdict)
    headers = stream.live_headers(format.content_type, verdict)
    return stream.follow(hub, channel, view, offset, wanted, format, headers, get, connection)


def _read(hub: Hub, name: str, environ: Environ, asked: Asked, is_opened: bool = False) -> Response:
    channel, (pairs, wanted, format, _) = hub.unopened(name), asked
    resume_id = utf8(environ.get("HTTP_LAST_EVENT_ID", "").encode("latin-1"))
    if name in PROBES and not asked.follow and not channel.refresh().end:
        raise Missing(f"there is no channel {name}; the hub's own is at /-/{PROBES[name]}")
    if is_opened:
        location = {"Location": f"/?channel={name}", "Cache-Control": "no-store"}
        return answers.answer(f"the page of this channel is at /?channel={name}\n", 303, location)
    work = Work(client_of(environ))
    resume_id = resume_id or wanted.resume
    start = view, offset, verdict, searched = start_of(channel, wanted, resume_id, False, work)
    if resume_id and format in EVENT_STREAMS and _has_ended(start, resume_id, wanted.until):
        return answers.answer("", 204, {"Cache-Control": "no-store"})
    moves = wanted.moves
    if wanted.wait is not None:
        view, offset = stream.wait(hub, channel, view, offset, wanted, work, environ)
        moves |= view is not start.view  # what it waited for would be another answer by now
    headers = answers.headers(format.content_type, {"Vary": "Accept, Last-Event-ID"})
    if verdict:
        headers["Esource-Resume"] = verdict.value
        hub.stats.resumed(verdict)
    headers["Cache-Control"] = "no-cache"  # may be kept, must be asked about
    newest_id = view.newest_id
    if wanted.wait is not None and not newest_id:  # it must have something to go on with
        newest_id = Place(view.log, view.end).id
    if wanted.limit is None and wanted.until is None and HEADER_VALUE.fullmatch(newest_id):
        headers["Last-Event-ID"] = newest_id.decode("latin-1")
    if not moves and _is_unmodified(searched, format, headers, environ):
        return Response(status=304, headers=headers)
    if format is TSV and wanted.is_whole:
        is_all = not pairs and not resume_id
        if is_all and answers.wants_sha256(environ.get("HTTP_WANT_REPR_DIGEST", "")):
            headers.update(answers.repr_digest(channel.digest(view, work)))
        if not (is_all and view.log.start and environ.get("HTTP_RANGE")):
            return _download(hub, view, offset, headers, environ, is_all)
        # `curl -C -` calls a copy of the history before complete, if that is as long as this answer
        # says that it is; without a length it sees that it cannot go on.
        headers["Accept-Ranges"], offset = "none", view.log.start
    encode = Encoder(channel, wanted, format, follows=False)
    stretches = channel.read(view, offset, wanted.types, work)
    if not (format.head or wanted.types or wanted.limit == 0):
        try:  # before the answer has begun
            stretches = chain(list(islice(stretches, 1)), stretches)
        except ConnectionResetError:
            if offset >= view.log.start:
                raise
            return _read(hub, name, environ, asked)
    content = _finite(encode, view, offset, stretches, wanted, format, work)
    return Response(content, 200, headers, direct_passthrough=True)


def check(wanted: Selection, format: Format, follow: bool) -> None:
    """Raise `BadInput` for parameters that mean nothing in a format, or with or without a follow.

    Better than an answer to another question.
    """
    others = {"wait", "before"} if follow else {"timeout", "heartbeat"}
    for name in sorted(name for name in others if getattr(wanted, name) is not None):
        raise BadInput(
            f"{name} is for a finite read; add follow=0" if follow
            else f"{name} is for a follow; add follow=1"
        )  # fmt: skip
    if wanted.wait is not None and wanted.before is not None:
        raise BadInput("wait is for what comes next, and nothing comes before an event")
    if wanted.heartbeat is not None and not format.heartbeat:
        raise BadInput("heartbeat is for event streams and ndjson")
    if wanted.prime is not None and format not in EVENT_STREAMS:
        raise BadInput("prime is for event streams")


def _format(wanted: Selection, accept: str) -> Format:
    """Return the format that the query names, or the client prefers.

    A client that can take an event stream at all gets one; clients of it that list other types as
    well mean those for errors.
    """
    if wanted.format:
        return FORMATS[wanted.format]
    acceptable = [MEDIA_TYPES[kind] for kind in answers.accepted(accept) if kind in MEDIA_TYPES]
    return SSE if SSE in acceptable else next(iter(acceptable), TSV)


def _is_navigation(environ: Environ) -> bool:
    """Return whether a person has opened this address in a browser, and not a page or a program."""
    return (
        "text/html" in environ.get("HTTP_ACCEPT", "").lower()
        and "HTTP_RANGE" not in environ
        and (
            environ.get("HTTP_UPGRADE_INSECURE_REQUESTS") == "1"
            or environ.get("HTTP_SEC_FETCH_DEST") == "document"
        )
    )


def utf8(id: bytes) -> bytes:
    """Return an id in UTF-8; a client that sends anything else means Latin-1."""
    try:
        id.decode()
    except ValueError:
        return id.decode("latin-1").encode()
    return id


def start_of(
    channel: Channel, wanted: Selection, resume_id: bytes, follow: bool, work: Work
) -> Start:
    """Return where to start: after `resume_id`, where the client has got to, if it has begun.

    Else as the link says that it followed first. Blocks while that is searched. Raises `BadInput`
    if there is no event to end before.
    """
    if resume_id:
        wanted = wanted._replace(after=resume_id, since=None, newest=None, tail=None)
    view = searched = channel.refresh()
    verdict = None
    offset = view.log.begin
    if wanted.after:
        searched, offset, verdict = channel.after(view, wanted.after, work)
        view = searched
    elif wanted.after is not None:  # a script without a cursor must not skip history
        verdict = Verdict.TRIMMED if view.log.start else Verdict.START
    if wanted.since is not None:
        offset = max(offset, channel.later_than(view, wanted.since, work))
        is_gone = view.log.start > 0 and offset == view.log.begin
        verdict = Verdict.TRIMMED if is_gone else Verdict.TIME
    if wanted.before:
        cut = channel.before(view, *wanted.before, work)
        if cut is None:
            raise BadInput(f"there is no event {wanted.before.id.decode()[:100]!r} to end before")
        view, offset = cut, min(offset, cut.end)
    if wanted.newest is not None:
        start, offset = offset, channel.last(view, 1, offset, frozenset([wanted.newest]), work)
        verdict = Verdict.EXACT if offset > start else verdict or Verdict.START
    if wanted.tail is not None:
        offset = channel.last(view, wanted.tail, offset, wanted.types, work)
    elif (follow or wanted.wait is not None) and not verdict:
        offset, verdict = view.end, Verdict.LIVE
    return Start(view, offset, verdict, searched)


def _has_ended(start: Start, resume_id: bytes, until: bytes | None) -> bool:
    """Return whether a client has got to an event of the type that ends its stream. Blocks.

    An `EventSource` comes back after every end; only `204` keeps it away.
    """
    if until is None or start.verdict is not Verdict.EXACT or PLACE.fullmatch(resume_id):
        return False
    _, row = in_thread(reads(), last_event, start.view.log, start.offset)
    return bool(row) and tsv.type_of(row) == until


def _is_unmodified(view: View, format: Format, headers: Headers, environ: Environ) -> bool:
    """Return whether the client has this answer (RFC 9110, 13.1); put into `headers` what names it.

    A date has no fractions: an append in the second of the last read must still look newer, so the
    log counts as modified in the second that follows the append.
    """
    modified = int(view.log.modified) + 1
    headers["ETag"] = answers.etag(view, "" if format is TSV else format.name)
    if view.end:
        headers["Last-Modified"] = http_date(min(modified, time.time()))
    try:
        return not is_resource_modified(environ, headers["ETag"], last_modified=http_date(modified))
    except OverflowError:  # a date that no calendar has is no date
        return False


def _finite(
    encode: Encoder, view: View, offset: int, stretches: Iterable[Stretch], wanted: Selection,
    format: Format, work: Work,
) -> Iterator[bytes]:  # fmt: skip
    prime = sse.prime(Place(view.log, offset).id) if wanted.prime else b""
    if format.head:
        yield format.head + prime
    if not encode.is_done:
        for stretch in stretches:
            if piece := encode(stretch):
                yield piece
                work.heard()
            if encode.is_done:
                break
    if format.end:
        yield format.end


# -- downloads -----------------------------------------------------------------------------


def _download(
    hub: Hub, view: View, offset: int, headers: Headers, environ: Environ, is_all: bool
) -> Response:
    """Answer with bytes of the log; all of it can be asked for in part, and asked about."""
    status, end = 200, view.end
    if is_all:
        # A byte order mark is included: a copy is gone on with by its size.
        offset = view.log.start
        # Once rows have been removed an offset in the channel is none in a copy.
        headers["Accept-Ranges"] = "none" if offset else "bytes"
        part = None if offset else _range(environ, end, headers["ETag"])
        if part:
            offset, end = part
            headers["Content-Range"] = f"bytes {offset}-{end - 1}/{view.end}"
            status = 206
    headers["Content-Length"] = str(end - offset)
    content = download.send(hub.clients, client_of(environ), view.log, offset, end)
    return Response(content, status, headers, direct_passthrough=True)


def _range(environ: Environ, size: int, etag: str) -> tuple[int, int] | None:
    """Return the one range that is asked for, if it is for this version; raise `BadRange`."""
    asked = parse_range_header(environ.get("HTTP_RANGE"))
    if not asked or asked.units != "bytes" or len(asked.ranges) != 1:
        return None
    if environ["REQUEST_METHOD"] != "GET" or environ.get("HTTP_IF_RANGE", etag) != etag:
        return None
    part = asked.range_for_length(size)
    if part is None and size and asked.ranges[0][0] < -size:
        part = 0, size  # the last so many bytes of fewer: all of them (RFC 9110, 14.1.2)
    if part is None:
        raise BadRange(f"the channel ends at byte {size}", size)
    return part
