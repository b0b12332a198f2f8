"""Several channels as one stream: the order within each is kept, between them it is as they come.

    channel ──► follower ──┐
    channel ──► follower ──┼──► a stretch of each in turn ──► the client
    channel ──► follower ──┘

A reader of several channels is as many offsets. It waits for a commit in any of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from socket import socket

from esource.hub.channel import EVERY, Channel, Silence
from esource.hub.followers import Follower
from esource.hub.tail import Stretch
from esource.hub.view import Place, View
from esource.hub.work import Work


def read(
    channels: Sequence[Channel], views: Sequence[View], offsets: Sequence[int], work: Work,
    types: frozenset[bytes] = EVERY,
) -> Iterator[tuple[int, Stretch]]:  # fmt: skip
    """Yield the rows of each channel's view from an offset on, a stretch of each in turn.

    With `types`, such events at least, without their offsets. Blocks; raises `StorageError`, and
    `ClientLeft`: see `Channel.read`.
    """
    readers = {
        number: channel.read(view, offset, types, work)
        for number, (channel, view, offset) in enumerate(zip(channels, views, offsets, strict=True))
    }
    while readers:
        for number in list(readers):
            stretch = next(readers[number], None)
            if stretch is None:
                del readers[number]
            else:
                yield number, stretch


def follow(
    channels: Sequence[Channel], places: list[Place], heartbeat: float, client: socket | None,
    timeout: float | None, types: frozenset[bytes] = EVERY,
) -> Iterator[tuple[int, Stretch] | None]:  # fmt: skip
    """Yield the rows of each channel from a place on, as they are committed; None for silence.

    As `Channel.follow` does. `places` are moved on, each to the end of the stretch before it is
    yielded.
    """
    work = Work(client)
    silence = Silence(heartbeat, timeout)
    with ExitStack() as stack:
        followers = []
        for number, (channel, place) in enumerate(zip(channels, places, strict=True)):
            # One watches the client, for all.
            follower = Follower(channel.followers, *place, None if number else client, None)
            followers.append(stack.enter_context(follower))
        first, *others = followers
        while not any(channel.draining for channel in channels):
            is_quiet = True
            for number, (channel, follower) in enumerate(zip(channels, followers, strict=True)):
                if follower.is_passed:
                    return
                end = channel.more(follower)
                if not end:
                    places[number] = Place(follower.log, follower.offset)
                    continue
                is_quiet = False
                if timeout and silence.left() is None:
                    return
                stretch = channel.take(follower, end, types, work)
                places[number] = Place(follower.log, follower.offset)
                if stretch.rows:
                    yield number, stretch
                    silence.end()
            if not is_quiet:  # nor may anything have come meanwhile, of those looked at first
                continue
            seconds = silence.left()
            if seconds is None:
                return
            if seconds > 0 and first.wait(seconds, others) is not None:
                continue
            silence.probe(is_first=seconds > 0)
            yield None
            silence.end()
