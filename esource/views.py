"""HTTP: publish, subscribe, download. Text is bytes below this room, and headers end here.

`POST /<channel>` publishes. `GET /<channel>` subscribes if the client accepts
`text/event-stream`, and downloads the file if not.
"""

import random
import re
import socket
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from flask import Flask, Response, request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException, RequestedRangeNotSatisfiable
from werkzeug.http import (
    http_date,
    is_resource_modified,
    parse_accept_header,
    parse_range_header,
    quote_etag,
)

from esource import body, sse
from esource.channel import Channel
from esource.errors import BadInput, EsourceError
from esource.event import Event, check_data, check_id, check_type
from esource.hub import Hub

TSV = "text/tab-separated-values; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
HEADER_VALUE = re.compile(rb"[ -~\x80-\xff]+")  # RFC 9110, 5.5
# Browsers cannot set the header on their first request.
RESUME_PARAMETERS = ("lastEventId", "last_event_id", "Last-Event-ID")
RETRY_MS = (1000, 3000)  # clients that were sent away spread out over this
# A slow reader's backlog is in the file; the kernel need not hold megabytes of it, too.
SEND_BUFFER_BYTES = 1 << 16
# Only this sees a client that vanished without a FIN: heartbeats fit into the send buffer.
USER_TIMEOUT_MS = 8000


def register(app: Flask, hub: Hub) -> None:
    """Put the channels' routes and the one error handler into the app."""

    def publish(channel: str) -> Response:
        return _publish(hub, channel)

    def read(channel: str) -> Response:
        return _read(hub, channel)

    def broken(error: Exception) -> Response:
        """Answer for a defect of the hub: its cause goes to the log, not to the client."""
        app.logger.error("%s %s", request.method, request.path, exc_info=error)
        return _answer("the hub has failed; its log says why\n", 500)

    app.add_url_rule(
        "/<channel>", view_func=publish, methods=["POST"], provide_automatic_options=False
    )
    app.add_url_rule(
        "/<channel>", view_func=read, methods=["GET", "HEAD"], provide_automatic_options=False
    )
    app.register_error_handler(EsourceError, _failed)
    app.register_error_handler(HTTPException, _refused)
    app.register_error_handler(Exception, broken)


def _answer(text: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """Return an answer for a person: one line, LF-terminated unless it is an id."""
    line = f"{status} {HTTPStatus(status).phrase}"  # Werkzeug's are in capitals
    return Response(text, line, _headers(TEXT, headers))


def _headers(content_type: str, more: dict[str, str] | None = None) -> Headers:
    # A browser that sniffs would take an event's data for a page.
    headers = Headers({"Content-Type": content_type, "X-Content-Type-Options": "nosniff"})
    headers.update(more or {})
    return headers


# -- errors --------------------------------------------------------------------------------


def _failed(error: Exception) -> Response:
    assert isinstance(error, EsourceError)
    return _answer(f"{error}\n", error.status)


def _refused(error: Exception) -> Response:
    """Answer for what Werkzeug refused: no such page, method not allowed, …."""
    assert isinstance(error, HTTPException)
    headers = dict(error.get_headers())
    headers = {name: headers[name] for name in ("Allow", "Content-Range") if name in headers}
    if "Allow" in headers:  # from a set
        headers["Allow"] = ", ".join(sorted(headers["Allow"].split(", ")))
    reason = {
        404: "there is nothing here; channels are at /NAME",
        405: f"this method is not for channels; use {headers.get('Allow')}",
        416: "the range is beyond the end of the channel",
    }
    status = error.code or 500
    return _answer(f"{reason.get(status, error.name.lower())}\n", status, headers)


# -- publish -------------------------------------------------------------------------------


def _publish(hub: Hub, name: str) -> Response:
    environ = request.environ
    channel = hub.channel(name)
    parameters = _parameters(environ, ("id", "event"))
    id = check_id(parameters.get("id", ""))
    type = check_type(parameters.get("event", ""))
    data = body.read(environ, hub.config.max_event_bytes)
    data = check_data(body.decode(data, environ))
    event = channel.publish(Event(id, type, data))
    return _answer(event.id.decode(), 201)


def _parameters(environ: dict[str, Any], allowed: tuple[str, ...]) -> dict[str, str]:
    """Return the query's parameters; raise `BadInput` for one that is not allowed or repeated."""
    query = environ.get("QUERY_STRING", "")
    if not query:
        return {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict")
    except ValueError:
        raise BadInput("the query is not valid UTF-8") from None
    parameters = dict(pairs)
    for name in parameters:
        if name not in allowed:
            raise BadInput(f"unknown parameter {name!r}; allowed here: {', '.join(allowed)}")
    if len(parameters) < len(pairs):
        raise BadInput("a parameter is given twice")
    return parameters


# -- read ----------------------------------------------------------------------------------


def _read(hub: Hub, name: str) -> Response:
    environ = request.environ
    channel = hub.channel(name)
    parameters = _parameters(environ, RESUME_PARAMETERS)
    channel.refresh()
    if _accepts_event_stream(environ.get("HTTP_ACCEPT", "")):
        resume_id = environ.get("HTTP_LAST_EVENT_ID", "").encode("latin-1") or next(
            (value.encode() for value in parameters.values() if value), b""
        )
        return _subscribe(hub, channel, resume_id)
    return _download(channel)


def _accepts_event_stream(accept: str) -> bool:
    if "text/event-stream" not in accept.lower():
        return False
    return any(
        kind.lower().startswith("text/event-stream") and quality > 0
        for kind, quality in parse_accept_header(accept)
    )


def _subscribe(hub: Hub, channel: Channel, resume_id: bytes) -> Response:
    offset, verdict = channel.offset_after(resume_id) if resume_id else (channel.committed, "live")
    headers = _headers(
        sse.CONTENT_TYPE,
        {
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",  # nginx
            "Esource-Resume": verdict,
            "Vary": "Accept",
        },
    )
    client = request.environ.get("gunicorn.socket")
    stream = _stream(channel, offset, hub.config.heartbeat_seconds, client)
    return Response(stream, 200, headers, direct_passthrough=True)


def _stream(channel: Channel, offset: int, heartbeat: float, client: Any) -> Iterator[bytes]:
    """Yield the stream in pieces that end where a frame or a line ends."""
    if client is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if client.family != socket.AF_UNIX:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    yield sse.HEARTBEAT  # the first bytes, for `onopen`
    for batch in channel.follow(offset, heartbeat, client):
        yield sse.HEARTBEAT if batch is None else channel.encoded(batch, sse.encode)
    yield sse.retry(random.randint(*RETRY_MS))


def _download(channel: Channel) -> Response:
    # No greenlet switch from here to the response: end, id and file belong together.
    environ = request.environ
    start, end = 0, channel.committed
    etag = f"{channel.log.inode:x}-{end:x}"
    # A date has no fractions: an append in the second of the last download must still look
    # newer, so the file counts as modified in the second that follows the append.
    modified = int(channel.log.modified) + 1
    headers = _headers(
        TSV,
        {
            "Accept-Ranges": "bytes",
            "Cache-Control": "no-cache",  # may be kept, must be asked about
            "ETag": quote_etag(etag),
            "Last-Modified": http_date(min(modified, time.time())),
            "Vary": "Accept",
        },
    )
    if HEADER_VALUE.fullmatch(channel.newest_id):  # a foreign row's id may hold anything
        headers["Last-Event-ID"] = channel.newest_id.decode("latin-1")
    if not is_resource_modified(environ, etag, last_modified=http_date(modified)):
        return Response(status=304, headers=headers)
    status = 200
    wanted = parse_range_header(environ.get("HTTP_RANGE"))
    if environ.get("HTTP_IF_RANGE", headers["ETag"]) != headers["ETag"]:
        wanted = None
    if wanted and wanted.units == "bytes" and len(wanted.ranges) == 1 and request.method == "GET":
        part = wanted.range_for_length(end)
        if part is None:
            raise RequestedRangeNotSatisfiable(length=end)
        headers["Content-Range"] = f"bytes {part[0]}-{part[1] - 1}/{end}"
        (start, end), status = part, 206
    headers["Content-Length"] = str(end - start)
    content = channel.send(environ.get("gunicorn.socket"), start, end)
    return Response(content, status, headers, direct_passthrough=True)
