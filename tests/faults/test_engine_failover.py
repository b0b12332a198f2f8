"""The table of what is lost when a primary dies: what promises to lose nothing loses nothing."""

import subprocess
import sys

import pytest

from tests.harness import ROOT, needs, size
from tests.harness.patroni import PROGRAMS

MINUTES = 20


@pytest.mark.skipif(not size(0, 1), reason="takes minutes: only in full")
def test_what_promises_to_lose_nothing_when_a_primary_dies_loses_nothing() -> None:
    needs(*PROGRAMS)
    done = subprocess.run(
        [sys.executable, "-m", "bench.failover"], cwd=ROOT, capture_output=True, text=True,
        timeout=MINUTES * 60, check=False,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
