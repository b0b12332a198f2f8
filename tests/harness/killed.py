"""Calls to the system: their order, and a process that is killed between two of them."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CALLS = (
    "open", "write", "pwrite", "fsync", "fdatasync", "ftruncate", "utime", "symlink", "rename",
    "replace", "unlink", "close",
)  # fmt: skip
KILLED = 9


def killed_at(call: int, work: Callable[[], object]) -> bool:
    """Do some work in a child, which ends right before so many calls; return whether it did."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there may be threads, which do not go
        pid = os.fork()
    if not pid:
        _be_killed_at(call)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, KILLED), "the work failed"
    return code == KILLED


def _be_killed_at(call: int) -> None:
    left = call

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(KILLED)
            return function(*arguments, **options)

        return counting

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))


def traced(patch: pytest.MonkeyPatch, folder: Path, *names: str) -> list[str]:
    """Return a list that gets a line for each call of functions of `os`: name, and path in there.

    Calls for other paths are left out.
    """
    steps: list[str] = []

    def trace(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def tracing(*arguments: Any, **options: Any) -> Any:
            at = arguments[0]
            path = os.readlink(f"/proc/self/fd/{at}") if isinstance(at, int) else os.fspath(at)
            if path.startswith(str(folder)) or not os.path.isabs(path):
                steps.append(f"{name} {path.replace(str(folder), '.')}")
            return function(*arguments, **options)

        return tracing

    for name in names:
        patch.setattr(os, name, trace(name, getattr(os, name)))
    return steps
