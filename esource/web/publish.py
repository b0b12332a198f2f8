"""`POST /<channel>`: one event, or a batch of them.

A batch of declared length is all or nothing. A chunked one is a stream: what is complete
is committed as it arrives, and the answer comes at the end.
"""

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain
from typing import Any

import orjson
from flask import Response
from werkzeug.http import parse_etags, parse_options_header, quote_etag

from esource.errors import BadInput, EsourceError, PreconditionFailed, StorageError
from esource.event import Event, check_data
from esource.hub.channel import Channel
from esource.hub.commit import Precondition, Receipt, Wish
from esource.hub.hub import Hub
from esource.hub.loop import turn
from esource.hub.view import View
from esource.rows import ingest, tsv
from esource.rows.ingest import Decoder, LineDecoder, StreamDecoder
from esource.rows.tsv import Draft
from esource.web import answers, query
from esource.web.body import check_framing, decode, pieces, read, require_utf8
from esource.web.post import Body, Post

PARAMETERS: dict[str, query.Kind[Any]] = {
    "id": query.ID,
    "event": query.TYPE,
    "each": query.one_of("line"),
    "expect": query.TEXT,
    "unique": query.FLAG,
}
# Of a stream that is on its way to the disk; then the sender waits.
WINDOW_BYTES = 1 << 22
TURN_BYTES = 1 << 12  # of a body, decoded without a turn
PIECE_BYTES = 64  # as so many a piece counts beyond what is in it
WITHOUT_ID = "unique=1 tells events apart by their ids; give every event one"


def publish(hub: Hub, post: Post, body: Body) -> Response:
    """Answer a POST. Blocks until the events are committed; raises `EsourceError`."""
    channel = hub.channel(post.channel)
    pairs = query.pairs(post.query, hub.config.ignore_parameters)
    parameters = query.parameters(pairs, PARAMETERS)
    wish = Wish(_precondition(parameters, post), parameters.get("unique", False))
    decoder = _decoder(hub, parameters, post)
    hub.admit_channel(channel)
    check_framing(post, body)
    if decoder:
        batch = _Batch(hub, channel, decoder, wish, body)
        if body.size is None:
            batch.append_stream()
        else:
            batch.append_whole()
        return batch.answer()
    id = parameters.get("id", b"")
    event = Event(id, parameters.get("event", b""), _data(hub, post, body))
    if wish.unique and not id:
        raise BadInput(WITHOUT_ID)
    receipt = channel.append([tsv.draft(event)], wish).wait()
    headers = {"ETag": quote_etag(receipt.view.version)}
    if receipt.skipped:
        return answers.answer(id, 200, headers)
    return answers.answer(receipt.first, 201, headers)


def _data(hub: Hub, post: Post, body: Body) -> bytes:
    data = check_data(decode(read(body, hub.config.max_event_bytes), post))
    return data[:-1] if data.endswith(b"\n") else data


# -- what is asked for ---------------------------------------------------------------------


def _precondition(parameters: dict[str, Any], post: Post) -> Precondition | None:
    """Return what must hold of the channel for an append (RFC 9110, 13.1), if anything must.

    An empty `expect=` expects an empty channel: it is what a script has that found no event.
    """
    expected = parameters.get("expect")
    match, none_match = post.if_match, post.if_none_match
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
                f"the channel is not as expected: its newest id is {newest!r}", view
            )

    return check


def _decoder(hub: Hub, parameters: dict[str, Any], post: Post) -> Decoder | None:
    """Return the decoder of a batch; None for a body that is one event."""
    content_type, options = parse_options_header(post.content_type)
    limit = hub.config.max_event_bytes
    decoder: Decoder
    if "each" in parameters:
        decoder = LineDecoder(ingest.decode_each_line(parameters.get("event", b"")), limit)
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
    require_utf8(options, post)
    return decoder


# -- batches -------------------------------------------------------------------------------


class _Batch:
    """A batch on its way into a channel, and what has become of it so far."""

    def __init__(
        self, hub: Hub, channel: Channel, decoder: Decoder, wish: Wish, body: Body
    ) -> None:
        self._hub = hub
        self._channel = channel
        self._decoder = decoder
        self._wish = wish
        self._body = body
        self._appended = self._skipped = 0
        self._first = self._last = b""
        self._view: View | None = None  # right behind the last event

    def append_whole(self) -> None:
        """Append all of a body of declared length, or raise and append nothing."""
        try:
            drafts = list(self._drafts(self._hub.config.max_batch_bytes))
        except EsourceError:
            self._body.close_afterwards()  # what has not been read of it is not a request
            raise
        if drafts:
            self._wait(self._channel.append(drafts, self._wish))

    def append_stream(self) -> None:
        """Append the events of a chunked body as they come.

        What is complete is queued at once but not waited for: commits go on while the next piece
        is read. The sender waits while more than `WINDOW_BYTES` are on their way to the disk.
        Raises with how many events are stored; those before the bad line are.
        """
        wish = self._wish
        window: deque[tuple[Receipt, int]] = deque()
        in_window = 0
        stopped: EsourceError | None = None
        try:
            with self._hub.clients.receiving(self._body.client):
                for draft in self._drafts():
                    before = window[-1][0] if window else None
                    receipt = self._channel.append([draft], wish, before)
                    window.append((receipt, len(draft.rows)))
                    in_window += len(draft.rows)
                    while window and (in_window > WINDOW_BYTES or wish.precondition):
                        receipt, size = window.popleft()
                        in_window -= size
                        self._wait(receipt)
                        wish = wish._replace(precondition=None)  # it was for the beginning
        except EsourceError as error:
            stopped = error
        for receipt, _ in window:
            try:
                self._wait(receipt)
            except EsourceError as error:
                stopped = stopped or error
        if stopped:
            self._body.close_afterwards()
            if self._hub.draining:
                stopped = StorageError("the hub is stopping; send the rest again")
            raise stopped.with_text(f"{stopped}; {self._appended} events before that are stored")

    def answer(self) -> Response:
        """Return the answer to a batch that was appended."""
        result: dict[str, int | str | None] = {
            "count": self._appended,
            "first": self._first.decode() or None,
            "last": self._last.decode() or None,
        }
        if self._skipped:
            result["skipped"] = self._skipped
        headers = {"ETag": quote_etag((self._view or self._channel.view).version)}
        status = 201 if self._appended else 200
        return answers.answer(orjson.dumps(result) + b"\n", status, headers, "application/json")

    def _drafts(self, limit: int = sys.maxsize) -> Iterator[Draft]:
        """Yield the events of the body; after the good ones raise what is wrong with the next."""
        since_turn = 0  # bytes: a body that has arrived, in chunks of any size, needs no wait
        for piece in chain(pieces(self._body, limit), [None]):
            since_turn += len(piece or b"") + PIECE_BYTES
            with turn() if since_turn > TURN_BYTES else nullcontext():
                draft = self._decoder.end() if piece is None else self._decoder.feed(piece)
            if since_turn > TURN_BYTES:
                since_turn = 0
            if self._wish.unique and draft.without_id:
                raise BadInput(WITHOUT_ID)
            if draft.events:
                yield draft
            if self._decoder.error:
                raise self._decoder.error

    def _wait(self, receipt: Receipt) -> None:
        """Wait for a receipt and count it. Raises what `Receipt.wait` raises."""
        receipt.wait()
        self._appended += receipt.appended
        self._skipped += receipt.skipped
        self._first = self._first or receipt.first
        self._last = receipt.last or self._last
        self._view = receipt.view
