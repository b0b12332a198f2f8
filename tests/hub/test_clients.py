"""Sockets of clients: whose bodies and streams are ended, and whose are not."""

from contextlib import suppress

import gevent
import gevent.socket
import pytest

from esource.hub.clients import Clients, is_full, is_gone, shut


def test_only_a_body_that_is_being_received_is_ended() -> None:
    clients = Clients()
    ours, theirs = gevent.socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)
        clients.end_bodies()
        theirs.sendall(b"x")
        assert ours.recv(1) == b"x"
        with clients.receiving(ours):
            waiting = gevent.spawn(ours.recv, 1)
            gevent.sleep(0)
            clients.end_bodies()
            assert waiting.get() == b""
        ours.sendall(b"the answer")
        assert theirs.recv(100) == b"the answer"


def test_only_a_client_that_is_being_sent_to_is_cut_off() -> None:
    clients = Clients()
    ours, theirs = gevent.socket.socketpair()
    with ours, theirs:
        with clients.sending(ours):
            pass
        clients.cut_off()
        ours.sendall(b"x")
        assert theirs.recv(1) == b"x"
        with clients.sending(ours):
            clients.cut_off()
        assert theirs.recv(1) == b""
        with pytest.raises(OSError, match="Broken pipe"):
            ours.sendall(b"x")


def test_what_can_be_known_of_a_client_without_sending() -> None:
    ours, theirs = gevent.socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        assert not is_gone(ours)
        assert not is_full(ours)
        with suppress(BlockingIOError):
            while True:
                ours.send(b"x" * 65536)
        assert is_full(ours)
        assert not is_gone(ours)
        shut(theirs, gevent.socket.SHUT_WR)
        assert is_gone(ours)
