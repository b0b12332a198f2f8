"""Gunicorn's settings and hooks for the hub, in the order of a process's life.

`gunicorn.conf.py` and `esource` both use them. The hooks keep four promises that a worker
alone cannot:

- one hub on a folder: the master takes the server's lock and refuses to start without it;
- a start that cannot work is refused before anything serves, in one line that says why;
- a stop does not wait for streams, which never end by themselves: they are ended, and idle
  connections are closed, as soon as the worker is told to stop, at any moment of its life;
- a reload hands the folder over: the new worker waits for the writer's lock before it
  serves, while connections wait in the listen queue.

What of gunicorn is not documented is in `gunicorn`. Imported by the master before gevent
patches anything, so nothing here imports the hub (and so gevent) at the top; and it knows of
`web` the application's name alone.
"""

import errno
import gc
import logging
import os
import platform
import resource
import signal
import socket
import ssl
import sys
from functools import partial
from importlib.metadata import version
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, TypeAlias, cast

from esource import __version__
from esource.config import Config, unknown
from esource.errors import StartError
from esource.server import gunicorn
from esource.server.gunicorn import Address, Application, Arbiter, Request, Worker
from esource.server.log_lines import last_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from esource.hub.hub import Hub
    from esource.server.connections import Connections
    from esource.server.fastpath import FastPath
    from esource.web.post import Publish

# What `sys.exc_info` returns of an exception.
Failure: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]

try:
    _settings = Config.from_env(os.environ)
except StartError as error:
    raise SystemExit(last_line(str(error))) from None

# -- settings ------------------------------------------------------------------------------

wsgi_app = "esource.web.app:create_app()"
# One greenlet, not one thread or process, for each of thousands of connections that stay open.
worker_class = "gevent"
# One process writes a channel's file, and knows at once what the readers must be told.
workers = 1
# A follower is a connection, so this is how many there may be; the descriptors are the limit.
worker_connections = 65536
# Longer than the 60 s for which nginx keeps an idle connection, so that it is not the hub that
# closes one just as nginx sends a POST into it.
keepalive = 75
bind = _settings.bind
# By default gunicorn opens a control socket in the home folder; the hub has no use for it.
control_socket_disable = True
# Gunicorn's lines and the hub's look alike, in the form that journald likes or as JSON.
logger_class = "esource.server.log_lines.Logger"
# The hub serves at the root, so no header may move it elsewhere.
forwarder_headers = ""

# -- the master ----------------------------------------------------------------------------

_leave_folder: "Callable[[], None] | None" = None
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def on_starting(server: Arbiter) -> None:
    """Before it listens: refuse a start that cannot work, in one line."""
    global _leave_folder
    if server.cfg.workers != 1:
        _refuse(
            f"--workers {server.cfg.workers}: the hub is one process, the only one that writes "
            f"to {_settings.dir} (it holds that folder's lock); start it with one worker"
        )
    if server.cfg.preload_app:
        _refuse(
            "--preload: gevent must prepare a process before the hub is loaded, and prepares "
            "the worker alone; start it without"
        )
    from esource.hub.hub import prepare

    try:
        gunicorn.check_master(server)
        _leave_folder = prepare(_settings)
        if not gunicorn.is_given_sockets(server):
            _check_addresses(server.cfg.address)
    except StartError as error:
        _refuse(str(error))
    for name in unknown(os.environ):
        server.log.warning("esource: %s is not a setting, and is ignored", name)
    _raise_descriptor_limit()
    os.register_at_fork(
        before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, _STOPS),
        after_in_child=_obey,
        after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, _STOPS),
    )


def _refuse(line: str) -> None:
    sys.exit(last_line(line))


def _check_addresses(addresses: list[Address]) -> None:
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
                f"{host}:{port} {what}; "
                "stop the process that uses it, or set ESOURCE_BIND to another address"
            ) from None


def _raise_descriptor_limit() -> None:
    """Each connection is a descriptor, and the soft limit of most systems is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def nworkers_changed(server: Arbiter, new_value: int, old_value: int | None) -> None:
    """Take back a second worker that was asked for by signal (TTIN)."""
    if old_value is not None and new_value > 1:
        server.log.error("esource: the hub is one process; %d workers refused", new_value)
        server.num_workers = 1


def pre_fork(server: Arbiter, worker: Worker) -> None:
    """Before a worker is a process: refuse one that the hub does not know."""
    try:
        gunicorn.check_worker(worker)
    except StartError as error:
        _refuse(str(error))


def on_exit(server: Arbiter) -> None:
    """At the end of the master: a stop that was not asked of systemd is not a crash to it."""
    gunicorn.tell_systemd_of_the_stop(server)


# -- a worker, until it serves -------------------------------------------------------------

_connections: "Connections | None" = None


def _obey() -> None:
    """First in a new process: a stop ends it at once, since there is nothing yet to put in order.

    For a tenth of a second, until gunicorn asks for the signals in the worker as well, it has
    the master's handlers, which only put them into a queue that a worker does not read.
    """
    for number in _STOPS:
        signal.signal(number, lambda *_: os._exit(0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


def post_fork(server: Arbiter, worker: Worker) -> None:
    """In a new worker: the server's lock is the master's alone; logs go where gunicorn's go."""
    if _leave_folder:
        _leave_folder()
    # A terminal's Ctrl-C reaches the master, too, which tells the worker: once is enough. Ignored
    # it would be until gunicorn sets its own handler, blocked it is for ever.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    logger = logging.getLogger("esource")
    logger.handlers = worker.log.error_log.handlers
    logger.setLevel(worker.log.error_log.level)
    logger.propagate = False


def post_worker_init(worker: Worker) -> None:
    """Before a worker serves: become the one writer, and learn how to stop."""
    from esource.hub.loop import report_crashes, watch_lag
    from esource.server.connections import Connections

    global _connections
    application = worker.app.wsgi()
    hub = _hub(application)
    hub.open(waiting=partial(_wait, worker))
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
    connections = Connections(worker, hub, _fast_path(worker, application))
    worker.handle = connections.handle
    worker.handle_error = connections.refuse
    _connections = connections
    stop = signal.getsignal(signal.SIGTERM)

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        assert callable(stop)
        stop(number, frame)
        connections.begin_drain()

    signal.signal(signal.SIGTERM, on_sigterm)


def _wait(worker: Worker) -> None:
    """While another process writes: live on, unless the worker is told to stop meanwhile."""
    worker.notify()
    if not worker.alive:
        sys.exit()


def _hub(application: Application) -> "Hub":
    return cast("Hub", application.extensions["esource"])


def _crash_report(log: logging.Logger) -> "Callable[[str, Failure], None]":
    """Return what logs why a greenlet has ended, or a connection could not be accepted.

    The latter is tried again for as long as there are no descriptors; a traceback each time
    would not say what to do.
    """
    from esource.hub.limits import Reminder

    descriptors = Reminder()

    def report(text: str, failure: Failure) -> None:
        error = failure[1]
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            descriptors.warn(
                "%s (this process may have %d): new connections have to wait; "
                "raise the limit (LimitNOFILE=, ulimit -n)",
                error.strerror, resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            )  # fmt: skip
        else:
            log.critical("%s", text, exc_info=failure)

    return report


def _fast_path(worker: Worker, application: Application) -> "FastPath | None":
    """Return the fast path; None where an option wants to see, count or encrypt every request.

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
    return FastPath(cast("Publish", application.extensions["esource.post"]), cfg.keepalive)


def ssl_context(config: object, default: "Callable[[], ssl.SSLContext]") -> ssl.SSLContext:
    """Leave the handshake to a connection's first read, where a stop can end the wait for it."""

    class Context(ssl.SSLContext):  # not before gevent has patched that one
        def wrap_socket(
            self, sock: socket.socket, server_side: bool = False,
            do_handshake_on_connect: bool = True, suppress_ragged_eofs: bool = True,
            server_hostname: str | bytes | None = None, session: ssl.SSLSession | None = None,
        ) -> ssl.SSLSocket:  # fmt: skip
            return super().wrap_socket(
                sock, server_side, False, suppress_ragged_eofs, server_hostname, session
            )

    context = default()
    context.__class__ = Context
    return context


# -- a worker that serves, and its end -----------------------------------------------------


def pre_request(worker: Worker, request: Request) -> None:
    """Before each request of gunicorn's."""
    assert _connections
    _connections.begin_request(request)


def post_request(
    worker: Worker, request: Request, environ: dict[str, object], response: object
) -> None:
    """After each response of gunicorn's."""
    assert _connections
    _connections.end_request(request)


def worker_int(worker: Worker) -> None:
    """On SIGINT or SIGQUIT, a tenth of a second before the end: streams end properly."""
    if worker.booted:
        _hub(worker.app.wsgi()).drain()


def worker_exit(server: Arbiter, worker: Worker) -> None:
    """At the end of a worker: what was committed is on disk."""
    if worker.booted:
        _hub(worker.app.wsgi()).sync()
