"""Parked followers, without a server: what remains of those that have left."""

import gc
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import gevent

from esource.hub.followers import Follower, _Cohort
from esource.hub.tail import Push
from tests.harness.channels import channel_of

ROUNDS = 1000
HOUR = 3600.0  # the longest heartbeat


def as_they_are(rows: bytes, malformed: list[bytes]) -> bytes:
    return rows


class Ended:
    """A stream that ends as soon as it goes on."""

    def go_on(self, follower: Follower) -> Iterator[bytes]:
        yield b""


def test_followers_that_come_and_leave_leave_nothing_to_wait_for(tmp_path: Path) -> None:
    channel = channel_of(tmp_path / "orders.tsv")
    followers, log = channel.followers, channel.refresh().log
    push = Push(as_they_are, bytes, beat=b":\n", silence=HOUR)

    def leave(follower: Follower) -> None:
        client = follower.attach()
        with follower:
            pass
        client.close()

    followers.parking.open(leave)
    for _ in range(ROUNDS):
        ours, theirs = socket.socketpair()
        follower = Follower(followers, log, 0, ours, push)
        with follower:
            follower.park(time.monotonic(), Ended())
        theirs.close()
        follower.wake()
        gevent.sleep(0)
    assert len(followers) == len(followers.parking) == 0
    del follower
    gc.collect()
    assert sum(isinstance(each, _Cohort) for each in gc.get_objects()) < ROUNDS // 4
