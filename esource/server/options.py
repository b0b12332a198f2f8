"""The options of gunicorn's that cannot work with the hub, or were meant for something else.

Each is refused at the start, in a line that says what to do instead: gunicorn would start, and then
serve nothing, or something else than the hub promises.
"""

import re
from collections.abc import Iterator
from importlib.util import find_spec

from esource.config import variable
from esource.errors import StartError
from esource.server.gunicorn import Arbiter, is_known_worker

BIND, FOLDER = variable("bind"), variable("dir")
_PORT = re.compile(r"(?:[^/]*:)?([0-9]+)")


def check(server: Arbiter) -> None:
    """Raise `StartError` for the first option that cannot work."""
    for refusal in _refusals(server):
        raise StartError(refusal)


def _refusals(server: Arbiter) -> Iterator[str]:
    cfg = server.cfg
    if cfg.workers != 1:
        yield (
            f"--workers {cfg.workers}: the hub is one process, the only one that writes to its "
            "folder (it holds that folder's lock); start it with one worker"
        )
    if not is_known_worker(server.worker_class):
        yield (
            f"-k {cfg.worker_class_str}: a follower is a connection that stays open, of which only "
            "the gevent worker has thousands; start it without"
        )
    if cfg.preload_app:
        yield (
            "--preload: gevent must prepare a process before the hub is loaded, and prepares "
            "the worker alone; start it without"
        )
    if port := _PORT.fullmatch(cfg.pidfile or ""):
        yield (
            f"-p {cfg.pidfile}: that is a file for the process id; "
            f"a port is set with {BIND}=127.0.0.1:{port[1]}, or with -b"
        )
    for bind in cfg.bind:
        if bind.isdigit():
            yield f"-b {bind}: that is no address; write -b 127.0.0.1:{bind}"
    others = [name for name in (cfg.protocol, *cfg.http_protocols) if name not in ("http", "h1")]
    if others or cfg.http2_cleartext != "off":
        yield (
            f"{', '.join(others) or 'HTTP/2'}: the hub speaks HTTP/1.1; "
            "start it without, and let a gateway speak the other"
        )
    if server.app.app_uri != cfg.wsgi_app and not _is_module(server.app.app_uri):
        yield (
            f"{server.app.app_uri}: that is no module; "
            f"the folder of the channel files is set with {FOLDER}={server.app.app_uri}"
        )


def _is_module(application: str) -> bool:
    """Return whether `MODULE[:NAME]` names a module or package, as far as can be seen unloaded."""
    top = re.split("[.:]", application)[0]
    spec = find_spec(top) if top.isidentifier() else None
    return spec is not None and spec.origin is not None  # a folder without code has no origin
