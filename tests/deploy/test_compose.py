"""`deploy/compose.yaml`, as far as it can be checked without Docker: what it says, and its nginx.

Where `docker compose` is installed, it reads the file as well; that asks no engine.
"""

import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from esource.config import Config, variable
from tests.harness import PATIENCE_SECONDS, QUIET, ROOT, Stream, free_port
from tests.harness.engine import engine_hubs
from tests.harness.hub import Hub
from tests.harness.nginx import running_nginx
from tests.harness.postgres import shared_postgres

COMPOSE = ROOT / "deploy" / "compose.yaml"


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """What it starts."""
    yaml = pytest.importorskip("yaml")
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def test_its_settings_are_settings(services: dict[str, dict[str, Any]]) -> None:
    known = {variable(setting.name) for setting in fields(Config)}
    hubs = [service for name, service in services.items() if name.startswith("hub-")]
    assert len(hubs) == 2
    for hub in hubs:
        assert set(hub["environment"]) <= known
        url = hub["environment"]["ESOURCE_STORE"].replace("${ESOURCE_PASSWORD:-esource}", "esource")
        assert Config.from_env({"ESOURCE_STORE": url}).store == url
        assert (COMPOSE.parent / hub["build"] / "Dockerfile").exists()
        postgres = services["postgres"]["environment"]
        assert url.endswith(f"//{postgres['POSTGRES_USER']}:esource@postgres/esource")


def test_what_it_names_is_there(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= set(services), name
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source == "events" or (COMPOSE.parent / source).is_file()


def test_the_image_has_what_an_engine_needs() -> None:
    """ESOURCE_STORE in a container, without an image of one's own."""
    assert "pip install --no-cache-dir '.[postgresql,redis]'" in (ROOT / "Dockerfile").read_text()


def test_docker_compose_reads_it() -> None:
    has = shutil.which("docker") and not subprocess.run(
        ["docker", "compose", "version"], capture_output=True, timeout=PATIENCE_SECONDS
    ).returncode  # fmt: skip
    if not has:
        pytest.skip("missing: docker compose")
    subprocess.run(
        ["docker", "compose", "-f", COMPOSE, "config", "--quiet"], check=True,
        timeout=PATIENCE_SECONDS,
    )  # fmt: skip


def test_its_nginx_makes_one_hub_of_two(tmp_path: Path) -> None:
    port = free_port()
    site = (ROOT / "deploy" / "nginx" / "compose.conf").read_text()
    with engine_hubs(tmp_path, shared_postgres().database(), 2, **QUIET) as hubs:
        for number, hub in enumerate(hubs, 1):
            assert site.count(f"hub-{number}:9000") == 1
            site = site.replace(f"hub-{number}:9000", f"127.0.0.1:{hub.port}")
        site = site.replace("listen 80;", f"listen 127.0.0.1:{port};")
        home = tmp_path / "nginx"
        home.mkdir()
        with running_nginx(home, site, port):
            both = Hub(tmp_path / "both")
            both.port = port
            with Stream(both, "/orders") as stream:
                ids = [both.publish("/orders", f"event {n}") for n in range(10)]
                assert [event.id for event in stream.read(10)] == [id.encode() for id in ids]
            assert len({hub.get("/orders").body for hub in hubs}) == 1
            hubs[0].stop()
            assert both.publish("/orders", "while one is away")
            hubs[0].start()
