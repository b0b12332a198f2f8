"""`deploy/systemd`: a hub that systemd starts, and each promise that it makes with it.

The hub of `machine` runs under a real systemd with exactly the files of `deploy/systemd`,
installed by the commands of `deploy/README.md`. What needs no systemd is tested without.
"""

import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from esource.config import Config, variable
from tests.deploy.machine import SystemdHub, booted
from tests.harness import (
    PATIENCE_SECONDS,
    ROOT,
    Hub,
    Stream,
    eventually,
    free_port,
    needs,
    running_hub,
)
from tests.harness.load import load_on
from tests.harness.valkey import shared_valkey

UNITS = ROOT / "deploy" / "systemd"
README = (ROOT / "deploy" / "README.md").read_text().partition("\n## systemd\n")[2]
INSTALL = re.findall(r"^```sh\n(.*?)```$", README, re.MULTILINE | re.DOTALL)[0].splitlines()


# -- under systemd -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def systemd_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemdHub]:
    """A hub that was installed as the README says, but for `pip`, and at a free port."""
    home = tmp_path_factory.mktemp("machine")
    with booted(home) as machine:
        hub = SystemdHub(machine, home)
        for command in INSTALL[1:]:
            if "systemctl" in command:  # 9000 may be somebody else's
                machine.run(f"sed -i s/:9000$/:{hub.port}/ /etc/esource/esource.socket")
            machine.run(command)
        yield hub


def test_four_commands_install_it_and_it_serves_as_a_user_of_its_own(
    systemd_hub: SystemdHub,
) -> None:
    """The first of the four is not run, as it would fetch packages and compile one: `_prepare` of
    `tests/deploy/machine.py` lays out what it leaves.
    """
    assert len(INSTALL) == 4
    assert "pip install ." in INSTALL[0]
    id = systemd_hub.publish("/orders", "one coffee")
    assert systemd_hub.rows("orders") == [f"{id}\t\tone coffee".encode()]
    listing = systemd_hub.machine.run("ls -ld /var/lib/esource /var/lib/esource/events/*.tsv")
    assert (
        re.findall(r"^\S+ \d+ (\w+) (\w+)", listing, re.MULTILINE) == [("esource", "esource")] * 2
    )
    assert re.findall(r"^\S+", listing, re.MULTILINE) == ["drwxr-x---", "-rw-r-----"]
    for unit in ("esource.socket", "esource.service"):
        assert systemd_hub.machine.run(f"systemctl is-enabled {unit}") == "enabled\n"
    assert systemd_hub.property("Type") == "notify"
    assert systemd_hub.property("StatusText") == "Gunicorn arbiter booted"


def test_systemd_finds_nothing_wrong_with_the_units(systemd_hub: SystemdHub) -> None:
    for unit in ("esource.service", "esource.socket"):
        assert systemd_hub.machine.run(f"systemd-analyze verify /etc/esource/{unit}") == ""


def test_a_timer_closes_and_trims_beside_the_hub(systemd_hub: SystemdHub) -> None:
    machine = systemd_hub.machine
    id = systemd_hub.publish("/nightly", "one coffee")
    for kind in ("service", "timer"):
        machine.run(f"cp /checkout/deploy/systemd/esource-trim@.{kind} /etc/systemd/system/")
    machine.run("systemctl daemon-reload && systemctl start esource-trim@nightly.service")
    assert systemd_hub.publish("/nightly", "two teas") > id
    names = machine.run("cd /var/lib/esource/events && ls nightly.[0-9]*.tsv").split()
    assert len(names) == 2
    assert machine.run("systemd-analyze verify /etc/systemd/system/esource-trim@.timer") == ""


def followed(hub: SystemdHub, name: str) -> list[str]:
    """Return what `esource-follow@NAME` has done with until now."""
    there = hub.machine.run(f"cat /var/lib/esource-follow/{name}/done", check=False)
    return there.splitlines() if "No such file" not in there else []


def follower(hub: SystemdHub, name: str, work: str) -> str:
    """Start `esource-follow@NAME`, as its file says; return the name of the unit."""
    machine = hub.machine
    # It may write nowhere else.
    line = f'{work}cat >> "$STATE_DIRECTORY/done"; echo >> "$STATE_DIRECTORY/done"'
    settings = f"URL={hub.url}/{name}\nEXEC={line}\nOPTIONS=--tries 3 --dead {name}-dead\n"
    machine.run("mkdir -p /etc/esource/follow")
    machine.run(f"cat > /etc/esource/follow/{name}.env <<'END'\n{settings}END")
    machine.run("cp /checkout/deploy/systemd/esource-follow@.service /etc/systemd/system/")
    machine.run("systemctl daemon-reload")
    unit = f"esource-follow@{name}.service"
    assert machine.run(f"systemd-analyze verify {unit}") == ""
    machine.run(f"systemctl start {unit}")
    return unit


def test_a_unit_follows_and_goes_on_after_restarts_of_the_hub_and_of_itself(
    systemd_hub: SystemdHub,
) -> None:
    machine = systemd_hub.machine
    systemd_hub.publish("/hooks", "1")  # a follower begins with the first event
    unit = follower(systemd_hub, "hooks", "")
    eventually(lambda: followed(systemd_hub, "hooks") == ["1"])
    machine.run("systemctl restart esource")
    systemd_hub.publish("/hooks", "2")
    eventually(lambda: followed(systemd_hub, "hooks") == ["1", "2"])
    machine.run(f"systemctl stop {unit}")
    systemd_hub.publish("/hooks", "3")
    machine.run(f"systemctl start {unit}")
    eventually(lambda: followed(systemd_hub, "hooks") == ["1", "2", "3"])
    owner = machine.run("stat -c %U:%a /var/lib/esource-follow/hooks/cursor")
    assert owner.startswith("esource:")
    # After what kills it systemd starts it again: in a minute, here in a second.
    soon = "mkdir -p /etc/systemd/system/{0}.d && printf '[Service]\\nRestartSec=1\\n' > {1}"
    machine.run(soon.format(unit, f"/etc/systemd/system/{unit}.d/soon.conf"))
    machine.run(f"systemctl daemon-reload; systemctl kill --signal=KILL {unit}")
    systemd_hub.publish("/hooks", "4")
    eventually(lambda: followed(systemd_hub, "hooks") == ["1", "2", "3", "4"])
    machine.run(f"systemctl stop {unit}")


def test_a_stop_of_a_unit_that_follows_ends_it_after_the_event_at_work(
    systemd_hub: SystemdHub,
) -> None:
    machine = systemd_hub.machine
    begun = "/var/lib/esource-follow/slow/begun"
    unit = follower(systemd_hub, "slow", 'touch "$STATE_DIRECTORY/begun"; sleep 1; ')
    for data in ("one", "two"):
        systemd_hub.publish("/slow", data)
    eventually(lambda: "No such" not in machine.run(f"ls {begun}", check=False))
    machine.run(f"systemctl stop {unit}")
    assert followed(systemd_hub, "slow") == ["one"]
    shown = machine.run(f"systemctl show --property=Result,ExecMainStatus {unit}")
    assert sorted(shown.split()) == ["ExecMainStatus=0", "Result=success"]
    machine.run(f"systemctl start {unit}")
    eventually(lambda: followed(systemd_hub, "slow") == ["one", "two"])
    machine.run(f"systemctl stop {unit}")


def test_under_load_a_restart_refuses_nobody_and_loses_nothing(systemd_hub: SystemdHub) -> None:
    with load_on(systemd_hub, "restart") as load:
        before = systemd_hub.property("MainPID")
        systemd_hub.machine.run("systemctl restart esource")
        assert systemd_hub.property("MainPID") != before
        load.goes_on()
    assert load.nobody == 0
    load.check(systemd_hub.rows("restart"))


def test_under_load_a_reload_refuses_nobody_and_loses_nothing(systemd_hub: SystemdHub) -> None:
    with load_on(systemd_hub, "reload") as load:
        master = systemd_hub.property("MainPID")
        systemd_hub.machine.run("systemctl reload esource")
        journal = "journalctl --unit=esource --output=cat"
        eventually(lambda: "Handling signal: hup" in systemd_hub.machine.run(journal))
        eventually(lambda: "Worker exiting" in systemd_hub.machine.run(journal))
        load.goes_on()
        assert systemd_hub.property("MainPID") == master
    assert load.nobody == 0
    load.check(systemd_hub.rows("reload"))


def test_after_a_kill_it_is_started_again_and_nobody_was_refused(systemd_hub: SystemdHub) -> None:
    """By `Restart=`, or else by the next connection."""
    with load_on(systemd_hub, "killed") as load:
        before = systemd_hub.property("MainPID")
        systemd_hub.machine.run("systemctl kill --signal=KILL esource")
        eventually(lambda: systemd_hub.property("MainPID") not in (before, "0"))
        load.goes_on()
    assert load.nobody == 0
    load.check(systemd_hub.rows("killed"))


def test_a_setting_is_changed_in_the_environment_file(systemd_hub: SystemdHub) -> None:
    machine = systemd_hub.machine
    assert systemd_hub.post("/size", "x" * 200).status == 201
    line = "# ESOURCE_MAX_EVENT_BYTES=1048576"
    machine.run(f"grep -x '{line}' /etc/esource/esource.env")
    machine.run(f"sed -i 's/^{line}$/ESOURCE_MAX_EVENT_BYTES=100/' /etc/esource/esource.env")
    machine.run("systemctl restart esource")
    assert systemd_hub.post("/size", "x" * 200).status == 413
    machine.run("sed -i 's/^ESOURCE_MAX/# &/' /etc/esource/esource.env")
    machine.run("systemctl restart esource")


def test_the_address_and_the_folder_are_changed_as_the_readme_says(
    systemd_hub: SystemdHub,
) -> None:
    machine = systemd_hub.machine
    old, systemd_hub.port = systemd_hub.port, free_port()
    machine.run(f"sed -i s/:{old}$/:{systemd_hub.port}/ /etc/esource/esource.socket")
    lines = re.findall(r"```ini\n(.*?)```", README, re.DOTALL)[0].replace("\n  ", "\n").strip()
    machine.run("mkdir -p /srv/events /etc/systemd/system/esource.service.d")
    machine.run("chown esource: /srv/events")
    machine.run(f"echo '{lines}' > /etc/systemd/system/esource.service.d/override.conf")
    for command in ("systemctl daemon-reload", "systemctl restart esource.socket esource"):
        assert f"`{command}`" in README
        machine.run(command)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", old))
    systemd_hub.publish("/elsewhere", "x")
    assert machine.run("cut -f 3 /srv/events/elsewhere.tsv") == "x\n"
    machine.run("rm -r /etc/systemd/system/esource.service.d && systemctl daemon-reload")
    machine.run("systemctl restart esource")


def test_several_hubs_on_a_machine_have_each_an_address_a_folder_and_settings(
    systemd_hub: SystemdHub,
) -> None:
    machine = systemd_hub.machine
    machine.run("cp /checkout/deploy/systemd/esource@.* /etc/systemd/system/")
    machine.run("systemctl daemon-reload")
    for name, size in (("one", 100), ("two", 200)):
        machine.run(f"echo ESOURCE_MAX_EVENT_BYTES={size} > /etc/esource/{name}.env")
        units = f"esource@{name}.socket esource@{name}.service"
        machine.run(f"systemctl enable --now {units} 2>&1")
        for unit in units.split():
            assert machine.run(f"systemd-analyze verify {unit} 2>&1") == ""
    status = "-s -o /dev/null -w '%{http_code} '"
    for name, wanted in (("one", "201 413 413"), ("two", "201 201 413")):
        curl = f"curl --unix-socket /run/esource/{name}.sock http://localhost/orders {status}"
        sizes = [machine.run(f"{curl} -d {'x' * size}") for size in (90, 190, 290)]
        assert "".join(sizes).split() == wanted.split()
    lines = machine.run("wc -l /var/lib/esource-hubs/*/events/orders.tsv").split()
    assert lines[::2] == ["1", "2", "3"]
    machine.run("systemctl disable --now esource@one.socket esource@one.service 2>&1")
    assert machine.run("systemctl is-active esource@two.service") == "active\n"
    machine.run("systemctl disable --now esource@two.socket esource@two.service 2>&1")


def test_several_hubs_serve_the_same_channels_from_one_engine(systemd_hub: SystemdHub) -> None:
    machine = systemd_hub.machine
    machine.run("cp /checkout/deploy/systemd/esource@.* /etc/systemd/system/")
    [drop_in] = re.findall(r"`(install [^`]*engine\.conf)`", README)
    machine.run(drop_in)
    machine.run("systemctl daemon-reload")
    store = shared_valkey().url
    for name in ("a", "b"):
        machine.run(f"echo ESOURCE_STORE={store} > /etc/esource/{name}.env")
        machine.run(f"systemctl enable --now esource@{name}.socket esource@{name}.service 2>&1")
    at = "curl -sS --fail-with-body --unix-socket /run/esource/{}.sock http://localhost/of-units"
    assert machine.run(at.format("a") + "?id=1 -d coffee") == "1\n"
    assert machine.run(at.format("b")) == "1\t\tcoffee\n"
    for name in ("a", "b"):
        machine.run(f"systemctl disable --now esource@{name}.socket esource@{name}.service 2>&1")
    machine.run("rm -r /etc/systemd/system/esource@.service.d")


def test_the_sandbox_holds(systemd_hub: SystemdHub) -> None:
    """What a hub that was taken over could do: read no one's home, call nobody, write nowhere."""
    pid = systemd_hub.property("MainPID")
    status = systemd_hub.machine.run(f"cat /proc/{pid}/status")
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    inside = f"nsenter -t {pid} --mount --net"
    assert systemd_hub.machine.run(f"{inside} ls /root /home", check=False).split() == [
        "/home:", "/root:",
    ]  # fmt: skip
    refused = systemd_hub.machine.run(f"{inside} touch /etc/x", check=False)
    assert "Read-only file system" in refused
    reach = f"{inside} curl -sS --max-time 2 http://127.0.0.1:{systemd_hub.port}/"
    assert "Couldn't connect" in systemd_hub.machine.run(reach, check=False)


# -- the files ---------------------------------------------------------------------------------


def test_systemd_scores_the_sandbox_at_2_or_better() -> None:
    [analyze] = needs("systemd-analyze")
    command = [analyze, "security", "--offline=true", "--threshold=20"]
    done = subprocess.run(
        [*command, str(UNITS / "esource.service")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    score = re.search(r"exposure level for esource.service: ([\d.]+)", done.stdout)
    assert score
    assert float(score[1]) <= 2.0


def test_a_hub_of_several_has_the_same_sandbox() -> None:
    """All that differs is what is its own."""
    one = (UNITS / "esource.service").read_text()
    own = [
        ("Description=EventSource hub", "Description=EventSource hub %i"),
        ("esource.socket", "esource@%i.socket"),
        ("/var/lib/esource", "/var/lib/esource-hubs/%i"),
        ("/etc/esource/esource.env", "/etc/esource/%i.env"),
        ("StateDirectory=esource\n", "StateDirectory=esource-hubs/%i\n"),
    ]
    for before, after in own:
        assert before in one
        one = one.replace(before, after)
    several = (UNITS / "esource@.service").read_text()
    assert one.partition("\n[Unit]\n")[2] == several.partition("\n[Unit]\n")[2]


def test_the_environment_file_has_every_setting_with_its_default() -> None:
    text = (UNITS / "esource.env").read_text()
    assert not [line for line in text.splitlines() if line and not line.startswith("# ")]
    settings = dict(re.findall(r"^# (ESOURCE_\w+)=(.*)$", text, re.MULTILINE))
    assert list(settings) == [variable(setting.name) for setting in fields(Config)]
    for setting in fields(Config):
        name = variable(setting.name)
        assert setting.metadata["cast"](settings[name]) == setting.default, name
        paragraph = next(part for part in text.split("\n\n") if f"# {name}=" in part)
        assert len(paragraph.splitlines()) > 1, f"{name} is not explained"


def test_the_descriptors_are_enough_for_the_default_limits() -> None:
    limit = re.search(r"^LimitNOFILE=(\d+)$", (UNITS / "esource.service").read_text(), re.MULTILINE)
    assert limit
    assert int(limit[1]) >= 2 * Config().max_subscribers


# -- without systemd ---------------------------------------------------------------------------


class Activated(Hub):
    """A hub that is handed its address, which the test keeps open as systemd does."""

    def __init__(self, home: Path, **settings: str) -> None:
        super().__init__(home, **settings)
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)

    def command(self) -> list[str]:
        script = f'exec 3<&{self.listener.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
        return ["bash", "-c", script, "-", *super().command()]

    def launch(self, *options: str, **popen: Any) -> "subprocess.Popen[bytes]":
        return super().launch(*options, pass_fds=[self.listener.fileno()], **popen)


@pytest.mark.parametrize("bind", ["", "another port", "a port in use", "unix"])
def test_a_hub_that_is_handed_a_socket_restarts_without_refusing_anybody(
    tmp_path: Path, bind: str
) -> None:
    other = free_port()
    in_use = socket.create_server(("127.0.0.1", 0))
    address = {
        "another port": f"127.0.0.1:{other}",
        "a port in use": f"127.0.0.1:{in_use.getsockname()[1]}",
        "unix": f"unix:{tmp_path}/hub.sock",
    }
    hub = Activated(tmp_path, ESOURCE_BIND=address.get(bind, ""))
    try:
        hub.start()
        with load_on(hub, "kept-open") as load:
            hub.restart()
            load.goes_on()
            assert hub.process
            hub.process.send_signal(signal.SIGHUP)
            eventually(lambda: hub.log.count("channels in") == 3)
            load.goes_on()
            assert f"Listening at: http://127.0.0.1:{hub.port}" in hub.log
            assert not (tmp_path / "hub.sock").exists()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", other))
        assert load.nobody == 0
        load.check(hub.rows("kept-open"))
        assert "Traceback" not in hub.log
    finally:
        if hub.process:
            hub.stop()
        hub.listener.close()
        in_use.close()


def test_a_socket_that_was_handed_to_somebody_else_is_not_taken(tmp_path: Path) -> None:
    variables = {"LISTEN_FDS": "1", "LISTEN_PID": "1"}
    with running_hub(tmp_path, **variables) as hub:
        second = Hub(tmp_path / "second", ESOURCE_BIND=f"127.0.0.1:{hub.port}", **variables)
        second.home.mkdir()
        assert second.launch().wait(PATIENCE_SECONDS) != 0
        second.process = None
        assert f"127.0.0.1:{hub.port} is in use; stop the process that uses it" in second.log


class Waiting(Hub):
    """A hub that systemd's own starter starts, at the first connection."""

    def command(self) -> list[str]:
        [starter] = needs("systemd-socket-activate")
        names = [name for name in self.environ if name.startswith("ESOURCE_")]
        settings = [f"--setenv={name}" for name in names]
        return [starter, f"--listen=127.0.0.1:{self.port}", *settings, *super().command()]


def test_systemds_own_starter_starts_it_at_the_first_connection(tmp_path: Path) -> None:
    hub = Waiting(tmp_path)
    hub.launch()
    try:
        eventually(lambda: "Listening on" in hub.log)
        assert not hub.folder.exists()
        hub.publish("/first", "this connection started the hub")
        assert len(hub.rows("first")) == 1
    finally:
        assert hub.stop() == 0


def test_systemd_is_told_of_the_start_and_of_the_end(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(PATIENCE_SECONDS)
        with running_hub(tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify")) as hub:
            assert "READY=1" in notified.recv(4096).decode().split("\n")
            with Stream(hub, "/ready"):
                assert hub.stop() == 0
            assert notified.recv(4096) == b"STOPPING=1"
