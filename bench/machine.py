"""Where a benchmark ran, and with which versions: what somebody needs who gets other figures."""

import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGES = ("esource", "flask", "gevent", "greenlet", "gunicorn", "orjson")
# How each program is asked, and the first number that looks like a version is the answer.
PROGRAMS = {
    "nginx": ["nginx", "-v"],
    "redis": ["redis-server", "--version"],
    "ab": ["ab", "-V"],
    "wrk": ["wrk", "-v"],
    "cc": ["cc", "--version"],
}


def machine(folder: Path) -> dict[str, Any]:
    """Return what is known about this machine, and about the disk below a folder."""
    processor = [
        line.partition(": ")[2]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": processor[0] if processor else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "kernel": platform.release(),
        "file_system": file_system(folder),
        "fsync_ms": round(fsync_ms(folder), 3),
        "load_before": round(os.getloadavg()[0], 2),
    }


def file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on."""
    path = str(folder.resolve())
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split(" ")
        if (path + "/").startswith(mount.rstrip("/") + "/"):
            best = max(best, (mount, kind))
    return best[1]


def fsync_ms(folder: Path) -> float:
    """Return how long the disk takes for an append of 100 bytes that is to last."""
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(50):
            os.write(file.fileno(), b"x" * 100)
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - started)
    return median(times) * 1e3


def versions() -> dict[str, str]:
    """Return the versions of everything that takes part; a program that is missing is not."""
    found = {"python": platform.python_version()}
    found |= {package: version(package) for package in PACKAGES}
    for name, command in PROGRAMS.items():
        if shutil.which(command[0]):
            said = subprocess.run(command, capture_output=True, text=True, check=False)
            number = re.search(r"\d+\.[\d.]*\d", said.stdout + said.stderr)
            found[name] = number[0] if number else "unknown"
    return found


def commit() -> str:
    """Return the commit that is measured, with a plus if the code has changed since."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        ).stdout.strip()

    name = git("rev-parse", "--short=12", "HEAD") or "unknown"
    return name + ("+" if git("status", "--porcelain", "esource", "bench") else "")
