"""Three network namespaces in a row: hub, router, peer. The router can lose packets in silence.

hub 10.213.0.1 --- 10.213.0.2 router 10.213.1.2 --- 10.213.1.1 peer
"""

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import pytest

from tests.harness.machine import command

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
HUB = "10.213.0.1"
PEER = "10.213.1.1"


class Network:
    """The namespaces, by name."""

    def __init__(self) -> None:
        """Name them after this process."""
        self.hub, self.router, self.peer = (f"esource-{os.getpid()}-{n}" for n in range(3))

    def make(self) -> None:
        """Make and connect them. Raises `CalledProcessError`."""
        for name in (self.hub, self.router, self.peer):
            command("ip", "netns", "add", name)
            command("ip", "-n", name, "link", "set", "lo", "up")
        for number, end in enumerate((self.hub, self.peer)):
            link = ("ip", "-n", end, "link")
            peer = ("peer", "name", f"r{number}", "netns", self.router)
            command(*link, "add", "e0", "type", "veth", *peer)
            command("ip", "-n", end, "address", "add", f"10.213.{number}.1/24", "dev", "e0")
            command("ip", "-n", self.router, "address", "add", f"10.213.{number}.2/24",
                    "dev", f"r{number}")  # fmt: skip
            command(*link, "set", "e0", "up")
            command("ip", "-n", self.router, "link", "set", f"r{number}", "up")
            command("ip", "-n", end, "route", "add", "default", "via", f"10.213.{number}.2")
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        command("ip", "netns", "exec", self.router, "sh", "-c", forward)

    def lose(self) -> None:
        """From now on lose every packet between hub and peer, without a word to either."""
        for address in (HUB, PEER):
            command("ip", "-n", self.router, "route", "add", "blackhole", f"{address}/32")

    def remove(self) -> None:
        """Remove what `make` has made."""
        for name in (self.hub, self.router, self.peer):
            with suppress(subprocess.CalledProcessError):
                command("ip", "netns", "delete", name)


@contextmanager
def network() -> Iterator[Network]:
    """A network; skip the test where there can be none."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    network = Network()
    try:
        try:
            network.make()
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', error)}")
        yield network
    finally:
        network.remove()


def inside(namespace: str, function: Callable[[], T]) -> T:
    """Call a function in a namespace, where its sockets and processes stay; return its result."""
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(fd)
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
