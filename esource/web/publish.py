"""`POST /<channel>`: one event, or a batch of them.

A batch of declared length is all or nothing. A chunked one is a stream: what is complete
is committed as it arrives, and the answer comes at the end.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import orjson
from werkzeug.http import parse_options_header

from esource.errors import (
    BadInput,
    EsourceError,
    PreconditionFailed,
    StorageError,
    TooLarge,
    Unsupported,
)
from esource.event import Event, check_data
from esource.hub.channel import Channel
from esource.hub.commit import Precondition, Receipt, Wish
from esource.hub.hub import Hub
from esource.hub.loop import turn
from esource.hub.memory import RECEIPT_BYTES, Share
from esource.hub.view import View
from esource.rows import formats, ingest, tsv
from esource.rows.formats import MEDIA_TYPES, Format
from esource.rows.ingest import Decoder, LineDecoder, StreamDecoder
from esource.rows.tsv import Draft, Gathering
from esource.web import answers, query
from esource.web.body import (
    check_framing,
    codec_of,
    cut_off,
    decode,
    pieces,
    read,
    require_utf8,
    too_large,
)
from esource.web.post import Answer, Body, Plan, Post

PARAMETERS: dict[str, query.Kind[Any]] = {
    "id": query.ID.named("ID", "the event's id, instead of the time at which it is stored"),
    "event": query.TYPE.named("TYPE", "the event's type; with `each=line`, that of all of them"),
    "each": query.one_of("line").named("line", "each line of the body is an event"),
    "bad": query.one_of("replace").named(
        "replace", "with `each=line`, what cannot be stored of a line becomes U+FFFD"
    ),
    "expect": query.TEXT.named(
        "ID", "append only if that is the channel's newest id; `expect=`: if the channel is empty"
    ),
    "unique": query.FLAG.named(
        "1", "an id that is there already is stored once: `200` if it has the same data, else `409`"
    ),
}
# The formats of batches, and what makes a decoder of a limit of an event's bytes.
BATCHES: dict[Format | None, Callable[[int], Decoder]] = {
    formats.TSV: partial(LineDecoder, ingest.decode_tsv),
    formats.NDJSON: partial(LineDecoder, ingest.decode_ndjson),
    formats.SSE: StreamDecoder,
}
PLAIN_BODY_BYTES = 1 << 16  # of a body that is one event, up to which it is a plain publish
# Of a stream, rows and receipts, on its way to the disk; then the sender waits.
WINDOW_BYTES = 1 << 22
TURN_BYTES = 1 << 12  # of a piece, decoded without a turn: the server gives way between pieces
TURN_SECONDS = 0.0005  # of processor time, in a turn
# Decoded without a look at the clock: so many bytes of the shortest frames take 1 ms, of longer
# lines more bytes do.
SLICE_BYTES = 1 << 11
SLICE_LINES = 256
BLOCK_BYTES = 1 << 18  # of rows, which are then one draft
WITHOUT_ID = "unique=1 tells events apart by their ids; give every event one"


def publish(hub: Hub, post: Post, body: Body) -> Answer:
    """Answer a POST. Blocks until the events are committed; raises `EsourceError`."""
    channel = hub.channel(post.channel)
    parameters, wish = _wanted(hub, post)
    decoder = _decoder(hub, parameters, post)
    hub.admit_channel(channel)
    check_framing(post, body)
    wake = partial(cut_off, body)
    if decoder:
        with hub.bodies.share(wake) as share:
            batch = _Batch(hub, channel, decoder, wish, body, share)
            if body.size is None:
                batch.append_stream()
            else:
                batch.append_whole()
            return batch.answer()
    plan = _plan(post, parameters, wish)  # a body that cannot be decoded is not asked for
    is_plain = body.size is not None and body.size <= PLAIN_BODY_BYTES
    with (hub.plain_bodies if is_plain else hub.bodies).share(wake) as share:
        content = read(body, share, hub.config.max_event_bytes)
        share.take(RECEIPT_BYTES)
        receipt = channel.append([_draft(plan, content)], wish)
        del content
        return told(plan, receipt.wait())


def plan(hub: Hub, post: Post) -> Plan | None:
    """Return what a POST of one event asks for; None of a batch. Raises `EsourceError`."""
    parameters, wish = _wanted(hub, post)
    return None if _decoder(hub, parameters, post) else _plan(post, parameters, wish)


def queue(
    hub: Hub, plan: Plan, content: bytes, share: Share, done: Callable[[], None]
) -> Receipt:  # fmt: skip
    """Queue an event whose body is whole (see `Publishing.begin`). Raises `EsourceError`."""
    channel = hub.channel(plan.channel)
    hub.admit_channel(channel)
    if len(content) > hub.config.max_event_bytes:
        raise too_large(len(content), hub.config.max_event_bytes)
    draft = _draft(plan, content)
    share.take(len(content) + RECEIPT_BYTES)
    return channel.append([draft], plan.wish, done=done)


def told(plan: Plan, receipt: Receipt) -> Answer:
    """Answer for an event that is committed, or was there already."""
    id = plan.id if receipt.skipped else receipt.first
    fields = [("ETag", answers.etag(receipt.view)), ("Last-Event-ID", id.decode("latin-1"))]
    if plan.as_json:
        return _summary(receipt.appended, receipt.first, receipt.last, receipt.skipped, fields)
    return answers.told(id + b"\n", 200 if receipt.skipped else 201, fields)


def _summary(
    appended: int, first: bytes, last: bytes, skipped: int, fields: list[tuple[str, str]]
) -> Answer:
    """Answer with how many events were appended, and which, as JSON."""
    result: dict[str, int | str | None] = {
        "count": appended, "first": first.decode() or None, "last": last.decode() or None,
    }  # fmt: skip
    if skipped:
        result["skipped"] = skipped
    status = 201 if appended else 200
    return answers.told(orjson.dumps(result) + b"\n", status, fields, "application/json")


def _draft(plan: Plan, content: bytes) -> Draft:
    data = check_data(decode(content, plan.codec))
    return tsv.draft(Event(plan.id, plan.type, data[:-1] if data.endswith(b"\n") else data))


# -- what is asked for ---------------------------------------------------------------------


def _wanted(hub: Hub, post: Post) -> tuple[dict[str, Any], Wish]:
    pairs = query.pairs(post.query, hub.config.ignore_parameters)
    parameters = query.parameters(pairs, PARAMETERS)
    return parameters, Wish(_precondition(parameters, post), parameters.get("unique", False))


def _plan(post: Post, parameters: dict[str, Any], wish: Wish) -> Plan:
    id = parameters.get("id", b"")
    if wish.unique and not id:
        raise BadInput(WITHOUT_ID)
    return Plan(
        post.channel, id, parameters.get("event", b""), wish, codec_of(post),
        answers.prefers_json(post.accept),
    )  # fmt: skip


def _precondition(parameters: dict[str, Any], post: Post) -> Precondition | None:
    """Return what must hold of the channel for an append (RFC 9110, 13.1), if anything must.

    An empty `expect=` expects an empty channel: it is what a script has that found no event.
    """
    expected = parameters.get("expect")
    # Here, and not in the commit: what a field may do wrong, it does to its own request alone.
    match, none_match = (
        None if field is None else answers.states(field)
        for field in (post.if_match, post.if_none_match)
    )
    if expected is None and match is None and none_match is None:
        return None

    def check(view: View) -> None:
        etag, end = answers.state(view.version), view.end
        holds = True
        if expected is not None:
            holds = expected.encode() == view.newest_id if expected else end == 0
        if match is not None:
            holds &= end > 0 if match.star_tag else match.is_strong(etag)
        if none_match is not None:
            holds &= end == 0 if none_match.star_tag else not none_match.contains_weak(etag)
        if not holds:
            newest = view.newest_id.decode(errors="replace")
            raise PreconditionFailed(
                f"the channel is not as expected: its newest id is {newest!r}", view
            )

    return check


def _decoder(hub: Hub, parameters: dict[str, Any], post: Post) -> Decoder | None:
    """Return the decoder of a batch; None for a body that is one event."""
    content_type, options = parse_options_header(post.content_type)
    if content_type.lower() == "multipart/form-data":
        raise Unsupported(
            "a form's parts are no event; send the file as it is: --data-binary @file"
        )
    limit = hub.config.max_event_bytes
    decoder: Decoder
    if "each" in parameters:
        decode = ingest.decode_each_line(parameters.get("event", b""), "bad" in parameters)
        decoder = LineDecoder(decode, limit)
        others = {"id"}
    elif "bad" in parameters:
        raise BadInput("bad is for the lines of a plain body; add each=line")
    else:
        format = MEDIA_TYPES.get(content_type.lower())
        if format not in BATCHES:
            return None
        decoder = BATCHES[format](limit)
        others = {"id", "event"}
    for name in (name for name in others if parameters.get(name)):
        raise BadInput(f"{name} is for a single event, not for a batch")
    require_utf8(options, post)
    return decoder


# -- batches -------------------------------------------------------------------------------


class _Batch:
    """A batch on its way into a channel, and what has become of it so far."""

    def __init__(
        self, hub: Hub, channel: Channel, decoder: Decoder, wish: Wish, body: Body, share: Share
    ) -> None:
        self._hub = hub
        self._channel = channel
        self._decoder = decoder
        self._wish = wish
        self._body = body
        self._share = share
        self._gathered = Gathering()
        self._kept = 0  # bytes that are taken for what is not queued yet
        self._size = 0  # of the rows that were gathered before
        self._appended = self._skipped = 0
        self._first = self._last = b""
        self._view: View | None = None  # right behind the last event

    def append_whole(self) -> None:
        """Append all of a body of declared length, or raise and append nothing."""
        try:
            limit = min(self._hub.config.max_batch_bytes, self._hub.bodies.limit)
            drafts = list(self._drafts(limit))
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
        window: deque[Receipt] = deque()
        stopped: EsourceError | None = None
        try:
            with self._hub.clients.receiving(self._body.client):
                for draft in self._drafts():
                    self._share.take(RECEIPT_BYTES)
                    before = window[-1] if window else None
                    done = partial(self._share.give, draft.size + RECEIPT_BYTES)
                    window.append(self._channel.append([draft], wish, before, done))
                    del draft
                    while window and (
                        window[0].is_done or self._share.held > WINDOW_BYTES or wish.precondition
                    ):
                        self._wait(window.popleft())
                        wish = wish._replace(precondition=None)  # it was for the beginning
        except EsourceError as error:
            stopped = error
        for receipt in window:
            try:
                self._wait(receipt)
            except EsourceError as error:
                stopped = stopped or error
        if stopped:
            self._body.close_afterwards()
            if self._hub.draining:
                stopped = StorageError("the hub is stopping; send the rest again")
            raise stopped.with_text(f"{stopped}; {self._appended} events before that are stored")

    def answer(self) -> Answer:
        """Return the answer to a batch that was appended."""
        fields = [("ETag", answers.etag(self._view or self._channel.view))]
        return _summary(self._appended, self._first, self._last, self._skipped, fields)

    def _drafts(self, limit: int = sys.maxsize) -> Iterator[Draft]:
        """Yield the events of the body; after the good ones raise what is wrong with the next.

        Those of a stream are yielded as they come. `limit` is in bytes: of the body, and of the
        rows that it becomes. What is kept is taken of the body's share. Blocks; raises
        `EsourceError`.
        """
        for piece in pieces(self._body, self._share, limit):
            start, size = 0, _slice_bytes(piece)
            while start < len(piece):
                with turn() if len(piece) > TURN_BYTES else nullcontext():
                    start = self._decode(piece, start, size)
                self._count(limit)
                if self._decoder.error or self._gathered.size >= BLOCK_BYTES:
                    yield from self._block()
            if self._body.size is None:
                yield from self._block()
        self._gathered.add(self._decoder.end())
        self._count(limit)
        yield from self._block()

    def _decode(self, piece: bytes, start: int, size: int) -> int:
        """Decode a piece from an offset on, in slices, for a turn; return where to go on."""
        end = time.thread_time() + TURN_SECONDS
        while True:
            self._gathered.add(self._decoder.feed(piece[start : start + size]))
            start += size
            is_due = self._gathered.size >= BLOCK_BYTES or time.thread_time() > end
            if start >= len(piece) or self._decoder.error or is_due:
                return start

    def _count(self, limit: int) -> None:
        """Take what is kept of the share. Raises `TooLarge` over the limit of rows, and `Busy`."""
        if self._size + self._gathered.size > limit:
            raise TooLarge(f"the batch becomes rows of more than {limit} bytes")
        kept = self._decoder.pending + self._gathered.size
        self._share.take(kept - self._kept)
        self._kept = kept

    def _block(self) -> Iterator[Draft]:
        """Yield the events that were gathered, if any; then raise what ended them, if anything."""
        block, self._gathered = self._gathered.draft(), Gathering()
        self._kept -= block.size
        self._size += block.size
        if self._wish.unique and block.without_id:
            raise BadInput(WITHOUT_ID)
        if block.events:
            yield block
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


def _slice_bytes(piece: bytes) -> int:
    """Return how much of a piece is decoded at once, in bytes: about `SLICE_LINES` lines."""
    if len(piece) <= SLICE_BYTES:
        return SLICE_BYTES
    lines = piece.count(b"\n") + (piece.count(b"\r") if b"\r" in piece else 0)
    return max(SLICE_BYTES, len(piece) * SLICE_LINES // (lines + 1))
