"""esource: an EventSource hub whose queue, history and truth is a plain file.

Low to high, each room importing only from rooms above it (`tests/test_layers.py` says which):

    errors     what can go wrong, with its HTTP status
    config     the settings, read once from the environment
    event      one event, what is allowed in it, and the next default id
    tsv        the grammar of a channel file; rows <-> events
    sse, ndjson, formats, ingest
               rows -> what is sent, what was sent -> rows
    selection, resume, zones, recent
               rows -> which of them, from where, and which were there already
    log        one file of whole rows: open, repair, append, read
    stats      what is counted meanwhile
    threads    where the loop must not wait: blocking calls in threads, long steps in turns
    batch      rows that are read together, and encoded once for all
    commit     rows that are written together, and what their publishers hold
    search     places in a log
    download   bytes of a file to a socket
    readers    who waits for a commit, and how they get it
    channel    the queue, the writer, and where readers go on
    limits     how many there may be, and who hears of it when there are more
    hub        channel names -> channels, and the folder's locks
    listing    a folder -> a page of its channels
    metrics    what was counted -> what Prometheus reads
    origin, answers, body
               what the views share: whose pages may ask, answers of one line, bodies whole
               or not at all
    publish, read, views
               HTTP
    ops        what lives under `/-/`
    page       the page for people: its files, which ask the hub as anybody would
    app        the wiring
    check      the files of a folder while no hub runs
    fastpath   plain publishes without the framework
    connections
               the worker's connections, and how they end
    logs       how a line of the log looks
    server     gunicorn's settings and hooks
    __main__   the command line

Everything above `log` is pure: bytes in, bytes out; so is `stats`. gevent is in `threads`
and in `commit`, `search`, `download`, `readers`, `channel` and `connections`.

This module imports nothing, so that gunicorn's configuration can import
`esource.config` before gevent has patched the standard library.
"""

__version__ = "0.1.0"
