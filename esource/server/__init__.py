"""Gunicorn's settings and hooks for the hub; `gunicorn.conf.py` and `esource` both use them.

The hooks keep three promises that a worker alone cannot:

- one hub on a folder: the master takes the server's lock and refuses to start without it;
- a stop does not wait for streams, which never end by themselves: they are ended, and idle
  connections are closed, as soon as the worker is told to stop;
- a reload hands the folder over: the new worker waits for the writer's lock before it
  serves, while connections wait in the listen queue.

Imported by the master before gevent patches anything, so nothing here imports the hub (and
so gevent) at the top.
"""

import errno
import gc
import logging
import os
import platform
import resource
import signal
import socket
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from esource import __version__
from esource.config import Config, unknown
from esource.errors import StartError
from esource.server.log_lines import last_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from esource.hub.hub import Hub
    from esource.log.lock import Lock
    from esource.server.fastpath import FastPath

try:
    _settings = Config.from_env(os.environ)
except StartError as error:
    raise SystemExit(last_line(str(error))) from None

wsgi_app = "esource.web.app:create_app()"
# One greenlet, not one thread or process, for each of thousands of connections that stay open.
worker_class = "gevent"
# One process writes a channel's file, and knows at once what the readers must be told.
workers = 1
# A subscriber is a connection, so this is how many there may be; the descriptors are the limit.
worker_connections = 65536
# Longer than the 60 s for which nginx keeps an idle connection, so that it is not the hub who
# closes one just as nginx sends a POST into it.
keepalive = 75
bind = _settings.bind
# By default gunicorn opens a control socket in the home folder; the hub has no use for it.
control_socket_disable = True
# Gunicorn's lines and the hub's look alike, in the form that journald likes or as JSON.
logger_class = "esource.server.log_lines.Logger"
# The hub serves at the root, so no header may move it elsewhere.
forwarder_headers = ""

_lock: "Lock | None" = None


def on_starting(server: Any) -> None:
    """In the master, before it listens: refuse a start that cannot work, in one line."""
    global _lock
    if server.cfg.workers != 1:
        _refuse(
            f"--workers {server.cfg.workers}: the hub is one process, the only one that writes "
            f"to {_settings.dir} (it holds that folder's lock); start it with one worker"
        )
    from esource.hub.hub import prepare

    try:
        _lock = prepare(_settings)
        if not (server.LISTENERS or _is_given_sockets()):
            _check_addresses(server.cfg.address)
    except StartError as error:
        _refuse(str(error))
    for name in unknown(os.environ):
        server.log.warning("esource: %s is not a setting, and is ignored", name)
    _raise_descriptor_limit()


def _refuse(line: str) -> None:
    sys.exit(last_line(line))


def _is_given_sockets() -> bool:
    """Return whether somebody else listens already: systemd for us, or gunicorn before USR2."""
    is_ours = os.environ.get("LISTEN_PID") == str(os.getpid())  # it may be for who started us
    return bool((is_ours and os.environ.get("LISTEN_FDS")) or os.environ.get("GUNICORN_FD"))


def _check_addresses(addresses: list[Any]) -> None:
    """Raise `StartError` for an address that cannot be bound: gunicorn would retry for 5 s."""
    for address in addresses:
        if not isinstance(address, tuple):
            continue
        host, port = address[:2]
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
                probe.listen(1)
        except OSError as error:
            what = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error}"
            raise StartError(
                f"{host}:{port} {what}; stop who has it, or set ESOURCE_BIND to another address"
            ) from None


def _raise_descriptor_limit() -> None:
    """Each connection is a descriptor, and the soft limit of most systems is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def nworkers_changed(server: Any, new_value: int, old_value: int | None) -> None:
    """Take back a second worker that was asked for by signal (TTIN)."""
    if old_value is not None and new_value > 1:
        server.log.error("esource: the hub is one process; %d workers refused", new_value)
        server._num_workers = 1


def post_fork(server: Any, worker: Any) -> None:
    """In a new worker: the server's lock is the master's alone; logs go where gunicorn's go."""
    if _lock:
        _lock.release()
    logger = logging.getLogger("esource")
    logger.handlers = worker.log.error_log.handlers
    logger.setLevel(worker.log.error_log.level)
    logger.propagate = False


def post_worker_init(worker: Any) -> None:
    """In a worker, before it serves: become the one writer, and learn how to stop."""
    from esource.hub.loop import report_crashes, watch_lag
    from esource.server.connections import Connections

    hub = _hub(worker)
    hub.open(waiting=worker.notify)
    watch_lag(hub.stats.lagged)
    # What is there now stays: the garbage collector need not look at it with the loop waiting.
    gc.collect()
    gc.freeze()
    log = logging.getLogger("esource")
    packages = ", ".join(f"{name} {version(name)}" for name in ("gunicorn", "gevent", "flask"))
    log.info("esource %s on Python %s, %s", __version__, platform.python_version(), packages)
    log.info(
        "%d channels in %s, fsync %s",
        hub.count(),
        _settings.dir.absolute(),
        _settings.fsync,
    )
    report_crashes(_crash_report(log))
    connections = Connections(worker, hub, _fast_path(worker))
    worker.connections = connections
    worker.handle = connections.handle
    worker.handle_error = connections.refuse
    stop = signal.getsignal(signal.SIGTERM)

    def on_sigterm(number: int, frame: Any) -> None:
        assert callable(stop)
        stop(number, frame)
        connections.begin_drain()

    signal.signal(signal.SIGTERM, on_sigterm)
    # A terminal's Ctrl-C reaches the master, too, which tells the worker: once is enough.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _crash_report(log: logging.Logger) -> "Callable[[str, Any], None]":
    """Return what logs why a greenlet has ended, or a connection could not be accepted.

    The latter is tried again for as long as there are no descriptors; a traceback each time
    would tell nobody what to do.
    """
    from esource.hub.limits import Reminder

    descriptors = Reminder()

    def report(text: str, failure: Any) -> None:
        error = failure[1]
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            descriptors.warn(
                "%s (this process may have %d): who connects has to wait; "
                "raise the limit (LimitNOFILE=, ulimit -n)",
                error.strerror, resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            )  # fmt: skip
        else:
            log.critical("%s", text, exc_info=failure)

    return report


def _hub(worker: Any) -> "Hub":
    hub: Hub = worker.app.wsgi().extensions["esource"]
    return hub


def _fast_path(worker: Any) -> "FastPath | None":
    """Return the fast path; None where somebody wants to see, count or encrypt every request.

    Nor where a connection is for one request, or where gunicorn is told to take less of one
    than the fast path does (0 is no limit).
    """
    from esource.server.fastpath import FIELDS, HEAD_BYTES, FastPath

    cfg = worker.cfg
    if (
        cfg.is_ssl
        or cfg.proxy_protocol != "off"
        or worker.log.access_log_enabled
        or cfg.statsd_host
        or cfg.max_requests
        or not cfg.keepalive
        or 0 < cfg.limit_request_line < HEAD_BYTES
        or 0 < cfg.limit_request_field_size < HEAD_BYTES
        or 0 < cfg.limit_request_fields < len(FIELDS)
    ):
        return None
    return FastPath(worker.app.wsgi().extensions["esource.post"], cfg.keepalive)


def pre_request(worker: Any, request: Any) -> None:
    """Before each request of gunicorn's."""
    worker.connections.begin_request(request)


def post_request(worker: Any, request: Any, environ: dict[str, Any], response: Any) -> None:
    """After each response of gunicorn's."""
    worker.connections.end_request(request)


def worker_int(worker: Any) -> None:
    """On SIGINT or SIGQUIT, a tenth of a second before the end: streams end properly."""
    _hub(worker).drain()


def on_exit(server: Any) -> None:
    """At the end of the master: a stop that nobody asked systemd for is not a crash to it.

    That the server is ready, gunicorn tells systemd by itself.
    """
    from gunicorn.systemd import sd_notify

    sd_notify("STOPPING=1", server.log)


def worker_exit(server: Any, worker: Any) -> None:
    """At the end of a worker: what was committed is on disk."""
    if worker.booted:
        _hub(worker).sync()


def ssl_context(config: Any, default: Any) -> Any:
    """Leave the handshake to a connection's first read, where a stop can end the wait for it."""
    import ssl

    class Context(ssl.SSLContext):
        def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
            return super().wrap_socket(*arguments, **{**options, "do_handshake_on_connect": False})

    context = default()
    context.__class__ = Context
    return context
