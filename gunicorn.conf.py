"""Plain `gunicorn` in this folder starts the hub.

What it is given is in `esource/server/`, with the reasons, so that the installed `esource`
starts the same server: the app, gunicorn's gevent worker (thousands of connections stay
open), and one worker (one process writes a channel's file). Options on the command line win.
"""

from esource.server import (  # noqa: F401
    backlog,
    bind,
    control_socket_disable,
    forwarder_headers,
    keepalive,
    logger_class,
    nworkers_changed,
    on_exit,
    on_starting,
    post_fork,
    post_request,
    post_worker_init,
    pre_fork,
    pre_request,
    secure_scheme_headers,
    ssl_context,
    worker_class,
    worker_connections,
    worker_exit,
    worker_int,
    workers,
    wsgi_app,
)
