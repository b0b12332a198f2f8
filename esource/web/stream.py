"""A follow: what there is from the start on, then what comes, for as long as the client stays."""

import random
from collections.abc import Callable, Iterator
from functools import lru_cache
from socket import socket
from typing import NamedTuple, TypeVar

from flask import Response
from werkzeug.datastructures import Headers

from esource.errors import Busy, EsourceError, StorageError
from esource.hub.channel import Channel
from esource.hub.clients import is_gone, takes_plain_bytes, tune
from esource.hub.followers import Follower
from esource.hub.hub import Hub
from esource.hub.loop import in_thread, reads
from esource.hub.tail import Push, Stretch
from esource.hub.view import Place, View
from esource.hub.work import ClientLeft, Work
from esource.rows import sse, tsv
from esource.rows.find import Verdict
from esource.rows.formats import EVENT_STREAMS, Format
from esource.web import answers
from esource.web.encoder import Encoder
from esource.web.get import FRAMINGS, Begun, Connection, Get
from esource.web.post import Environ, Fields, client_of
from esource.web.query import Selection

A = TypeVar("A")
RETRY_MS = (1000, 3000)  # clients that were sent away spread out over this
BUSY_RETRY_MS = (20_000, 40_000)  # and those for which there was no place, over this


def has_event(stretch: Stretch, types: frozenset[bytes]) -> bool:
    """Return whether there is an event of these types in a stretch; of any, if there are none."""
    return tsv.last(stretch.rows, 1, types)[1] > 0


def check_waits(client: socket | None) -> None:
    """Raise `ClientLeft` if the client of a long poll has."""
    if client is not None and is_gone(client):
        raise ClientLeft("the client has closed its sending side while it waited")


def wait(
    hub: Hub, channel: Channel, view: View, offset: int, wanted: Selection, work: Work,
    environ: Environ,
) -> tuple[View, int]:  # fmt: skip
    """Return a view, and an offset in it from which there is an event to answer with.

    It is in the view given, or else it comes next; or `wanted.wait` seconds have passed without.
    Blocks; raises `Busy`, and `ClientLeft`.
    """
    assert wanted.wait is not None
    client = client_of(environ)
    hub.admit_subscribers()
    hub.subscribers += 1
    try:
        for stretch in channel.read(view, offset, wanted.types, work):
            if has_event(stretch, wanted.types):
                return view, stretch.offset
        if client is not None:
            tune(client)
        log, end = view.log, view.end
        for each in channel.follow(
            log, end, hub.config.heartbeat_seconds, client, wanted.wait, types=wanted.types
        ):
            if isinstance(each, Stretch):
                log, end = each.log, each.end
                if has_event(each, wanted.types):
                    return in_thread(reads(), View.of, log), each.offset
            else:
                log, end = each
                check_waits(client)
        return in_thread(reads(), View.of, log, end), end
    finally:
        hub.subscribers -= 1


def refused(hub: Hub, count: int, format: Format, headers: Fields) -> Response | None:
    """Return the answer if there is no place for so many subscribers; nothing if there is.

    Raises `Busy`, but not for an event stream: an `EventSource` would give up for good.
    """
    try:
        hub.admit_subscribers(count)
    except Busy as busy:
        if format not in EVENT_STREAMS:
            raise
        return _sent_away(hub, busy, headers, BUSY_RETRY_MS)
    return None


def unless_away(
    hub: Hub, format: Format, follow: bool, answer: Callable[[], A]
) -> A | Response:  # fmt: skip
    """Return an answer; for an event stream, while an engine is away, one that it will be back."""
    try:
        return answer()
    except StorageError as error:
        if not (follow and format in EVENT_STREAMS and hub.logs.shared):
            raise
        return _sent_away(hub, error, live_headers(format.content_type, None), RETRY_MS)


@lru_cache(64)
def live_headers(content_type: str, verdict: Verdict | None) -> Fields:
    """Return the headers of a stream: how its beginning was found is told, if it was looked for."""
    headers = answers.headers(content_type, {"Vary": "Accept, Last-Event-ID"})
    if verdict:
        headers["Esource-Resume"] = verdict.value
    headers["Cache-Control"] = "no-store, no-transform"  # what compresses holds it back
    headers["X-Accel-Buffering"] = "no"  # nginx
    return tuple(headers)


def _sent_away(
    hub: Hub, error: EsourceError, headers: Fields, retry_ms: tuple[int, int]
) -> Response:
    """Answer an event stream with why there is none, and when to come back.

    With another status an `EventSource` would give up for good.
    """
    hub.stats.refuse(error.status)
    end = sse.retry(random.randint(*retry_ms))
    return Response(f": {error}\n".encode() + end, 200, Headers(list(headers)))


def follow(
    hub: Hub, channel: Channel, view: View, offset: int, wanted: Selection, format: Format,
    headers: Fields, get: Get, connection: Connection,
) -> Begun | Response:  # fmt: skip
    """Begin with the events from an offset into a view on. Raises `Busy`: see `refused`."""
    if refusal := refused(hub, 1, format, headers):
        return refusal
    beat = format.heartbeat if wanted.heartbeat or format in EVENT_STREAMS else b""
    silence = wanted.heartbeat or hub.config.heartbeat_seconds
    push = _push(wanted, format, beat, silence, connection.client, get.protocol)
    is_primed = must_prime(wanted, format, get.accept, get.pragma)
    stream = _Stream(hub, channel, wanted, format, beat, silence, is_primed)
    follower = Follower(channel.followers, view.log, offset, connection.client, push)
    first = format.head + (sse.prime(Place(view.log, offset).id) if is_primed else b"")
    return Begun(headers, stream.begin(follower, first, connection))


class _Stream(NamedTuple):
    """What a client is sent that follows: of parked followers this remains."""

    hub: Hub
    channel: Channel
    wanted: Selection
    format: Format
    beat: bytes  # what is sent after a silence; empty if nothing is
    silence: float  # in seconds
    is_primed: bool

    def begin(
        self, follower: Follower, first: bytes, connection: Connection
    ) -> Iterator[bytes]:  # fmt: skip
        """Yield all that the client is sent; `first` with the head. Raises `Parked`."""
        return self._content(follower, first, connection)

    def go_on(self, follower: Follower) -> Iterator[bytes]:
        return self._content(follower, b"", None)

    def _content(
        self, follower: Follower, first: bytes, connection: Connection | None
    ) -> Iterator[bytes]:
        # Thousands of these may stand still: no more generators and contexts than needed, since
        # each that is entered is C stack to keep.
        hub, channel, wanted, format, beat, silence, is_primed = self
        parks = wanted.timeout is None
        if connection is not None:
            hub.subscribers += 1
        try:
            if connection is not None:
                if follower.client is not None:
                    tune(follower.client)
                yield first  # the headers leave, too
                follower.closes = connection.closes
                parks = parks and connection.may_park
                del connection
            encode = Encoder(channel, wanted, format, follows=True)
            told = follower.offset  # where the client knows that it stands, about
            stretches = channel.go_on(
                follower, silence, wanted.timeout, wanted.types, self if parks else None
            )
            for each in stretches if not encode.is_done else ():
                if isinstance(each, Stretch):
                    piece, end = encode(each), each.end
                    del each  # its log may be replaced while this goes on for days
                    if piece:
                        told = end
                        yield piece
                    if encode.is_done:
                        break
                elif beat:
                    # So that a client which comes back does not search again what it passed over.
                    is_behind = is_primed and wanted.types and each.offset != told
                    place, told = sse.prime(each.id) if is_behind else b"", each.offset
                    del each
                    yield place + beat
                elif follower.client is not None and is_gone(follower.client):
                    return
            yield format.end
            if format in EVENT_STREAMS and channel.draining:
                yield sse.retry(random.randint(*RETRY_MS))
        finally:
            if not follower.is_parked:
                hub.subscribers -= 1


def must_prime(wanted: Selection, format: Format, accept: str, pragma: str) -> bool:
    """Return whether a stream begins with the place where it does.

    An `EventSource` is told: it drops what has no data, and comes back with the id. By the
    standards each sends these two fields (WHATWG HTML 9.2.2; Fetch, "no-store" requests).
    """
    if format not in EVENT_STREAMS or wanted.prime is not None:
        return bool(wanted.prime)
    is_asked = pragma.strip().lower() == "no-cache"
    return is_asked and accept.strip().lower() == "text/event-stream"


def _push(
    wanted: Selection, format: Format, beat: bytes, silence: float, client: socket | None,
    protocol: str,
) -> Push | None:  # fmt: skip
    """Return how the client is written to past the server; None if that must not be.

    Where every client gets the same bytes, and the connection is the response's alone.
    """
    if (
        not wanted.is_whole
        or format.separator
        or client is None
        or not takes_plain_bytes(client)
        or protocol not in FRAMINGS
    ):
        return None
    frame, last = FRAMINGS[protocol]
    if not beat:
        return _same_push(format.encode, frame, last)
    return _same_push(format.encode, frame, last, frame(beat), silence)


_same_push = lru_cache(256)(Push)  # for ten thousand followers one
