"""A machine's `/etc` and network for one test: what is written there is its own.

Namespaces keep apart mounts and network, and nothing else: `/etc` is kept in memory, `/run` and
nginx's logs are empty, all ports are free. Nothing is left of it at the end. It wants root, and a
kernel that lets root mount; where that is not so (in most containers), the test is skipped.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness.machine import ROOT, command, needs
from tests.harness.network import inside
from tests.harness.walk import Checkout

PORT = 9000
LAY_OUT = """\
set -eu
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" /etc
rm -f /etc/nginx/modules-enabled/*  # they talk
mount -t tmpfs none /run
mount -t tmpfs none /var/log/nginx
echo ready
exec sleep infinity
"""
# `reload` is over when no worker of before takes connections: a person is slower than that.
SYSTEMCTL = """\
#!/bin/sh -eu
[ "$*" = "reload nginx" ]
master=$(cat /run/nginx.pid)
old=$(cat "/proc/$master/task/$master/children")
nginx -s reload 2>/dev/null
for worker in $old; do
    while grep -qa "nginx: worker process" "/proc/$worker/cmdline" 2>/dev/null &&
        ! grep -qa "shutting down" "/proc/$worker/cmdline" 2>/dev/null; do
        sleep 0.02
    done
done
"""


class OwnEtc(Checkout):
    """A hub at port 9000 of that machine, where nginx runs as Debian has set it up."""

    def __init__(self, home: Path, network: str, pid: int, **settings: str) -> None:
        super().__init__(home, **settings)
        self.port = PORT
        self.url = f"http://127.0.0.1:{PORT}"
        self.environ["ESOURCE_BIND"] = f"127.0.0.1:{PORT}"
        self._network = network
        self.enter = ["nsenter", "-t", str(pid), "--mount", "--net", "env", "-C", str(home)]

    def command(self) -> list[str]:
        return [*self.enter, "env", "-C", str(ROOT), sys.executable, "-m", "gunicorn"]

    def connect(self) -> socket.socket:
        return inside(self._network, super().connect)


@contextmanager
def own_etc(home: Path, **settings: str) -> Iterator[OwnEtc]:
    """Such a machine, with nginx started and the hub not yet; skip where there can be none."""
    needs("nginx", "ip", "nsenter")
    if os.geteuid() != 0:
        pytest.skip("a machine of its own needs root")
    network = f"esource-{os.getpid()}-etc"
    (home / "layers").mkdir()
    (home / "deploy").symlink_to(ROOT / "deploy")
    (home / "bin").mkdir()
    (home / "bin" / "systemctl").write_text(SYSTEMCTL)
    (home / "bin" / "systemctl").chmod(0o755)
    try:
        command("ip", "netns", "add", network)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr}")
    try:
        command("ip", "-n", network, "link", "set", "lo", "up")
        words = ["ip", "netns", "exec", network, "bash", "-c", LAY_OUT, "-", str(home / "layers")]
        # Its mounts are those of a namespace that `ip netns exec` makes.
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as holder:
            try:
                assert holder.stdout
                assert holder.stderr
                if holder.stdout.readline() != b"ready\n":
                    pytest.skip(f"no rights to mount here: {holder.stderr.read().decode()}")
                machine = OwnEtc(home, network, holder.pid, **settings)
                command(*machine.enter, *needs("nginx"))
                try:
                    yield machine
                finally:
                    command(*machine.enter, *needs("nginx"), "-s", "stop")
            finally:
                holder.kill()
    finally:
        command("ip", "netns", "delete", network)
