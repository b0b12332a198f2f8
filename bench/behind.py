"""Workload: publishing through the shipped nginx site."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.cpu import Busy
from bench.figures import Case, Cases, Sample
from bench.publishers import wrk
from bench.publishing import timed
from bench.scale import Bench, fresh
from bench.servers import GEVENT, HUB, Kind, Server, lacks, nginx, program, started
from tests.harness import free_port
from tests.harness.site import HOST, SITE, ours

SIZE = 128


def behind(bench: Bench) -> Cases:
    """Publish events of 128 bytes over 100 connections through `deploy/nginx/esource.conf`: `wrk`.

    nginx has one worker. The site's lines marked `# yours` are filled in, and its limits of
    requests are out of reach. `https, rights`: TLS, and for each request the service of rights is
    asked, which is nginx itself and says yes. `http`: without both. `hub` is the same hub, asked
    directly, over http. `server` is nginx and what is behind it, together.
    """
    scale = bench.scale
    connections = scale.behind

    def send(server: Server) -> Sample:
        path = fresh("behind")
        return timed(server, partial(wrk, server, path, connections, scale.seconds, SIZE))

    def through(front: Server, server: Server) -> Sample:
        with Busy(server.process.pid) as busy:
            sample = send(front)
        return replace(sample, server=sample.server + busy.server)

    with started(bench.home, HUB, GEVENT) as servers:
        for server in servers:
            wrk(server, fresh("warm"), 10, scale.warm_up_seconds, SIZE)
        for name, shipped in (("https, rights", True), ("http", False)):
            sites = (site_kind(server, shipped) for server in servers)
            with started(bench.home, *sites) as fronts:
                takes = {
                    front.name: partial(through, front, server)
                    for front, server in zip(fronts, servers, strict=False)
                }
                direct = {HUB.name: partial(send, servers[0])}
                yield Case(name, connections, {**takes, **direct})


def site_kind(server: Server, shipped: bool) -> Kind:
    """Return nginx with the site before a server: as it is shipped, or without TLS and rights."""

    def missing() -> str:
        return lacks("nginx", "nginx") or lacks("openssl", "openssl")

    name = f"{server.name.removeprefix('bare ')} behind nginx"
    return Kind(name, partial(site, name=name, server=server, shipped=shipped), missing=missing)


@contextmanager
def site(home: Path, name: str, server: Server, shipped: bool) -> Iterator[Server]:
    """Start nginx with the site before a server."""
    subprocess.run(
        [str(program("openssl")), "req", "-x509", "-newkey", "ec",
         "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={HOST}",
         "-keyout", str(home / "hub.key"), "-out", str(home / "hub.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    port, rights, plain = free_port(), free_port(), free_port()
    text = ours(SITE, server.port, rights, port, plain, home)
    text = re.sub(r"rate=\d+r/s", "rate=1000000r/s", text)
    if not shipped:
        text = text.replace(" ssl http2;", ";").replace("auth_request /-/auth;", "")
    text += f"server {{ listen 127.0.0.1:{rights}; return 204; }}"
    with nginx(name, home, 1, text, port=port) as front:
        yield replace(front, scheme="https" if shipped else "http")
