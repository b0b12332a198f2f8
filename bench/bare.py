"""The least that the same gunicorn can do: read a body, answer `201`. Stores nothing.

Both the application and gunicorn's settings: those of the hub that have to do with speed.
"""

from collections.abc import Callable, Iterable
from typing import Any

from esource.server import control_socket_disable, forwarder_headers, keepalive, worker_connections

__all__ = ["app", "control_socket_disable", "forwarder_headers", "keepalive", "worker_connections"]

wsgi_app = "bench.bare:app"
worker_class = "gevent"
workers = 1

ID = b"2017-04-05T11:40:10.793000Z\n"


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer as the hub would."""
    environ["wsgi.input"].read()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(ID)))]
    start_response("201 Created", headers)
    return [ID]
