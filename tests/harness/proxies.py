"""The proxies of `docs/proxies.md` in front of a hub: what stands there, but for the addresses."""

import getpass
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.hub import Hub
from tests.harness.machine import ROOT, free_port, needs
from tests.harness.nginx import running_nginx
from tests.harness.program import running
from tests.harness.waiting import PATIENCE_SECONDS

PAGE = (ROOT / "docs" / "proxies.md").read_text()
# What the machine's own apache2.conf is to a site.
APACHE_MODULES = [
    "mpm_event",
    "authz_core",
    "env",
    "proxy",
    "proxy_http",
    "reqtimeout",
    "filter",
    "deflate",
]


class Proxy:
    """A way to a hub, through a proxy at a port of loopback."""

    def __init__(self, hub: Hub, port: int, **headers: str) -> None:
        """`headers` are for each request."""
        self.hub, self.port, self.headers = hub, port, headers

    def connect(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_SECONDS)


def config(language: str, hub: Hub, port: int) -> str:
    """Return a configuration of the page, with our addresses."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    [text] = found
    for theirs, ours in {
        r"127\.0\.0\.1:9000": f"127.0.0.1:{hub.port}",
        r'"9000"': f'"{hub.port}"',
        r"(?<=listen )80|(?<=Listen )80|(?<=bind ):80": f"127.0.0.1:{port}",
        r"(?<=VirtualHost )\*:80": f"127.0.0.1:{port}",
        r"(?m:^):80": f":{port}",
    }.items():
        text = re.sub(theirs, ours, text)
    return text


@contextmanager
def nginx(home: Path, hub: Hub) -> Iterator[Proxy]:
    """The least nginx."""
    port = free_port()
    with running_nginx(home, config("nginx", hub, port), port):
        yield Proxy(hub, port)


@contextmanager
def haproxy(home: Path, hub: Hub, more: str = "") -> Iterator[Proxy]:
    """HAProxy, with more lines for its defaults."""
    [program] = needs("haproxy")
    port, path = free_port(), home / "haproxy.cfg"
    text = config("haproxy", hub, port).replace("defaults\n", f"defaults\n{more}")
    text = text.replace("/etc/haproxy/", f"{home}/")
    (home / "come-back.http").write_text(config("http", hub, port))
    path.write_text(text)
    with running(home, port, program, "-db", "-f", path):
        yield Proxy(hub, port)


@contextmanager
def apache(home: Path, hub: Hub, more: str = "") -> Iterator[Proxy]:
    """Apache, with more lines for its server."""
    [program] = needs("apache2")
    port, path = free_port(), home / "apache2.conf"
    user = f"User {getpass.getuser()}\n" if os.geteuid() != 0 else "User www-data\n"
    path.write_text(
        "".join(
            f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"
            for name in APACHE_MODULES
        )
        + f"ServerName hub\nServerRoot {home}\nPidFile {home}/pid\nErrorLog {home}/error.log\n"
        + f"DefaultRuntimeDir {home}\n{user}{more}{config('apache', hub, port)}"
    )
    with running(home, port, program, "-f", path, "-DFOREGROUND"):
        yield Proxy(hub, port)


@contextmanager
def caddy(home: Path, hub: Hub) -> Iterator[Proxy]:
    """Caddy, whose own files are at home."""
    [program] = needs("caddy")
    port, path = free_port(), home / "Caddyfile"
    options = "{\n    admin off\n    default_bind 127.0.0.1\n}\n"
    path.write_text(options + config("caddy", hub, port))
    with running(
        home, port, "env", f"HOME={home}", program, "run", "--adapter", "caddyfile",
        "--config", path,
    ):  # fmt: skip
        yield Proxy(hub, port)


@contextmanager
def varnish(home: Path, hub: Hub, with_page: bool = True) -> Iterator[Proxy]:
    """Varnish; without the page it does what it does by itself."""
    [program] = needs("varnishd")
    port, path = free_port(), home / "esource.vcl"
    path.write_text(config("vcl", hub, port))
    what = ["-f", path] if with_page else ["-b", f"127.0.0.1:{hub.port}"]
    folder = home / "n"
    with running(
        home, port, program, "-F", "-j", "none", "-n", folder, "-a", f"127.0.0.1:{port}",
        "-s", "malloc,16m", "-p", "thread_pools=1", "-p", "thread_pool_min=5", *what,
    ):  # fmt: skip
        yield Proxy(hub, port)
