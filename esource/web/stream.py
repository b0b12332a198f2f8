"""A follow: what there is from the start on, then what comes, for as long as the client stays."""

import random
from collections.abc import Iterator
from functools import cache

from flask import Response
from werkzeug.datastructures import Headers

from esource.errors import Busy
from esource.hub.channel import Channel
from esource.hub.clients import is_gone, takes_plain_bytes, tune
from esource.hub.hub import Hub
from esource.hub.tail import Push
from esource.hub.view import View
from esource.rows import sse
from esource.rows.formats import EVENT_STREAMS, Format
from esource.web.encoder import Encoder
from esource.web.post import Environ, client_of
from esource.web.query import Selection

RETRY_MS = (1000, 3000)  # clients that were sent away spread out over this
BUSY_RETRY_MS = (20_000, 40_000)  # and those for which there was no place, over this


def follow(
    hub: Hub, channel: Channel, view: View, offset: int, wanted: Selection, format: Format,
    headers: Headers, environ: Environ,
) -> Response:  # fmt: skip
    """Answer with the events from an offset into a view on.

    Raises `Busy`, but not for an event stream: an `EventSource` would give up for good.
    """
    headers["Cache-Control"] = "no-store, no-transform"  # what compresses holds it back
    headers["X-Accel-Buffering"] = "no"  # nginx
    client = client_of(environ)

    try:
        hub.admit_subscriber()
    except Busy as busy:
        if format not in EVENT_STREAMS:
            raise
        hub.stats.refuse(busy.status)
        end = sse.retry(random.randint(*BUSY_RETRY_MS))
        return Response(f": {busy}\n".encode() + end, 200, headers)
    stretches = channel.follow(
        view.log, offset, hub.config.heartbeat_seconds, client, wanted.timeout,
        _push(wanted, format, environ), wanted.types,
    )  # fmt: skip

    def content() -> Iterator[bytes]:
        # Ten thousand of these stand still: no more generators and contexts than needed, since
        # each that is entered is C stack to keep.
        if client is not None:
            tune(client)
        encode = Encoder(channel, wanted, format, follows=True)
        hub.subscribers += 1
        try:
            yield format.head  # the headers leave, too
            for stretch in stretches if not encode.is_done else ():
                if stretch is not None:
                    piece = encode(stretch)
                    del stretch  # its log may be replaced while this goes on for days
                    if piece:
                        yield piece
                    if encode.is_done:
                        break
                elif format.heartbeat:
                    yield format.heartbeat
                elif client is not None and is_gone(client):
                    return
            yield format.end
            if format in EVENT_STREAMS and channel.draining:
                yield sse.retry(random.randint(*RETRY_MS))
        finally:
            hub.subscribers -= 1

    return Response(content(), 200, headers, direct_passthrough=True)


def _push(wanted: Selection, format: Format, environ: Environ) -> Push | None:
    """Return how the client is written to past the server; None if that must not be.

    Where every client gets the same bytes, and the connection is the response's alone. The server
    sends a response without length in chunks, but to HTTP/1.0.
    """
    client = client_of(environ)
    frame = {"HTTP/1.0": _as_it_is, "HTTP/1.1": _chunk}.get(environ["SERVER_PROTOCOL"])
    if (
        not wanted.is_whole
        or format.separator
        or client is None
        or not takes_plain_bytes(client)
        or frame is None
    ):
        return None
    return _same_push(format.encode, frame)


_same_push = cache(Push)  # for ten thousand followers one


def _as_it_is(data: bytes) -> bytes:
    return data


def _chunk(data: bytes) -> bytes:
    """Return the data as a chunk of its own (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)
