"""`POST /<channel>`: one event, or a batch of them.

A batch of declared length is all or nothing. A chunked one is a stream: what is complete
is committed as it arrives, and the answer comes at the end.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain
from typing import Any

import orjson
from flask import Response
from werkzeug.http import parse_etags, parse_options_header, quote_etag

from esource.errors import BadInput, EsourceError, PreconditionFailed, StorageError
from esource.event import Event, check_data, check_id, check_type
from esource.hub.channel import Channel
from esource.hub.hub import Hub
from esource.hub.loop import turn
from esource.hub.receipt import Precondition, Receipt, Wish
from esource.hub.view import View
from esource.rows import ingest, tsv
from esource.rows.ingest import LineDecoder, StreamDecoder
from esource.rows.tsv import Draft
from esource.web import answers, body, query

PARAMETERS = ("id", "event", "each", "expect", "unique")
# Of a stream that is on its way to the disk; then the sender waits.
WINDOW_BYTES = 1 << 22
TURN_BYTES = 1 << 12  # of a body, decoded without a turn
PIECE_BYTES = 64  # as so many a piece counts beyond what is in it
WITHOUT_ID = "unique=1 tells events apart by their ids; give every event one"


def publish(hub: Hub, name: str, environ: dict[str, Any]) -> Response:
    """Answer a POST. Blocks until the events are committed."""
    channel = hub.channel(name)
    parameters = query.parameters(environ, PARAMETERS)
    unique = bool(query.flag(parameters, "unique"))
    wish = Wish(_precondition(parameters, environ), unique)
    decoder = _decoder(hub, parameters, environ)
    hub.admit_channel(channel)
    if decoder:
        return _publish_batch(hub, channel, decoder, wish, environ)
    return _publish_event(hub, channel, parameters, wish, environ)


def _publish_event(
    hub: Hub, channel: Channel, parameters: dict[str, str], wish: Wish, environ: dict[str, Any]
) -> Response:
    event = Event(
        check_id(parameters.get("id", "")),
        check_type(parameters.get("event", "")),
        _data(hub, environ),
    )
    if wish.unique and not event.id:
        raise BadInput(WITHOUT_ID)
    receipt = channel.append([tsv.draft(event)], wish).wait()
    etag = quote_etag(receipt.view.version)
    if receipt.skipped:
        return answers.answer(event.id, 200, {"ETag": etag})
    return answers.answer(receipt.first, 201, {"ETag": etag})


def _data(hub: Hub, environ: dict[str, Any]) -> bytes:
    content = body.read(environ, hub.config.max_event_bytes)
    data = check_data(body.decode(content, environ))
    return data[:-1] if data.endswith(b"\n") else data


# -- what is asked for ---------------------------------------------------------------------


def _precondition(parameters: dict[str, str], environ: dict[str, Any]) -> Precondition | None:
    """Return what must hold of the channel for an append (RFC 9110, 13.1), if anything must.

    An empty `expect=` expects an empty channel: it is what a script has that found no event.
    """
    expected = parameters.get("expect")
    match = environ.get("HTTP_IF_MATCH")
    none_match = environ.get("HTTP_IF_NONE_MATCH")
    if expected is None and match is None and none_match is None:
        return None

    def check(view: View) -> None:
        etag, end = view.version, view.end
        holds = True
        if expected is not None:
            holds = expected.encode() == view.newest_id if expected else end == 0
        if match is not None:
            etags = parse_etags(match)
            holds &= end > 0 if etags.star_tag else etags.is_strong(etag)
        if none_match is not None:
            etags = parse_etags(none_match)
            holds &= end == 0 if etags.star_tag else not etags.contains_weak(etag)
        if not holds:
            newest = view.newest_id.decode(errors="replace")
            raise PreconditionFailed(
                f"the channel is not as expected: its newest id is {newest!r}", etag
            )

    return check


def _decoder(
    hub: Hub, parameters: dict[str, str], environ: dict[str, Any]
) -> LineDecoder | StreamDecoder | None:
    """Return the decoder of a batch; None for a body that is one event."""
    content_type, options = parse_options_header(environ.get("CONTENT_TYPE", ""))
    limit = hub.config.max_event_bytes
    decoder: LineDecoder | StreamDecoder
    if query.word(parameters, "each", ["line"]):
        type = check_type(parameters.get("event", ""))
        decoder = LineDecoder(ingest.decode_each_line(type), limit)
        others = {"id"}
    else:
        match content_type.lower():
            case "text/tab-separated-values":
                decoder = LineDecoder(ingest.decode_tsv, limit)
            case "application/x-ndjson":
                decoder = LineDecoder(ingest.decode_ndjson, limit)
            case "text/event-stream":
                decoder = StreamDecoder(limit)
            case _:
                return None
        others = {"id", "event"}
    for name in (name for name in others if parameters.get(name)):
        raise BadInput(f"{name} is for a single event, not for a batch")
    body.require_utf8(options, environ)
    return decoder


# -- batches -------------------------------------------------------------------------------


def _publish_batch(
    hub: Hub, channel: Channel, decoder: LineDecoder | StreamDecoder, wish: Wish,
    environ: dict[str, Any],
) -> Response:  # fmt: skip
    if body.is_chunked(environ):
        receipts = _append_stream(hub, channel, decoder, wish, environ)
    else:
        receipts = _append_whole(hub, channel, decoder, wish, environ)
    return _batch_answer(channel, receipts)


def _batch_answer(channel: Channel, receipts: "_Totals") -> Response:
    result: dict[str, Any] = {
        "count": receipts.appended,
        "first": receipts.first.decode() or None,
        "last": receipts.last.decode() or None,
    }
    if receipts.skipped:
        result["skipped"] = receipts.skipped
    etag = quote_etag((receipts.view or channel.view).version)
    status = 201 if receipts.appended else 200
    content = orjson.dumps(result) + b"\n"
    return answers.answer(content, status, {"ETag": etag}, "application/json")


class _Totals:
    """What became of the receipts of one batch."""

    def __init__(self) -> None:
        self.appended = self.skipped = 0
        self.view: View | None = None  # right behind the last of them
        self.first = self.last = b""

    def add(self, receipt: Receipt) -> None:
        """Wait for a receipt and count it. Raises what `Receipt.wait` raises."""
        receipt.wait()
        self.appended += receipt.appended
        self.skipped += receipt.skipped
        self.first = self.first or receipt.first
        self.last = receipt.last or self.last
        self.view = receipt.view


def _drafts(
    decoder: LineDecoder | StreamDecoder, pieces: Iterator[bytes], wish: Wish
) -> Iterator[Draft]:
    """Yield the events of a body, and after the good ones raise what is wrong with the next."""
    since_turn = 0  # bytes: a body that has arrived, in chunks of any size, is read without a wait
    for piece in chain(pieces, [None]):
        since_turn += len(piece or b"") + PIECE_BYTES
        with turn() if since_turn > TURN_BYTES else nullcontext():
            draft = decoder.end() if piece is None else decoder.feed(piece)
        if since_turn > TURN_BYTES:
            since_turn = 0
        if wish.unique and draft.without_id:
            raise BadInput(WITHOUT_ID)
        if draft.events:
            yield draft
        if decoder.error:
            raise decoder.error


def _append_whole(
    hub: Hub, channel: Channel, decoder: LineDecoder | StreamDecoder, wish: Wish,
    environ: dict[str, Any],
) -> _Totals:  # fmt: skip
    """Append all of a body of declared length, or raise and append nothing."""
    totals = _Totals()
    try:
        drafts = list(_drafts(decoder, body.pieces(environ, hub.config.max_batch_bytes), wish))
    except EsourceError:
        body.close_afterwards(environ)  # what has not been read of it is not a request
        raise
    if drafts:
        totals.add(channel.append(drafts, wish))
    return totals


def _append_stream(
    hub: Hub, channel: Channel, decoder: LineDecoder | StreamDecoder, wish: Wish,
    environ: dict[str, Any],
) -> _Totals:  # fmt: skip
    """Append the events of a chunked body as they come.

    What is complete is queued at once but not waited for: commits go on while the next piece
    is read. The sender waits while more than `WINDOW_BYTES` are on their way to the disk.
    Raises with how many events are stored; those before the bad line are.
    """
    totals = _Totals()
    window: deque[tuple[Receipt, int]] = deque()
    in_window = 0
    stopped: EsourceError | None = None
    try:
        with hub.clients.receiving(environ.get("gunicorn.socket")):
            for draft in _drafts(decoder, body.pieces(environ), wish):
                before = window[-1][0] if window else None
                receipt = channel.append([draft], wish, before)
                window.append((receipt, len(draft.rows)))
                in_window += len(draft.rows)
                while window and (in_window > WINDOW_BYTES or wish.precondition):
                    receipt, size = window.popleft()
                    in_window -= size
                    totals.add(receipt)
                    wish = wish._replace(precondition=None)  # it was for the beginning
    except EsourceError as error:
        stopped = error
    for receipt, _ in window:
        try:
            totals.add(receipt)
        except EsourceError as error:
            stopped = stopped or error
    if stopped:
        body.close_afterwards(environ)
        if hub.draining:
            stopped = StorageError("the hub is stopping; send the rest again")
        text = f"{stopped}; {totals.appended} events before that are stored"
        raise stopped.with_text(text)
    return totals
