"""The addresses that the hub is to listen at: whether they can be had, asked before gunicorn does.

Gunicorn would try for five seconds, and then say less.
"""

import errno
import os
import socket

from esource.errors import StartError
from esource.server.gunicorn import Arbiter


def check(server: Arbiter) -> None:
    """Raise `StartError` for an address that cannot be bound, unless the sockets are there."""
    if _is_given_sockets(server):
        return
    for address in server.cfg.address:
        if isinstance(address, tuple):
            _check(*address[:2])


def _is_given_sockets(server: Arbiter) -> bool:
    """Return whether there are sockets already: of systemd, or of gunicorn's before USR2."""
    is_ours = os.environ.get("LISTEN_PID") == str(os.getpid())  # it may be for our parent
    return bool(
        server.LISTENERS
        or (is_ours and os.environ.get("LISTEN_FDS"))
        or os.environ.get("GUNICORN_FD")
    )


def _check(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        what = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error}"
        raise StartError(
            f"{host}:{port} {what}; "
            "stop the process that uses it, or set ESOURCE_BIND to another address"
        ) from None
