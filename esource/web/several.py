"""`GET /-/read`: several channels in one stream, with one cursor.

    /-/read?channel=orders&channel=payments&follow=1

Its events are objects that say which channel they are of. The id of each is the cursor behind it:
the places of all channels, joined with `,`. Under `/-/`, so that what a gateway allows for the path
of a channel is not got round.
"""

import random
from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import blake2b
from itertools import islice
from typing import Any

from flask import Response
from werkzeug.datastructures import Headers
from werkzeug.http import is_resource_modified, quote_etag

from esource.errors import BadInput
from esource.event import PLACE
from esource.hub import several
from esource.hub.channel import Channel
from esource.hub.clients import is_gone, tune
from esource.hub.hub import Hub
from esource.hub.loop import in_thread, reads, turn
from esource.hub.tail import Stretch
from esource.hub.view import Place, View
from esource.hub.work import Work
from esource.rows import ndjson, sse, tsv
from esource.rows.find import Verdict
from esource.rows.formats import (
    EVENT_STREAMS,
    FORMATS,
    JSON,
    MEDIA_TYPES,
    NDJSON,
    SSE,
    SSE_JSON,
    Format,
)
from esource.web import answers, query, stream
from esource.web.post import Environ, Fields, client_of
from esource.web.query import READ_KINDS, Kind, Pairs, Selection
from esource.web.read import check, start_of, utf8

MOST_CHANNELS = 16
SLICE_EVENTS = 256  # encoded in one turn
OWN_FORMATS = (NDJSON, JSON, SSE_JSON)
KINDS: dict[str, Kind[Any]] = {
    "channel": query.TEXT.named(
        "NAME", "a channel; several times for several", repeats=True, required=True
    ),
    **{name: kind for name, kind in READ_KINDS.items() if name not in ("from", "until", "before")},
    "format": query.one_of(*(format.name for format in OWN_FORMATS)).named(
        "FORMAT", "`ndjson`, `json` or `sse-json`, instead of `Accept`"
    ),
}


def read(hub: Hub, environ: Environ) -> Response:
    """Answer a GET or HEAD. Blocks while the places to start from are looked for."""
    pairs = query.pairs(environ.get("QUERY_STRING", ""), hub.config.ignore_parameters)
    wanted = query.parse([pair for pair in pairs if pair[0] != "channel"], KINDS)
    format = _format(wanted, environ.get("HTTP_ACCEPT", ""))
    follow = format in EVENT_STREAMS if wanted.follow is None else wanted.follow
    check(wanted, format, follow)
    answer = partial(_read, hub, environ, pairs, wanted, format, follow)
    return stream.unless_away(hub, format, follow, answer)


def _read(
    hub: Hub, environ: Environ, pairs: Pairs, wanted: Selection, format: Format, follow: bool
) -> Response:
    channels = _channels(hub, pairs)
    resume_id = utf8(environ.get("HTTP_LAST_EVENT_ID", "").encode("latin-1")) or wanted.resume
    if resume_id:
        wanted = wanted._replace(after=resume_id, since=None, tail=None)
    work = Work(client_of(environ))
    starts = [start_of(channel, _part(wanted, channel), b"", follow, work) for channel in channels]
    views, offsets = [start.view for start in starts], [start.offset for start in starts]
    found = {start.verdict for start in starts}
    verdict = next((each for each in ORDER if each in found), None)
    if verdict:
        hub.stats.resumed(verdict)
    if follow:
        places = [Place(view.log, offset) for view, offset in zip(views, offsets, strict=True)]
        live = stream.live_headers(format.content_type, verdict)
        return _follow(hub, channels, places, wanted, format, live, environ)
    headers = answers.headers(format.content_type, {"Vary": "Accept, Last-Event-ID"})
    if verdict:
        headers["Esource-Resume"] = verdict.value
    moves = wanted.moves
    if wanted.wait is not None:
        found_in = views
        views, offsets = _wait(hub, channels, views, offsets, wanted, work, environ)
        moves |= views is not found_in  # what it waited for would be another answer by now
    headers["Cache-Control"] = "no-cache"
    if wanted.limit is None:
        headers["Last-Event-ID"] = _cursor([Place(view.log, view.end) for view in views]).decode()
    if not moves:
        names = " ".join(view.version for view in views).encode()
        headers["ETag"] = quote_etag(f"{blake2b(names, digest_size=12).hexdigest()}.{format.name}")
        if not is_resource_modified(environ, headers["ETag"]):
            return Response(status=304, headers=headers)
    content = _finite(channels, views, offsets, wanted, format, work)
    return Response(content, 200, headers, direct_passthrough=True)


# How the channels' places were found, the one that says most first.
ORDER = (Verdict.TRIMMED, Verdict.START, Verdict.TIME, Verdict.EXACT, Verdict.LIVE)


def _channels(hub: Hub, pairs: Pairs) -> list[Channel]:
    """Return the channels that are asked for, in order. Raises `BadInput`."""
    names = [text or "" for name, text in pairs if name == "channel"]
    if not names:
        raise BadInput("say which: /-/read?channel=NAME&channel=NAME")
    if len(names) > MOST_CHANNELS:
        raise BadInput(f"{len(names)} channels are more than {MOST_CHANNELS}")
    if len(set(names)) < len(names):
        raise BadInput("a channel is given twice")
    return [hub.channel(name) for name in names]


def _format(wanted: Selection, accept: str) -> Format:
    """Return the format that the query names, or the client prefers."""
    if wanted.format:
        return FORMATS[wanted.format]
    kinds = {MEDIA_TYPES.get(kind) for kind in answers.accepted(accept)}
    if SSE in kinds:
        return SSE_JSON
    return next(
        (kind for kind in map(MEDIA_TYPES.get, answers.accepted(accept)) if kind in (NDJSON, JSON)),
        NDJSON,
    )


def _part(wanted: Selection, channel: Channel) -> Selection:
    """Return what is wanted of one channel: of a cursor, its own place, or else its start."""
    if wanted.after is None:
        return wanted
    log = channel.refresh().log
    for place in wanted.after.split(b","):
        match = PLACE.fullmatch(place)
        if match and match[1] == log.generation_at(int(match[2])).encode():
            return wanted._replace(after=place)
    return wanted._replace(after=b"")


def _cursor(places: Sequence[Place]) -> bytes:
    """Return what a reader goes on with from these places."""
    return b",".join([place.id for place in places])


class _Encoder:
    """What one read is sent of its channels."""

    def __init__(
        self, channels: Sequence[Channel], places: list[Place], wanted: Selection, format: Format
    ) -> None:
        """Begin at the places, which are moved on."""
        self._channels = channels
        self._places = places
        self._types = wanted.types
        self._format = format
        self._separator = len(format.separator)  # the first event has none before it
        self._remaining = wanted.limit

    @property
    def is_done(self) -> bool:
        """Whether no more events are wanted."""
        return self._remaining == 0

    def __call__(self, number: int, stretch: Stretch) -> Iterator[bytes]:
        """Yield what is to be sent of the stretch of a channel, in turns."""
        events = tsv.placed(stretch.rows)
        ids = [place.id for place in self._places]
        is_over = False
        while not is_over and not self.is_done:
            with turn():
                some = list(islice(events, SLICE_EVENTS))
                is_over = len(some) < SLICE_EVENTS
                pieces = []
                for fields, end in some:
                    if (self._types and fields[1] not in self._types) or self.is_done:
                        continue
                    ids[number] = Place(stretch.log, stretch.offset + end).id
                    pieces.append(self._encode(number, b",".join(ids), fields))
                    if self._remaining is not None:
                        self._remaining -= 1
            self._channels[number].stats.delivered += len(pieces)
            if pieces:
                yield b"".join(pieces)[self._separator :]
                self._separator = 0
        self._places[number] = Place(stretch.log, stretch.end)

    def _encode(self, number: int, cursor: bytes, fields: Sequence[bytes]) -> bytes:
        event = ndjson.encode_of(self._channels[number].name, cursor.decode(), fields)
        if self._format is SSE_JSON:
            return b"id: %b\ndata: %b\n\n" % (cursor, event)
        return b",\n" + event if self._format is JSON else event + b"\n"


def _finite(
    channels: list[Channel], views: list[View], offsets: list[int], wanted: Selection,
    format: Format, work: Work,
) -> Iterator[bytes]:  # fmt: skip
    places = [Place(view.log, offset) for view, offset in zip(views, offsets, strict=True)]
    encode = _Encoder(channels, places, wanted, format)
    if format.head:
        yield format.head + (sse.prime(_cursor(places)) if wanted.prime else b"")
    for number, stretch in several.read(channels, views, offsets, work):
        for piece in encode(number, stretch):
            yield piece
            work.heard()
        if encode.is_done:
            break
    if format.end:
        yield format.end


def _wait(
    hub: Hub, channels: list[Channel], views: list[View], offsets: list[int], wanted: Selection,
    work: Work, environ: Environ,
) -> tuple[list[View], list[int]]:  # fmt: skip
    """Return views, and offsets in them, with an event to answer with: see `stream.wait`."""
    client = client_of(environ)
    hub.admit_subscribers(len(channels))
    hub.subscribers += len(channels)
    try:
        for _, stretch in several.read(channels, views, offsets, work, wanted.types):
            if stream.has_event(stretch, wanted.types):
                return views, offsets
        if client is not None:
            tune(client)
        places = [Place(view.log, view.end) for view in views]
        ends: list[int | None] = []
        for each in several.follow(
            channels, places, hub.config.heartbeat_seconds, client, wanted.wait, wanted.types
        ):
            if each is None:
                stream.check_waits(client)
            elif stream.has_event(each[1], wanted.types):
                places[each[0]] = Place(each[1].log, each[1].offset)
                ends = [None] * len(places)  # and what else there is
                break
        ends = ends or [place.offset for place in places]
        views = [
            in_thread(reads(), View.of, place.log, end)
            for place, end in zip(places, ends, strict=True)
        ]
        return views, [place.offset for place in places]
    finally:
        hub.subscribers -= len(channels)


def _follow(
    hub: Hub, channels: list[Channel], places: list[Place], wanted: Selection, format: Format,
    headers: Fields, environ: Environ,
) -> Response:  # fmt: skip
    """Answer with the events of all channels from these places on. Raises `Busy`."""
    client = client_of(environ)
    if refusal := stream.refused(hub, len(channels), format, headers):
        return refusal
    accept, pragma = environ.get("HTTP_ACCEPT", ""), environ.get("HTTP_PRAGMA", "")
    is_primed = stream.must_prime(wanted, format, accept, pragma)
    beat = format.heartbeat if wanted.heartbeat or format in EVENT_STREAMS else b""
    seconds = wanted.heartbeat or hub.config.heartbeat_seconds

    def content() -> Iterator[bytes]:
        if client is not None:
            tune(client)
        encode = _Encoder(channels, places, wanted, format)
        told = _cursor(places)  # where the client knows that it stands, about
        hub.subscribers += len(channels)
        try:
            yield format.head + (sse.prime(told) if is_primed else b"")
            turns = several.follow(channels, places, seconds, client, wanted.timeout)
            for each in turns if not encode.is_done else ():
                if each is not None:
                    is_new = False
                    for piece in encode(*each):
                        yield piece
                        is_new = True
                    if is_new:
                        told = _cursor(places)
                    if encode.is_done:
                        break
                elif beat:
                    cursor = _cursor(places) if is_primed and wanted.types else told
                    yield (sse.prime(cursor) if cursor != told else b"") + beat
                    told = cursor
                elif client is not None and is_gone(client):
                    return
            yield format.end
            if format in EVENT_STREAMS and hub.draining:
                yield sse.retry(random.randint(*stream.RETRY_MS))
        finally:
            hub.subscribers -= len(channels)

    return Response(content(), 200, Headers(list(headers)), direct_passthrough=True)
