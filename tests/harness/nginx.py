"""A real nginx in front of what is tested."""

import getpass
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.hub import children
from tests.harness.machine import needs
from tests.harness.program import running
from tests.harness.waiting import eventually

# What the machine's own nginx.conf is to a site.
FRAME = """\
daemon off;
pid {home}/nginx.pid;
error_log {home}/error.log;
{user}
worker_processes 1;
worker_shutdown_timeout 1s;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    {site}
}}
"""


class Nginx:
    """A running nginx."""

    def __init__(self, process: "subprocess.Popen[bytes]", home: Path) -> None:
        self.process = process
        self.home = home

    @property
    def log(self) -> str:
        """What it has written to its error log."""
        return (self.home / "error.log").read_text()

    def workers(self) -> set[int]:
        """Return the process ids of its workers, those on their way out included."""
        return set(children(self.process.pid))

    def reload(self) -> None:
        """Reload (`systemctl reload nginx`); return when a new worker is there."""
        before = self.workers()
        self.process.send_signal(signal.SIGHUP)
        eventually(lambda: self.workers() - before)


@contextmanager
def running_nginx(home: Path, site: str, port: int) -> Iterator[Nginx]:
    """An nginx with a site that listens at a port of loopback, stopped at the end."""
    [nginx] = needs("nginx")
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    config = home / "nginx.conf"
    config.write_text(FRAME.format(home=home, user=user, site=site))
    command = [nginx, "-p", str(home), "-c", str(config), "-e", str(home / "error.log")]
    with running(home, port, *command) as process:
        yield Nginx(process, home)
