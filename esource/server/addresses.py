"""The addresses that the hub is to listen at: whether they can be had, and who can reach them.

Asked before gunicorn does: it would try for five seconds, and then say less.
"""

import errno
import ipaddress
import os
import socket

from esource.errors import StartError
from esource.server.gunicorn import Arbiter


def check(server: Arbiter) -> list[str]:
    """Return the addresses that other machines can reach; none if the sockets are there already.

    Raises `StartError` for one that cannot be bound.
    """
    if _is_given_sockets(server):
        return []
    bound = [_bound(*address) for address in server.cfg.address if isinstance(address, tuple)]
    return [_shown(*address) for address in bound if not _is_loopback(address[0])]


def _is_given_sockets(server: Arbiter) -> bool:
    """Return whether there are sockets already: of systemd, or of gunicorn's before USR2."""
    is_ours = os.environ.get("LISTEN_PID") == str(os.getpid())  # it may be for our parent
    return bool(
        server.LISTENERS
        or (is_ours and os.environ.get("LISTEN_FDS"))
        or os.environ.get("GUNICORN_FD")
    )


def _is_loopback(host: str) -> bool:
    address = ipaddress.ip_address(host.partition("%")[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bound(host: str, port: int) -> tuple[str, int]:
    """Bind an address for a moment; return it, with the host as a number."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
            return probe.getsockname()[0], port
    except OSError as error:
        what = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error}"
        raise StartError(
            f"{_shown(host, port)} {what}; "
            "stop the process that uses it, or set ESOURCE_BIND to another address"
        ) from None
