"""Packages of npm, installed for a test in a folder of its own."""

import shutil
import subprocess
from pathlib import Path

from tests.harness.machine import needs

INSTALL_SECONDS = 180


def with_packages(source: Path, folder: Path) -> Path:
    """Copy a folder's `package.json` and programs, install what it names, and return the copy.

    Skips the test, or fails it, where there is no npm.
    """
    [npm] = needs("npm")
    for file in source.iterdir():
        if file.name == "package.json" or file.suffix == ".mjs":
            shutil.copy(file, folder)
    subprocess.run(
        [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=folder, check=True, timeout=INSTALL_SECONDS, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return folder
