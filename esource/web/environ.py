"""WSGI's environment of a request, and the one name in it that is not WSGI's."""

import socket
from typing import Any, TypeAlias

# PEP 3333: text under most names, but not under all.
Environ: TypeAlias = dict[str, Any]


def query_of(environ: Environ) -> str:
    """Return the query as WSGI has it: each character is a byte of the request."""
    text: str = environ.get("QUERY_STRING", "")
    return text


def client_of(environ: Environ) -> socket.socket | None:
    """Return the connection that a request came on; None under a server that does not tell."""
    connection: socket.socket | None = environ.get("gunicorn.socket")
    return connection
