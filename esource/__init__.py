"""esource: an EventSource hub whose queue, history and truth is a plain file.

Low to high, each room importing only rooms above it in this list:

    errors    what can go wrong, with its HTTP status
    config    the settings, read once from the environment
    event     one event, what is allowed in it, and the next default id
    tsv, sse  bytes <-> events; pure
    resume    where in a block of rows a reader goes on; pure
    log       one file of whole rows: open, repair, append, read
    channel   the commit, the follow, and all of gevent
    hub       channel names -> channels, and the folder's lock
    body      one request body, whole or not at all
    views     HTTP: publish, subscribe, download
    app       the wiring
    server    gunicorn's settings and hooks
    __main__  the command line

This module imports nothing, so that gunicorn's configuration can import
`esource.config` before gevent has patched the standard library.
"""

__version__ = "0.1.0"
