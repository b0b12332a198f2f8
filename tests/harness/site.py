"""The sites of `deploy/nginx`: exactly these files in a real nginx, in front of a hub.

Only the lines that are marked `# yours` differ: addresses, the certificate, logs, the
archive's folder.

The sites know the same people: by a file of passwords, by tokens, or by a service of rights.
"""

import re
import shutil
import socket
import ssl
import subprocess
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.harness.hub import Answer, Hub, answer_on, running_hub
from tests.harness.machine import ROOT, command, free_port, needs
from tests.harness.nginx import Nginx, running_nginx
from tests.harness.waiting import PATIENCE_SECONDS

SITES = ("basic", "tokens", "auth_request")
FOLDER = "esource"  # of the sites, beside nginx.conf
HOST = "hub.example.org"
STRANGER = "127.0.0.2"  # this machine, too, but nginx is told that it is not
RIGHTS = {"rita:r": {"read"}, "wanda:w": {"read", "write"}}
TOKEN = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"  # may read
SECRET = ("/secrets", "/archive/secrets.tsv")  # nobody may


class Rights(BaseHTTPRequestHandler):
    """The service: rita may read, wanda may write as well, nobody knows others."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        known = {f"Basic {b64encode(name.encode()).decode()}": name for name in RIGHTS}
        if self.headers["X-Path"] == "/service-is-down":
            self.close_connection = True
            return
        name = known.get(self.headers["Authorization"] or "")
        may = name is not None and self.headers["X-Esource-Right"] in RIGHTS[name]
        may = may and self.headers["X-Path"] not in SECRET
        self.send_response(204 if may else 403 if name else 401)
        if name is None:
            self.send_header("WWW-Authenticate", 'Basic realm="hub"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class Service(ThreadingHTTPServer):
    """Serves it."""

    daemon_threads = True
    request_queue_size = 512


class Site:
    """The site, and its ways in."""

    def __init__(
        self, name: str, hub: Hub, nginx: Nginx, ports: tuple[int, int], home: Path
    ) -> None:
        self.name = name
        self.hub = hub
        self.nginx = nginx
        self.port, self.plain_port = ports
        self.home = home
        self.archive = home / "archive"
        self.certificate = home / "hub.pem"

    def curl(
        self, path: str, *options: str, user: str = "", body: bytes = b""
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run curl to its end."""
        return subprocess.run(
            self.command(path, *options, user=user), input=body, capture_output=True, check=False
        )

    def command(self, path: str, *options: str, user: str = "") -> list[str]:
        """Return the command line of a curl."""
        who = ["-u", user] if user else []
        return [
            "curl", "-sS", "--max-time", str(2 * PATIENCE_SECONDS), "--path-as-is",
            "--cacert", str(self.certificate), "--resolve", f"{HOST}:{self.port}:127.0.0.1",
            *who, *options, f"https://{HOST}:{self.port}{path}",
        ]  # fmt: skip

    def status(self, path: str, *options: str, user: str = "", body: bytes = b"") -> int:
        """Return the status of an answer."""
        silent = ("-o", "/dev/null", "-w", "%{http_code}")
        return int(self.curl(path, *silent, *options, user=user, body=body).stdout)

    @property
    def accesses(self) -> str:
        """What is in its log of accesses."""
        return (self.home / "access.log").read_text()

    def connect(self, source: str = "127.0.0.1") -> ssl.SSLSocket:
        """Open a connection with TLS, from an address of this machine."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        plain = socket.create_connection(
            ("127.0.0.1", self.port), PATIENCE_SECONDS, source_address=(source, 0)
        )
        return context.wrap_socket(plain, server_hostname=HOST)

    def answer_of(self, method: str, path: str, user: str, body: bytes | None = None) -> Answer:
        """Send one request, without curl."""
        basic = f"Basic {b64encode(user.encode()).decode()}"
        return answer_on(self.connect(), method, path, body, Host=HOST, Authorization=basic)


def lay_out(
    home: Path,
    site: str,
    hub_port: int,
    ports: tuple[int, int],
    auth_port: int = 0,
    changes: Mapping[str, str] | None = None,
) -> str:
    """Lay out the sites in a folder at home; return the line of nginx.conf that includes one.

    The lines marked `# yours` are made ours, and nothing else is changed, but for what `changes`
    says. The certificate, and the files of those who may, are made. `ports`: with TLS, without.
    """
    port, plain_port = ports
    values = {
        "server 127.0.0.1:9000;": f"server 127.0.0.1:{hub_port};",
        "server 127.0.0.1:9001;": f"server 127.0.0.1:{auth_port};",
        "listen 80;": f"listen 127.0.0.1:{plain_port};",
        "listen [::]:80;": "",
        "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2; "
        f"listen {STRANGER}:{port} ssl http2;",
        "listen [::]:443 ssl http2;": "",
        f"server_name {HOST};": f"server_name {HOST};",
        f"ssl_certificate /etc/ssl/certs/{HOST}.pem;": f"ssl_certificate {home}/hub.pem;",
        f"ssl_certificate_key /etc/ssl/private/{HOST}.key;": f"ssl_certificate_key {home}/hub.key;",
        "access_log /var/log/nginx/access.log esource;": f"access_log {home}/access.log esource;",
        "error_log /var/log/nginx/error.log crit;": f"error_log {home}/error.log crit;",
        "alias /var/lib/esource/archive/;": f"alias {home}/archive/;",
        "wanda 1;": "wanda 1;",
    }

    def line(match: re.Match[str]) -> str:
        return match[1] + values[match[2]]

    folder = home / FOLDER
    shutil.copytree(ROOT / "deploy" / "nginx", folder)
    for path in folder.rglob("*.conf"):
        text = re.sub(r"^( *)(\S.*;)  # yours.*$", line, path.read_text(), flags=re.MULTILINE)
        for theirs, own in (changes or {}).items():
            text = text.replace(theirs, own)
        path.write_text(text)
    [openssl] = needs("openssl")
    command(
        openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-days", "2", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST},IP:127.0.0.1",
        "-keyout", home / "hub.key", "-out", home / "hub.pem",
    )  # fmt: skip
    with open(folder / "htpasswd", "w") as passwords, open(folder / "tokens", "w") as tokens:
        for person, rights in RIGHTS.items():
            name, _, password = person.partition(":")
            passwords.write(f"{name}:{command(openssl, 'passwd', '-apr1', password)}")
            tokens.write(f"{name} {'write' if 'write' in rights else 'read'};  # a short token\n")
        tokens.write(f"{TOKEN} read;\n")
    return f"include {FOLDER}/{site}.conf;"


@contextmanager
def running_site(
    home: Path,
    site: str = "auth_request",
    changes: Mapping[str, str] | None = None,
    **settings: str,
) -> Iterator[Site]:
    """A site, with these changes, in front of a hub with these settings."""
    own = home / "nginx"  # a folder `esource` where a hub is started would be taken for its package
    (own / "archive").mkdir(parents=True)
    rights = Service(("127.0.0.1", 0), Rights)
    threading.Thread(target=rights.serve_forever, daemon=True).start()
    ports = free_port(), free_port()
    with running_hub(home, **settings) as hub:
        text = lay_out(own, site, hub.port, ports, rights.server_address[1], changes)
        with running_nginx(own, text, ports[0]) as nginx:
            yield Site(site, hub, nginx, ports, own)
    rights.shutdown()
    rights.server_close()
