"""The machine that the tests run on: its programs, ports and file systems, and how much it can.

`CI=true` says that everything is installed on purpose, so that nothing is left out in silence.
`TESTS_FULL=1` asks for the full sizes; without it they are what CI has time for. (Hubs are started
with it, and would warn of an `ESOURCE_` that they do not know.)
"""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

ROOT = Path(__file__).parent.parent.parent
T = TypeVar("T")
FULL = os.environ.get("TESTS_FULL") == "1"


def size(default: int, full: int) -> int:
    """Return how many: the default, or all of them if asked for."""
    return full if FULL else default


def some(all_of_them: Iterable[T], one_in: int) -> list[T]:
    """Return one in so many, always the same ones: the default; or all of them if asked for."""
    return list(all_of_them)[:: size(one_in, 1)]


_given = {0}  # by this process: what is chosen at random may be chosen again


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens at; another one each time."""
    port = 0
    while port in _given:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
    _given.add(port)
    return port


def needs(*programs: str) -> list[str]:
    """Return the programs' paths. Where one is missing, skip the test; if `CI` is `true`, fail it.

    For the bodies of tests and for fixtures: where everything is installed on purpose, a test
    that nobody misses must not be left out in silence.
    """
    # Debian's users do not have sbin in their PATH.
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
    found = {program: shutil.which(program, path=path) for program in programs}
    missing = [program for program, where in found.items() if where is None]
    if missing:
        do_without(f"missing: {', '.join(missing)}")
    return [where for where in found.values() if where is not None]


def do_without(reason: str) -> NoReturn:
    """Skip the test for want of something that could be had here; if `CI` is `true`, fail it."""
    import pytest  # only here: attackers are programs of their own, which start without it

    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def command(*words: str | Path) -> str:
    """Run a command to its end; return what it prints. Raises `CalledProcessError`."""
    done = subprocess.run([*map(str, words)], check=True, capture_output=True, text=True)
    return done.stdout


@contextmanager
def mounted(folder: Path, *words: str | Path) -> Iterator[Path]:
    """A file system mounted at a new folder (`mount <words> <folder>`); skip if that cannot be."""
    import pytest

    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    try:
        command("mount", *words, folder)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting is not possible here: {getattr(error, 'stderr', error)}")
    try:
        yield folder
    finally:
        # A process that was just killed may still be on its way out: then as soon as it is.
        command("umount", "--lazy", folder)


def heed_sigint() -> None:
    """Have this process, and all that it starts, end by SIGINT unless they say otherwise.

    A shell without job control starts its background jobs with SIGINT ignored, and children
    inherit that: `sh -c 'pytest &'` made hubs and followers that no Ctrl-C could end.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
