"""What the hub says of itself in `/-/openapi.json`, held to it by schemathesis.

For each path it makes requests that are as described and such that are not, at the edges of each
parameter and by chance, and compares the answers with the description: their statuses, media types,
header fields and shapes. It asks with other methods, and it must be refused what is not described.

One check is left out, "what is as described is accepted": OpenAPI cannot say what goes together, or
what the data of a batch must be. `tests/harness/coherent` has the rest of what it cannot say.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.harness import ROOT, running_hub, size
from tests.harness.measures import metric

SECONDS = 120  # at most; it takes a quarter of that
# A head that is too large is refused before anything in it is looked at.
CONFIGURATION = """
[checks.negative_data_rejection]
expected-statuses = [400, 404, 405, 409, 412, 415, 431]
"""


def test_the_hub_does_what_it_says_of_itself(tmp_path: Path) -> None:
    import schemathesis  # noqa: F401 -- it is a program of its own that runs

    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    with running_hub(tmp_path) as hub:
        run = subprocess.run(
            [
                sys.executable, "-m", "schemathesis.cli", "run", f"{hub.url}/-/openapi.json",
                "--phases", "coverage,fuzzing", "--max-examples", str(size(80, 300)),
                "--exclude-checks", "positive_data_acceptance", "--generation-deterministic",
                "--continue-on-failure", "--request-timeout", "10", "--no-color",
            ],
            env={
                **os.environ, "SCHEMATHESIS_HOOKS": "tests.harness.coherent",
                "PYTHONPATH": str(ROOT),
            },
            cwd=tmp_path, check=False, capture_output=True, text=True,
            timeout=size(SECONDS, 60 * SECONDS),
        )  # fmt: skip
        assert run.returncode == 0, run.stdout + run.stderr
        # All of it came to something.
        paths = json.loads(hub.get("/-/openapi.json").body)["paths"]
        # In each phase; POST and GET of a channel are two, and the description itself is none.
        assert run.stdout.count(f" {len(paths)} passed") == 2
        assert metric(hub, "esource_published_events_total") > 50
        assert metric(hub, "esource_delivered_events_total") > 100
        for status in (400, 405, 412, 415):
            assert metric(hub, "esource_refused_requests_total", status=str(status)) > 0
        assert metric(hub, "esource_refused_requests_total", status="500") == 0
        assert "Traceback" not in hub.log
