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

from __future__ import annotations

import gc
import logging
import os
import platform
import resource
import signal
import ssl
import sys
from functools import partial
from importlib.metadata import version
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from esource import __version__
from esource.config import Config, unknown
from esource.errors import StartError
from esource.server import addresses, gunicorn, options
from esource.server.gunicorn import Arbiter, Request, Worker
from esource.server.log_lines import Few, last_line, let_threads_log, mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from esource.hub.hub import Hub
    from esource.server.connections import Connections

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
# Connections that wait to be accepted: with more than this a client's attempt is dropped, and tried
# again a second later. After a restart ten thousand come at once. The system caps it
# (net.core.somaxconn, 4096 unless it is raised).
backlog = 8192
# Longer than the 60 s for which nginx keeps an idle connection, so that it is not the hub that
# closes one just as nginx sends a POST into it.
keepalive = 75
bind = _settings.bind
# By default gunicorn opens a control socket in the home folder; the hub has no use for it.
control_socket_disable = True
# Gunicorn's lines and the hub's look alike, in the form that journald likes or as JSON.
logger_class = "esource.server.log_lines.Logger"
# The hub serves at the root, whatever the scheme: no header may move it, or refuse a request.
forwarder_headers = ""
secure_scheme_headers: dict[str, str] = {}

# -- the master ----------------------------------------------------------------------------

_leave_folder: Callable[[], None] | None = None
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def on_starting(server: Arbiter) -> None:
    """Before it listens: refuse a start that cannot work, in one line."""
    global _leave_folder
    from esource.hub.hub import prepare

    try:
        gunicorn.check_master(server)
        options.check(server)
        _leave_folder = prepare(_settings)
        exposed = addresses.check(server)
    except StartError as error:
        if server.pidfile:
            server.pidfile.unlink()
        _refuse(str(error))
    if exposed:
        server.log.warning(
            "esource: whoever reaches %s can read and write every channel, since the hub has no "
            "access control; let a gateway have it (deploy/nginx)", ", ".join(exposed),
        )  # fmt: skip
    for name in unknown(os.environ):
        server.log.warning("esource: %s is not a setting, and is ignored", name)
    # Each connection is a descriptor, and the soft limit of most systems is 1024.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.register_at_fork(
        before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, _STOPS),
        after_in_child=_obey,
        after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, _STOPS),
    )


def _refuse(line: str) -> NoReturn:
    sys.exit(last_line(line))


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

_connections: Connections | None = None


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
    mask(_settings.ignore_parameters)
    few = Few()
    worker.log.error_log.addFilter(few)
    logger = logging.getLogger("esource")
    logger.addFilter(few)
    logger.handlers = worker.log.error_log.handlers
    logger.setLevel(worker.log.error_log.level)
    logger.propagate = False


def post_worker_init(worker: Worker) -> None:
    """Before a worker serves: become the one writer, and learn how to stop."""
    from gevent.baseserver import BaseServer

    from esource.hub.loop import report_crashes, watch_lag
    from esource.server.connections import Connections, crash_report
    from esource.server.fastpath import fast_path

    global _connections
    let_threads_log(worker.log.error_log)
    extensions: dict[str, Any] = worker.app.wsgi().extensions
    hub: Hub = extensions["esource"]
    hub.open(waiting=partial(_wait, worker), is_prepared=True)
    watch_lag(hub.stats.lagged)
    # What is there now stays: the garbage collector need not look at it with the loop waiting.
    gc.collect()
    gc.freeze()
    # A thousand publishers at once are as many greenlets, of which none is garbage: with the 700 of
    # the default a third of the time goes into looking at them. With 50 000, what a hostile batch
    # leaves in circles of frames stays for minutes.
    gc.set_threshold(5000, 10, 10)
    log = logging.getLogger("esource")
    packages = ", ".join(f"{name} {version(name)}" for name in ("gunicorn", "gevent", "flask"))
    log.info("esource %s on Python %s, %s", __version__, platform.python_version(), packages)
    # An engine is asked no more before the hub serves: it may be away.
    count = "" if hub.logs.shared else f"{hub.count()} "
    log.info("%schannels in %s", count, hub.logs.place())
    report_crashes(crash_report(log))
    fast = fast_path(worker, extensions["esource.directly"], hub.plain_bodies)
    connections = Connections(worker, hub, fast)
    connections.streams.open()
    # In a round of the loop: a flood of connections takes turns, too.
    BaseServer.max_accept = property(lambda _: connections.newcomers if fast else 1)
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


def ssl_context(config: object, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Leave the handshake to a connection's first read, where a stop can end the wait for it."""
    context = default()
    wrap = partial(context.wrap_socket, do_handshake_on_connect=False)
    context.wrap_socket = wrap  # type: ignore[method-assign]
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
    from esource.server.connections import TURNS_SECONDS

    if _connections:
        _connections.hub.drain()
        # Parked ones need a greenlet first, so a crowd may need more than that.
        _connections.hub.wait_for_turns(TURNS_SECONDS)


def worker_exit(server: Arbiter, worker: Worker) -> None:
    """At the end of a worker: what was committed is on disk."""
    if _connections:
        _connections.hub.sync()
