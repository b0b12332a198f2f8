"""What Prometheus and Grafana are given: files that promtool accepts, of metrics that exist."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.harness import ROOT, Hub, running_hub

PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "esource.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def promtool(*arguments: str) -> None:
    run = subprocess.run(
        ["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_alerts_are_rules() -> None:
    promtool("check", "rules", "alerts.yml")


def test_each_fault_has_an_alert_and_a_sound_hub_has_none() -> None:
    promtool("test", "rules", "alerts_test.yml")


def test_the_configuration_is_one() -> None:
    promtool("check", "config", "prometheus.yml")


def test_the_expressions_of_the_dashboard_can_be_asked(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{n}", "expr": expression.replace("$__rate_interval", "5m")}
        for n, expression in enumerate(EXPRESSIONS)
    ]
    path = tmp_path / "rules.json"  # which is YAML, too
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(path))


def test_no_panel_stands_on_another() -> None:
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & places, panel["title"]
        assert at["x"] + at["w"] <= 24
        places |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Return the names of all series of a hub that has done a little of everything."""
    home = tmp_path_factory.mktemp("hub")
    with running_hub(home, ESOURCE_METRICS_CHANNELS="1") as hub:
        return series(hub)


def series(hub: Hub) -> set[str]:
    hub.publish("/orders", "x")
    text = hub.get("/-/metrics").text
    return {
        sample.name for family in text_string_to_metric_families(text) for sample in family.samples
    }


def test_every_metric_of_the_dashboard_and_the_alerts_exists(names: set[str]) -> None:
    queries = [variable["query"] for variable in DASHBOARD["templating"]["list"]]
    texts = [
        *EXPRESSIONS, json.dumps(queries),
        (PROMETHEUS / "alerts.yml").read_text(), (PROMETHEUS / "alerts_test.yml").read_text(),
    ]  # fmt: skip
    asked = {name for text in texts for name in re.findall(r"\b(?:esource|process)_\w+", text)}
    assert len(asked) > 20
    assert asked - names == set()


def test_the_names_of_the_job_agree() -> None:
    [job] = re.findall(r"job_name: (\w+)", (PROMETHEUS / "prometheus.yml").read_text())
    alerts = (PROMETHEUS / "alerts.yml").read_text()
    assert set(re.findall(r'job="(\w+)"', alerts)) == {job}
