"""`esource config`, `esource systemd`: what is in force, and what starts a hub."""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from esource.config import Config, variable
from tests.harness import ROOT, Hub, running_hub
from tests.harness.client import run


def table(text: str) -> dict[str, tuple[str, str]]:
    """Return value and source by name."""
    document = json.loads(text)
    return {each["name"]: (each["value"], each["from"]) for each in document["settings"]}


def test_each_setting_is_printed_with_its_value_and_its_source(tmp_path: Path) -> None:
    done = run("config", ESOURCE_DIR=str(tmp_path), ESOURCE_FSYNC="never", ESOURCE_UI="")
    lines = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert list(lines) == [variable(setting.name) for setting in fields(Config)]
    assert lines["ESOURCE_DIR"] == [str(tmp_path), "environment"]
    assert lines["ESOURCE_FSYNC"] == ["never", "environment"]
    assert lines["ESOURCE_UI"] == ["1", "default"]
    assert lines["ESOURCE_IGNORE_PARAMETERS"] == ["_", "access_token", "datastar", "default"]


def test_what_is_printed_of_defaults_sets_the_defaults() -> None:
    found = table(run("config", "--json", ESOURCE_DIR="").stdout)
    values = {name: value for name, (value, _) in found.items() if name != "ESOURCE_DIR"}
    assert Config.from_env(values) == Config()


def test_an_environment_file_wins_as_it_does_in_a_unit(tmp_path: Path) -> None:
    file = tmp_path / "esource.env"
    file.write_text('# ESOURCE_UI=0\nESOURCE_FSYNC="interval"\nESOURCE_LOG_FORMAT=json\n')
    found = table(run("config", "--json", "--env-file", file, ESOURCE_FSYNC="never").stdout)
    assert found["ESOURCE_FSYNC"] == ("interval", str(file))
    assert found["ESOURCE_LOG_FORMAT"] == ("json", str(file))
    assert found["ESOURCE_UI"] == ("1", "default")


def test_a_running_hub_has_what_it_was_started_with(tmp_path: Path) -> None:
    with running_hub(tmp_path, ESOURCE_HEARTBEAT_SECONDS="7") as hub:
        assert hub.process
        found = table(run("config", "--json", "--pid", hub.process.pid).stdout)
        source = f"environment of process {hub.process.pid}"
        assert found["ESOURCE_HEARTBEAT_SECONDS"] == ("7", source)
        assert found["ESOURCE_DIR"] == (str(hub.folder), source)
    done = run("config", "--pid", 1 << 22)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_no_password_is_shown() -> None:
    url = "postgresql://user:secret@db.example/esource"
    for options in ((), ("--json",)):
        done = run("config", *options, ESOURCE_STORE=url, ESOURCE_DIR="")
        assert "ESOURCE_STORE" in done.stdout
        assert "secret" not in done.stdout + done.stderr
        assert "db.example" not in done.stdout + done.stderr


def test_a_bad_value_is_named_and_a_strange_name_too() -> None:
    done = run("config", ESOURCE_FSYNC="sometimes")
    assert done.returncode == 1
    assert "ESOURCE_FSYNC is 'sometimes'" in done.stderr
    done = run("config", ESOURCE_FSNC="always")
    assert (done.returncode, "ESOURCE_FSNC is not a setting" in done.stderr) == (0, True)


@pytest.mark.parametrize("name", sorted(os.listdir(ROOT / "deploy" / "systemd")))
def test_each_file_for_systemd_is_printed_for_this_installation(name: str) -> None:
    done = run("systemd", name)
    command = str(Path(sys.prefix, "bin", "esource"))
    text = (ROOT / "deploy" / "systemd" / name).read_text()
    assert done.stdout == text.replace("/opt/esource/bin/esource", command)


def test_without_a_name_it_is_the_service_and_another_is_refused(hub: Hub) -> None:
    assert run("systemd").stdout == run("systemd", "esource.service").stdout
    done = run("systemd", "../nginx/basic.conf")
    assert (done.returncode, done.stdout) == (1, "")
    assert "esource.socket" in done.stderr


def test_neither_loads_gevent() -> None:
    script = (
        "import sys; from esource.__main__ import COMMANDS; "
        "COMMANDS['systemd'].main([]); assert 'gevent' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
