"""`deploy/debian`: the package, through its life: installed, upgraded, removed, purged.

On a machine under a real systemd, with Debian's own `dpkg`. By default the package is built without
what the hub needs, which the tests' environment lends; `TESTS_FULL=1` builds all of it.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.machine import Machine, SystemdHub, booted
from tests.harness import ROOT, Stream, needs
from tests.harness.load import load_on
from tests.harness.machine import FULL, command, do_without

PYTHON = Path("/usr/bin/python3")
BUILD_SECONDS = 600
LENT = "" if FULL else "PYTHONPATH=/opt/esource/packages"
EVENTS = "/var/lib/esource/events"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built of the source as it is here."""
    needs("dpkg-deb")
    if not PYTHON.exists():
        do_without(f"missing: {PYTHON}")
    minor = command(PYTHON, "-c", "import sys; print(*sys.version_info[:2])").split()
    if not FULL and minor != [str(number) for number in sys.version_info[:2]]:
        pytest.skip(f"the tests' packages are for another Python than {PYTHON}")
    done = subprocess.run(
        [ROOT / "deploy/debian/build", tmp_path_factory.mktemp("deb")],
        env={**os.environ, **({} if FULL else {"PIP_NO_DEPS": "1"})},
        capture_output=True, text=True, check=False, timeout=BUILD_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def next_version(package: Path) -> Path:
    """Return a package as the next version will be."""
    folder = package.parent / "next"
    command("dpkg-deb", "-R", package, folder)
    [init] = folder.glob("usr/lib/esource/lib/python3*/site-packages/esource/__init__.py")
    for path, before, after in (
        (init, '__version__ = "', '__version__ = "9.'),
        (folder / "DEBIAN/control", "Version: ", "Version: 9."),
    ):
        text = path.read_text()
        assert text.count(before) == 1
        path.write_text(text.replace(before, after))
    command("dpkg-deb", "--root-owner-group", "--build", folder, package.with_name("next.deb"))
    return package.with_name("next.deb")


@pytest.fixture
def machine(tmp_path: Path, package: Path) -> Iterator[Machine]:
    """A machine that has the packages, and lends what the short way lacks."""
    with booted(tmp_path) as machine:
        for name, path in (("esource.deb", package), ("next.deb", next_version(package))):
            (tmp_path / "checkout" / name).write_bytes(path.read_bytes())
        # Of containers: no service is started. And an index of all man pages is not the test's.
        machine.run("rm -f /usr/sbin/policy-rc.d /var/lib/man-db/auto-update")
        if not FULL:
            lent = f"[Service]\\nEnvironment={LENT}"
            machine.run(
                "mkdir /etc/systemd/system/esource.service.d &&"
                f" printf '{lent}' > /etc/systemd/system/esource.service.d/lent.conf"
            )
        yield machine


def dpkg(machine: Machine, *words: str) -> str:
    options = "--force-unsafe-io"  # of this machine nothing is kept
    line = f"DEBIAN_FRONTEND=noninteractive dpkg {options} {' '.join(words)} </dev/null"
    return machine.run(line)


def test_a_package_lives_and_its_events_outlive_it(machine: Machine, tmp_path: Path) -> None:
    hub = SystemdHub(machine, tmp_path)
    # 9000 may be somebody else's: as docs/operations.md changes the address.
    machine.run(
        "mkdir -p /etc/systemd/system/esource.socket.d && printf '[Socket]\\nListenStream=\\n"
        f"ListenStream=127.0.0.1:{hub.port}\\n' > /etc/systemd/system/esource.socket.d/address.conf"
    )
    # Installed: it serves, as a user of its own, now and after the next start of the machine.
    dpkg(machine, "--install", "/checkout/esource.deb")
    first = hub.publish("/orders", "one coffee")
    assert hub.rows("orders") == [f"{first}\t\tone coffee".encode()]
    assert machine.run(f"stat -c %U:%G:%a {EVENTS}/orders.tsv") == "esource:esource:640\n"
    for unit in ("esource.socket", "esource.service"):
        assert machine.run(f"systemctl is-enabled {unit}") == "enabled\n"
    assert hub.property("FragmentPath") == "/usr/lib/systemd/system/esource.service" or (
        hub.property("FragmentPath") == "/lib/systemd/system/esource.service"
    )
    installed = machine.run(f"{LENT} esource version")
    units = "esource.service esource.socket esource-follow@.service esource-trim@.timer"
    for unit in units.split():
        verified = machine.run(f"systemd-analyze verify /usr/lib/systemd/system/{unit} 2>&1")
        assert verified == "", unit
    assert machine.run("man -w esource") == "/usr/share/man/man1/esource.1.gz\n"
    assert "_esource" in machine.run(
        "bash -c '. /usr/share/bash-completion/completions/esource; complete -p esource'"
    )
    assert machine.run("find /usr/lib/esource -name '*.pyc' | head -n 1")

    # Upgraded under load: nobody is refused, a follower goes on, what was set stays set.
    setting = "ESOURCE_MAX_EVENT_BYTES"
    machine.run(f"sed -i 's/^# {setting}=.*/{setting}=300/' /etc/esource/esource.env")
    with load_on(hub, "upgrade") as load:
        load.goes_on()
        before = hub.property("MainPID")
        dpkg(machine, "--install", "/checkout/next.deb")
        assert hub.property("MainPID") not in (before, "0")
        load.goes_on()
    assert load.nobody == 0
    load.check(hub.rows("upgrade"))
    version = installed.split()[1]
    assert machine.run(f"{LENT} esource version") == f"esource 9.{version}\n"
    assert hub.get("/-/metrics").text.count(f'version="9.{version}"') == 1
    assert hub.post("/orders", "x" * 400).status == 413

    # What an admin has stopped, an upgrade does not start; the way back is an installation, too.
    machine.run("systemctl stop esource.socket esource.service")
    dpkg(machine, "--install", "/checkout/esource.deb")
    assert "inactive" in machine.run("systemctl is-active esource.socket", check=False)
    assert machine.run(f"{LENT} esource version") == installed
    machine.run("systemctl start esource.socket esource.service")

    # Removed: the program goes, with all that it has made of itself. Settings and events stay.
    said = dpkg(machine, "--remove", "esource")
    assert "not empty" not in said.replace("/etc/esource", "")
    assert machine.run("ls -d /usr/lib/esource /usr/bin/esource", check=False).count("cannot") == 2
    with pytest.raises(ConnectionRefusedError):
        hub.connect()
    assert machine.run(f"cut -f 3 {EVENTS}/orders.tsv") == "one coffee\n"
    assert f"{setting}=300" in machine.run("cat /etc/esource/esource.env")

    # Installed again: a follower that was away resumes after what it has.
    dpkg(machine, "--install", "/checkout/esource.deb")
    second = hub.publish("/orders", "two teas")
    with Stream(hub, "/orders", Last_Event_ID=first) as stream:
        assert [event.id for event in stream.read(1)] == [second.encode()]

    # Purged: the settings go, the events stay; where there are none, nothing is left.
    said = dpkg(machine, "--purge", "esource")
    assert "/var/lib/esource is kept" in said
    assert machine.run("ls /etc/esource/esource.env", check=False).count("cannot access") == 1
    assert machine.run(f"cut -f 3 {EVENTS}/orders.tsv") == "one coffee\ntwo teas\n"
    machine.run(f"rm {EVENTS}/*.tsv")
    dpkg(machine, "--install", "/checkout/esource.deb")
    assert hub.get("/orders").status == 200
    assert "is kept" not in dpkg(machine, "--purge", "esource")
    assert machine.run("ls /var/lib/esource", check=False).count("cannot access") == 1
    wants = machine.run("find /etc/systemd/system -name 'esource.s*' -type l")
    assert wants == ""


def test_lintian_finds_nothing_wrong(package: Path) -> None:
    [lintian] = needs("lintian")
    done = subprocess.run(
        [lintian, "--allow-root", "--fail-on=error,warning", package],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
