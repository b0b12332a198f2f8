"""Which engine a URL is of: its module is imported here, and only if there is such a URL."""

from collections.abc import Sequence
from typing import Protocol

from esource.errors import StartError
from esource.log import Logs, Shared
from esource.log.blocks import Engine
from esource.log.waiting import IN_THREADS, Waiting
from esource.rules import Rule


class EngineLogs(Logs, Shared, Engine, Protocol):
    """All logs on an engine."""

    def close(self) -> None:
        """Let go of all connections."""


def logs_of(
    url: str, seconds: float, rules: Sequence[Rule] = (), waiting: Waiting = IN_THREADS
) -> EngineLogs:  # fmt: skip
    """Return the logs at a URL; nothing is asked yet. A call takes up to so many seconds.

    Raises `StartError`, also if the package that it takes is not installed.
    """
    extra = "postgresql" if url.startswith("postgres") else "redis"
    try:
        if extra == "postgresql":
            from esource.log.postgresql import PostgreSQL

            return PostgreSQL(url, seconds, rules, waiting)
        from esource.log.valkey import Valkey

        return Valkey(url, seconds, rules, waiting)
    except ImportError as error:
        needed = f"pip install 'esource[{extra}]'"
        raise StartError(f"ESOURCE_STORE needs {needed}: {error}") from None
