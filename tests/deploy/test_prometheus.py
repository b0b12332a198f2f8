"""What Prometheus and Grafana are given: files that promtool accepts, of metrics that exist."""

import http.client
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.harness import PATIENCE_SECONDS, ROOT, Hub, eventually, free_port, needs, running_hub

PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "esource.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def promtool(*arguments: str) -> None:
    [program] = needs("promtool")
    run = subprocess.run(
        [program, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False
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


# -- a real Prometheus ---------------------------------------------------------------------


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Callable[[str], list[Any]]]:
    """Ask a Prometheus that scrapes a busy hub every second, as `deploy/prometheus` says."""
    [prometheus] = needs("prometheus")
    port = free_port()

    def ask(query: str) -> list[Any]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        try:
            connection.request("GET", f"/api/v1/query?{urlencode({'query': query})}")
            answer = connection.getresponse()
            if answer.status == 503:  # not ready yet
                return []
            content = json.load(answer)
        except ConnectionRefusedError:  # not there yet
            return []
        finally:
            connection.close()
        assert content["status"] == "success", content
        result: list[Any] = content["data"]["result"]
        return result

    with running_hub(tmp_path, ESOURCE_METRICS_CHANNELS="1") as hub:
        hub.publish("/orders", "x")
        text = (PROMETHEUS / "prometheus.yml").read_text()
        text = text.replace("localhost:9000", hub.url.removeprefix("http://"))
        text = text.replace("alerts.yml", str(PROMETHEUS / "alerts.yml"))
        config = tmp_path / "prometheus.yml"
        config.write_text(f"global: {{scrape_interval: 1s}}\n{text}")
        with open(tmp_path / "prometheus.log", "wb") as log:
            process = subprocess.Popen(
                [
                    prometheus, f"--config.file={config}",
                    f"--web.listen-address=127.0.0.1:{port}",
                    f"--storage.tsdb.path={tmp_path / 'data'}",
                ],
                stderr=log,
            )  # fmt: skip
        try:
            yield ask
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)


def test_a_real_prometheus_has_something_for_each_panel(
    ask: Callable[[str], list[Any]],
) -> None:
    eventually(lambda: ask('up{job="esource"} == 1'))
    for expression in EXPRESSIONS:
        query = expression.replace("$__rate_interval", "1m").replace("$job", "esource")
        query = query.replace("$instance", ".*")
        eventually(lambda query=query: ask(query))  # type: ignore[misc]
    assert [sample["value"][1] for sample in ask("esource_published_events_total")] == ["1"]
    assert ask("ALERTS") == []
