"""Workload: publishing through the shipped nginx sites."""

from base64 import b64encode
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
from bench.servers import GEVENT, HUB, Kind, Server, lacks, nginx, started
from tests.harness import free_port
from tests.harness.site import SITES, lay_out

SIZE = 128
WRITER = f"Basic {b64encode(b'wanda:w').decode()}"  # a name with its password, or a token
OUT_OF_REACH = {f"rate={n}r/s": "rate=1000000r/s" for n in (50, 100)}
PLAIN = {" ssl http2;": ";", "auth_request /-/auth;": ""}


def behind(bench: Bench) -> Cases:
    """Publish events of 128 bytes through the sites of `deploy/nginx`: `wrk`.

    nginx has one worker. The sites' lines marked `# yours` are filled in, and their limits of
    requests are out of reach. `http`: without TLS and rights, over so many connections. `https`:
    each of the sites as it is shipped, over as many connections as there are at most; the service
    of rights is nginx itself and says yes. `hub` is the same hub, asked directly, over http.
    `server` is nginx and what is behind it, together.
    """
    scale = bench.scale

    def send(connections: int, server: Server) -> Sample:
        path = fresh("behind")
        fields = (f"Authorization: {WRITER}",) if server.scheme == "https" else ()
        return timed(
            server, partial(wrk, server, path, connections, scale.seconds, SIZE, headers=fields)
        )

    def through(connections: int, front: Server, server: Server) -> Sample:
        with Busy(server.process.pid) as busy:
            sample = send(connections, front)
        return replace(sample, server=sample.server + busy.server)

    with started(bench.home, HUB, GEVENT) as servers:
        for server in servers:
            wrk(server, fresh("warm"), 10, scale.warm_up_seconds, SIZE)
        for site in ("", *SITES):
            sites = (site_kind(server, site) for server in servers)
            with started(bench.home, *sites) as fronts:
                for connections in scale.behind[-1:] if site else scale.behind:
                    takes = {
                        front.name: partial(through, connections, front, server)
                        for front, server in zip(fronts, servers, strict=False)
                    }
                    direct = {HUB.name: partial(send, connections, servers[0])}
                    several = f"{connections} connection{'s' if connections > 1 else ''}"
                    name = f"https, {site}" if site else f"http, {several}"
                    yield Case(name, connections, {**takes, **direct})


def site_kind(server: Server, site: str) -> Kind:
    """Return nginx with a site before a server; with none, without TLS and rights."""

    def missing() -> str:
        return lacks("nginx", "nginx") or lacks("openssl", "openssl")

    name = f"{server.name.removeprefix('bare ')} behind nginx"
    return Kind(name, partial(in_front, name=name, server=server, site=site), missing=missing)


@contextmanager
def in_front(home: Path, name: str, server: Server, site: str) -> Iterator[Server]:
    """Start nginx with a site before a server."""
    port, rights, plain = free_port(), free_port(), free_port()
    changes = OUT_OF_REACH if site else {**OUT_OF_REACH, **PLAIN}
    text = lay_out(home, site or "auth_request", server.port, (port, plain), rights, changes)
    text += f"server {{ listen 127.0.0.1:{rights}; return 204; }}"
    with nginx(name, home, 1, text, port=port) as front:
        yield replace(front, scheme="https" if site else "http")
