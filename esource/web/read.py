"""`GET /<channel>`: selection x format x finite or follow.

A read is a position to start from, an end or none, and a format. The whole file as TSV is
a download, which can be continued, asked about and sent without looking at it; so is any
other part of the file that is TSV and finite and whole.
"""

import random
import re
import socket
import ssl
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

from flask import Response
from werkzeug.datastructures import Headers
from werkzeug.http import (
    http_date,
    is_resource_modified,
    parse_accept_header,
    parse_range_header,
    quote_etag,
)

from esource.errors import BadRange
from esource.hub.channel import Channel, Position
from esource.hub.followers import Direct, is_gone
from esource.hub.hub import Hub
from esource.hub.loop import turn
from esource.hub.tail import Batch
from esource.rows import selection, sse
from esource.rows.formats import EVENT_STREAMS, FORMATS, MEDIA_TYPES, SSE, TSV, Format
from esource.rows.selection import Selection
from esource.web import answers
from esource.web.environ import client_of

HEADER_VALUE = re.compile(rb"[ -~\x80-\xff]+")  # RFC 9110, 5.5
RETRY_MS = (1000, 3000)  # clients that were sent away spread out over this
SMALL_BYTES = 1 << 14  # of rows, which need not wait for a turn to be encoded
# A slow reader's backlog is in the file; the kernel need not hold megabytes of it, too.
SEND_BUFFER_BYTES = 1 << 16
# A client that vanished without a FIN is asked after 3 s; `readers` watches for the answer.
KEEPALIVE = {"TCP_KEEPIDLE": 3, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 5}
# The kernel asks a client whose window is full more and more rarely, up to every two minutes;
# with this option (Linux 6.15, linux/tcp.h) every 2 s, so that one who vanished is found out.
TCP_RTO_MAX_MS = 44
RTO_MAX_MS = 2000


def read(hub: Hub, name: str, environ: dict[str, Any]) -> Response:
    """Answer a GET or HEAD. Blocks while the place to start from is looked for."""
    channel = hub.channel(name)
    pairs = answers.query(environ)
    wanted = selection.parse(pairs, tuple(FORMATS))
    channel.refresh()
    format = _format(wanted, environ.get("HTTP_ACCEPT", ""))
    follow = format in EVENT_STREAMS if wanted.follow is None else wanted.follow
    # Where the client has got to, which it knows better than the link that it followed first.
    resume_id = environ.get("HTTP_LAST_EVENT_ID", "").encode("latin-1")
    start, verdict = _start(channel, wanted, resume_id, follow)
    headers = answers.headers(format.content_type, {"Vary": "Accept, Last-Event-ID"})
    if verdict:
        headers["Esource-Resume"] = verdict
        hub.stats.resumed(verdict)
    if follow:
        return _follow(hub, channel, wanted, format, start, headers, environ)
    # No greenlet switch from here to the response: end, id and file belong together.
    end = channel.committed if start.log is channel.log else start.log.end
    headers["ETag"] = quote_etag(channel.version(end))
    if wanted.limit is None and HEADER_VALUE.fullmatch(channel.newest_id):
        headers["Last-Event-ID"] = channel.newest_id.decode("latin-1")
    if format is TSV and wanted.is_whole:
        conditional = not pairs and not resume_id
        return _download(channel, start, end, headers, environ, conditional)
    content = _finite(channel, channel.read(start, end), wanted, format)
    return Response(content, 200, headers, direct_passthrough=True)


def _format(wanted: Selection, accept: str) -> Format:
    """Return the format that the query names, or the client prefers.

    Whoever can take an event stream at all gets one; clients of it that list other types as
    well mean those for errors.
    """
    if wanted.format:
        return FORMATS[wanted.format]
    if accept in ("", "*/*"):
        return TSV
    acceptable = [
        MEDIA_TYPES[media_type]
        for kind, quality in parse_accept_header(accept)  # the preferred one first
        if quality > 0 and (media_type := kind.partition(";")[0].strip().lower()) in MEDIA_TYPES
    ]
    return SSE if SSE in acceptable else next(iter(acceptable), TSV)


def _start(
    channel: Channel, wanted: Selection, resume_id: bytes, follow: bool
) -> tuple[Position, str]:
    """Return where to start, and how a resume point was found."""
    if resume_id:
        return channel.after(resume_id)
    verdict = ""
    start = Position(channel.log, 0)
    if wanted.after:
        start, verdict = channel.after(wanted.after)
    if wanted.since is not None:
        later = channel.later_than(wanted.since)
        start, verdict = max(start, later, key=lambda position: position.offset), "time"
    if wanted.tail is not None:
        return channel.last(wanted.tail, start.offset, wanted.types), verdict
    if follow and not verdict:
        return channel.tail, "live"
    return start, verdict


# -- finite --------------------------------------------------------------------------------


def _download(
    channel: Channel, start: Position, end: int, headers: Headers, environ: dict[str, Any],
    conditional: bool,
) -> Response:  # fmt: skip
    """Answer with bytes of the file; those of the whole one can be asked for in part."""
    status = 200
    offset = start.offset
    if conditional:
        # A date has no fractions: an append in the second of the last download must still look
        # newer, so the file counts as modified in the second that follows the append.
        modified = int(start.log.modified) + 1
        headers["Accept-Ranges"] = "bytes"
        headers["Cache-Control"] = "no-cache"  # may be kept, must be asked about
        if end:
            headers["Last-Modified"] = http_date(min(modified, time.time()))
        if not _is_modified(environ, channel.version(end), modified):
            return Response(status=304, headers=headers)
        part = _range(environ, end, headers["ETag"])
        if part:
            offset, end = part
            headers["Content-Range"] = f"bytes {offset}-{end - 1}/{channel.committed}"
            status = 206
    headers["Content-Length"] = str(end - offset)
    content = channel.send(Position(start.log, offset), end, client_of(environ))
    return Response(content, status, headers, direct_passthrough=True)


def _is_modified(environ: dict[str, Any], etag: str, modified: int) -> bool:
    """Return whether the client has another version than this one (RFC 9110, 13.1)."""
    try:
        return is_resource_modified(environ, etag, last_modified=http_date(modified))
    except OverflowError:  # a date that no calendar has is no date
        return True


def _range(environ: dict[str, Any], size: int, etag: str) -> tuple[int, int] | None:
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
        raise BadRange(
            f"the channel ends at byte {size}", {"Content-Range": f"bytes */{size}"}
        )  # fmt: skip
    return part


def _finite(
    channel: Channel, batches: Iterable[Batch], wanted: Selection, format: Format
) -> Iterator[bytes]:
    encode = _Encoder(channel, wanted, format, follows=False)
    if format.head:
        yield format.head
    if not encode.is_done:
        for batch in batches:
            if piece := encode(batch):
                yield piece
            if encode.is_done:
                break
    if format.end:
        yield format.end


# -- follow --------------------------------------------------------------------------------


def _follow(
    hub: Hub, channel: Channel, wanted: Selection, format: Format, start: Position,
    headers: Headers, environ: dict[str, Any],
) -> Response:  # fmt: skip
    """Answer with what there is from the start on, and then with what comes."""
    headers["Cache-Control"] = "no-store"
    headers["X-Accel-Buffering"] = "no"  # nginx
    client = client_of(environ)

    hub.admit_subscriber()

    def content() -> Iterator[bytes]:
        # Ten thousand of these stand still: no more generators and contexts than needed, since
        # each that is entered is C stack to keep.
        if client is not None:
            _tune(client)
        batches = channel.follow(
            start, hub.config.heartbeat_seconds, client, wanted.timeout,
            _direct(wanted, format, environ),
        )  # fmt: skip
        encode = _Encoder(channel, wanted, format, follows=True)
        hub.subscribers += 1
        try:
            yield format.head  # the headers leave, too
            for batch in batches if not encode.is_done else ():
                if batch is not None:
                    if piece := encode(batch):
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


def _direct(wanted: Selection, format: Format, environ: dict[str, Any]) -> Direct | None:
    """Return how the client is written to past the server; None if that must not be.

    Where every client gets the same bytes, and the connection is the response's alone. The
    server sends a response without length in chunks, but to HTTP/1.0.
    """
    client = client_of(environ)
    version = environ["SERVER_PROTOCOL"]
    if (
        not wanted.is_whole
        or format.separator
        or client is None
        or isinstance(client, ssl.SSLSocket)
        or version not in ("HTTP/1.0", "HTTP/1.1")
    ):
        return None
    return _same_direct(format.encode, version == "HTTP/1.1")


_same_direct = cache(Direct)  # for ten thousand readers one


def _tune(client: Any) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if client.family != socket.AF_UNIX:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):
                client.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if sys.platform == "linux":
            with suppress(OSError):
                client.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS, RTO_MAX_MS)


# -- both ----------------------------------------------------------------------------------


class _Encoder:
    """Batches -> the selected events of them, in a format, until the limit is reached."""

    __slots__ = ("_channel", "_follows", "_format", "_remaining", "_separator", "_wanted")

    def __init__(self, channel: Channel, wanted: Selection, format: Format, follows: bool) -> None:
        self._channel = channel
        self._follows = follows
        self._wanted = wanted
        self._format = format
        self._remaining = wanted.limit
        self._separator = len(format.separator)  # the first event has none before it

    @property
    def is_done(self) -> bool:
        """Whether no more events are wanted."""
        return self._remaining == 0

    def __call__(self, batch: Batch) -> bytes:
        """Return what is to be sent of a batch; it may be nothing. Waits for a turn, if large.

        On a stop, a follower's turn comes at once: it is nothing, and the stream ends.
        """
        encode = self._format.encode
        if len(batch.rows) <= SMALL_BYTES or (self._wanted.is_whole and batch.is_encoded(encode)):
            return self._encode(batch)
        with turn():
            if self._follows and self._channel.draining:
                return b""
            return self._encode(batch)

    def _takes_all(self, batch: Batch) -> bool:
        """Whether the limit is far, so that no row need be looked at to find it.

        TSV has rows that are not events, and does not know how many.
        """
        remaining = self._remaining
        return (
            remaining is not None
            and remaining >= batch.rows.count(b"\n")
            and not self._wanted.types
            and self._format is not TSV
        )

    def _encode(self, batch: Batch) -> bytes:
        wanted = self._wanted
        if wanted.is_whole or self._takes_all(batch):
            piece, count = self._channel.encoded(batch, self._format.encode)
            self._channel.stats.delivered += count
            if self._remaining is not None:
                self._remaining -= count
        else:
            rows = selection.of_types(batch.rows, wanted.types) if wanted.types else batch.rows
            if self._remaining is not None:
                rows, count = selection.first(rows, self._remaining)
                self._remaining -= count
            malformed: list[bytes] = []
            piece = self._format.encode(rows, malformed)
            self._channel.stats.delivered += rows.count(b"\n") - len(malformed)
        if piece and self._separator:
            piece = piece[self._separator :]
            self._separator = 0
        return piece
