"""esource: an EventSource hub whose queue, history and truth is a plain file.

    rows     bytes <-> events. Pure: no files, no sockets, no clock
    log      bytes at offsets, appended and never changed. Blocking calls
    hub      channels: writers, followers, and how they wait. Greenlets
    web      requests -> answers. Flask
    server   connections, the fast path, settings and hooks. gunicorn

An arrow up is a mistake, and `tests/test_layers.py` says so: every module may import `errors`,
`config` and `event`; `log` also `rows`; `hub` also `log` and `rows`; `web` also `hub` and `rows`;
`server` also `hub`, and starts `web` by its name. The commands beside `serve` (`command`, `check`)
use `log` and `rows`, and `__main__` has their table. `docs/ARCHITECTURE.md` draws it.

This module imports nothing, so that gunicorn's configuration can import `esource.config` before
gevent has patched the standard library.
"""

__all__ = ["__version__"]  # what lasts for programs is HTTP, the files and the command
__version__ = "0.2.0.dev0"
