"""The events of a channel, in order, over every break of the connection (WHATWG HTML 9.2).

connect ──► 200 ──► events ──► it breaks, or falls silent ──► wait ──► connect, Last-Event-ID
──► 204: `until=` was passed; the end
──► any other 4xx: refused; the end
"""

import sys
from collections.abc import Iterator

from esource.client.cursor import Cursor
from esource.client.patience import Patience, Stop, Stopped
from esource.client.target import Away, Query, Target, header
from esource.errors import printable
from esource.event import Event
from esource.rows.sse import Decoder

HEARTBEAT_SECONDS = 15
SILENCE_SECONDS = 3 * HEARTBEAT_SECONDS
PIECE_BYTES = 1 << 16
STARTS = {"after", "since", "from", "tail", "lastEventId", "last_event_id", "Last-Event-ID"}


def follow(
    target: Target, cursor: Cursor, stop: Stop, new: bool = False, until: str | None = None
) -> Iterator[Event | None]:
    """Yield the events after `cursor`, and None whenever there is nothing more for now.

    `cursor.id` is the position behind what was yielded last, to be saved when that is done with; at
    None it may be a place. Without a cursor, and if the URL does not say, the first event is the
    beginning, or with `new` the next one to come. It ends where `until`, a type, has come. Raises
    `Refused`, and after a signal `Stopped`, between two events.
    """
    query: list[tuple[str, str]] = [("heartbeat", str(HEARTBEAT_SECONDS)), ("prime", "1")]
    if until is not None:
        query.append(("until", until))
    if not new and not STARTS.intersection(name for name, _ in target.query):
        query.append(("after", ""))
    patience = Patience(stop)
    while True:
        decoder = Decoder()
        try:
            for event in _connection(target, cursor, stop, query, decoder):
                patience.works()
                yield event
                if stop.is_asked:
                    raise Stopped
                if event and until is not None and event.type == until.encode():
                    return
            away = Away(f"{target.url}: the stream ended")
        except _Over:
            return
        except Away as error:
            away = error
        patience.wait(away, (decoder.retry or 0) / 1000)


class _Over(Exception):
    """What `until=` asks for has come before."""


def _connection(
    target: Target, cursor: Cursor, stop: Stop, query: Query, decoder: Decoder
) -> Iterator[Event | None]:
    """Yield what one connection has; raise `Away` if it breaks, `_Over` if there is no more."""
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
    if cursor.id:
        headers["Last-Event-ID"] = header(cursor.id)
    try:
        with stop.waiting():
            answer = target.ask("GET", query, headers, timeout=SILENCE_SECONDS)
        if answer.status == 204:
            raise _Over
        resumed = answer.headers.get("Esource-Resume", "")
        if cursor.id and resumed in ("start", "trimmed"):
            where = f"{target.url}: {cursor.id.decode(errors='replace')!r} is not there ({resumed})"
            print(printable(f"esource: {where}; from the first event"), file=sys.stderr)
        while True:
            with stop.waiting():
                piece = target.piece(answer, PIECE_BYTES)
            if not piece:
                return
            for event in decoder.events(piece):
                cursor.id = decoder.last_id or cursor.id
                yield event
            cursor.id = decoder.last_id or cursor.id
            yield None
    finally:
        target.close()
