"""The settings: one frozen table of name, default, cast, unit and reason.

Read once, at start, from environment variables named `ESOURCE_` and the
field's name in capitals. An empty variable counts as not set.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TypeVar

from esource.errors import StartError
from esource.rules import Rule
from esource.rules import parse as parse_rules

T = TypeVar("T")
N = TypeVar("N", int, float)
DEFAULT_FOLDER = Path("events")
LOG_FORMATS = ("text", "json")
FSYNC_POLICIES = ("always", "interval", "never")
SECRET = {"store"}  # settings that may hold a password, and are never shown
ENGINES = ["postgresql://", "postgres://", "redis://", "rediss://", "sentinel://", "cluster://"]
OF_FOLDERS = {"dir", "fsync"}  # settings that mean nothing for an engine


def _folder(text: str) -> Path:
    if "\0" in text:
        raise ValueError("a folder")
    return Path(text)


def _store(text: str) -> str:
    if text and not text.startswith(tuple(ENGINES)):
        raise ValueError(f"a URL of {' '.join(ENGINES)}")
    return text


def _bind(text: str) -> str:
    if not re.fullmatch(r"unix:.+|fd://\d+|(\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]]*):\d{1,5}", text):
        raise ValueError("HOST:PORT, [IPV6]:PORT or unix:PATH")
    port = text.rpartition(":")[2]
    if not text.startswith(("unix:", "fd:")) and int(port) > 65535:
        raise ValueError("a port from 0 to 65535")
    return text


def _one_of(words: tuple[str, ...]) -> Callable[[str], str]:
    def cast(text: str) -> str:
        if text not in words:
            raise ValueError("one of " + ", ".join(words))
        return text

    return cast


def _positive(number: Callable[[str], N], unit: str) -> Callable[[str], N]:
    def cast(text: str) -> N:
        try:
            value = number(text)
        except ValueError:
            value = number("0")
        if not 0 < value < 1e15:  # also refuses nan and inf
            raise ValueError(f"a number of {unit} greater than 0")
        return value

    return cast


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("0 or 1")
    return text == "1"


def _setting(default: T, cast: Callable[[str], T], meaning: str) -> T:
    return field(default=default, metadata={"cast": cast, "meaning": meaning})


def _set_of(
    pattern: str, what: str, as_compared: Callable[[str], str] = str.lower
) -> Callable[[str], frozenset[str]]:
    def cast(text: str) -> frozenset[str]:
        found = frozenset(as_compared(text).replace(",", " ").split())
        if not all(re.fullmatch(pattern, each) for each in found):
            raise ValueError(f"{what}, with spaces in between")
        return found

    return cast


_NAMES = _set_of(r"[^\s&=#]+", "names of parameters", str)
_ORIGINS = _set_of(
    r"\*|null|[a-z][a-z0-9+.-]*://[^\s/?#@]+", "origins such as https://example.org:8443"
)
_HOSTS = _set_of(
    r"(\[[0-9a-f:.]+\]|[^\s/:@\[\]]+)(:\d{1,5})?", "host names such as hub.example.org"
)


@dataclass(frozen=True)
class Config:
    """Every setting of the hub. Gunicorn's own are gunicorn's."""

    dir: Path = _setting(  # noqa: RUF009 -- it is `field`, which is meant to be called here
        DEFAULT_FOLDER, _folder, "the folder of the channel files; its parent must exist"
    )
    # The hub has no access control of its own, so it is not offered to the network by default.
    bind: str = _setting("127.0.0.1:9000", _bind, "the address to listen at")
    fsync: str = _setting(
        "always", _one_of(FSYNC_POLICIES),
        "when rows are synced: `always` before the `201`, `interval` every second, `never`",
    )  # fmt: skip
    # Without a rule a channel is one file, of which nothing is ever removed.
    keep: tuple[Rule, ...] = _setting(
        (), parse_rules,
        "what is kept of which channels: `app-*/age=30d,size=10G:orders/segment=1G`",
    )  # fmt: skip
    store: str = _setting(
        "", _store,
        "an engine that several hubs share, instead of a folder: `postgresql://…`, `redis://…`",
    )  # fmt: skip
    store_timeout: float = _setting(
        8.0, _positive(float, "seconds"), "how long the engine is waited for, before a `503`"
    )
    # One event is held in memory, whole, by its publisher and by each reader that is sending it.
    max_event_bytes: int = _setting(
        1 << 20, _positive(int, "bytes"), "the largest event; a larger body is answered `413`"
    )
    # A batch of declared length is held in memory, whole, until it is on disk.
    max_batch_bytes: int = _setting(
        1 << 26, _positive(int, "bytes"), "the largest batch of declared length, and its rows"
    )
    # Of all bodies that are on their way; a quarter of it is for plain publishes alone.
    max_body_memory: int = _setting(
        1 << 28, _positive(int, "bytes"),
        "the memory for all bodies and their rows; the slowest of too many are answered `503`",
    )  # fmt: skip
    # About 150 bytes of memory each, in channels with posts that say `unique=1`.
    dedup_events: int = _setting(
        10_000,
        _positive(int, "events"),
        "how many events back `unique=1` looks for a repeated id, in the last GiB of rows",
    )
    # Each is a connection and about 20 KB; the descriptors of the process are a limit, too.
    max_subscribers: int = _setting(
        50_000,
        _positive(int, "subscribers"),
        "how many may follow; more are answered `503`, event streams a `retry:` and their end",
    )
    # Posts to ever new names fill a folder before they fill a disk.
    max_channels: int = _setting(
        100_000, _positive(int, "channels"),
        "how many files there may be; more get no `201` but `503`",
    )  # fmt: skip
    # Of gateways, and of pages' libraries.
    ignore_parameters: frozenset[str] = _setting(
        frozenset({"access_token", "datastar", "_"}), _NAMES,
        "parameters that are not the hub's business, with spaces in between",
    )  # fmt: skip
    cors_origins: frozenset[str] = _setting(
        frozenset(), _ORIGINS, "origins whose pages may read and write, with spaces in between"
    )
    allowed_hosts: frozenset[str] = _setting(
        frozenset(), _HOSTS, "the hub's own names; requests for others are answered `421`"
    )
    # Below the 15 s that browsers' polyfills and the 30 s that proxies and NAT tables wait.
    heartbeat_seconds: float = _setting(
        10.0, _positive(float, "seconds"), "silence after which a stream sends a comment line"
    )
    # Each channel ever published to is three series, in the hub and in Prometheus.
    metrics_channels: bool = _setting(
        False, _flag, "`1`: `/-/metrics` has series for each channel, too"
    )
    # A client that reaches the port can read what it shows anyway; a gateway may not want it.
    ui: bool = _setting(True, _flag, "`0`: there is no page for people at `/`")
    log_format: str = _setting(
        "text", _one_of(LOG_FORMATS), "how the log is written: `text` or `json`"
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Config":
        """Return the settings in `environ`; raise `StartError` naming the first bad one."""
        values = {}
        for setting in fields(cls):
            name = variable(setting.name)
            text = environ.get(name)
            if not text:
                continue
            try:
                values[setting.name] = setting.metadata["cast"](text)
            except ValueError as error:
                shown = "not right" if setting.name in SECRET else repr(text)
                raise StartError(f"{name} is {shown}, but must be {error}") from None
        if clash := OF_FOLDERS & values.keys() if "store" in values else None:
            names = ", ".join(map(variable, sorted(clash)))
            raise StartError(f"{names}: that is for folders, and ESOURCE_STORE is an engine")
        return cls(**values)


def variable(name: str) -> str:
    """Return the environment variable of the setting `name`."""
    return "ESOURCE_" + name.upper()


def unknown(environ: Mapping[str, str]) -> list[str]:
    """Return the `ESOURCE_` variables that are no setting: misspelt ones, most likely.

    They are worth a warning and no more: Kubernetes sets `ESOURCE_PORT` and the like
    for a service that is called `esource`.
    """
    known = {variable(setting.name) for setting in fields(Config)}
    return sorted(name for name in environ if name.startswith("ESOURCE_") and name not in known)
