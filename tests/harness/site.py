"""`deploy/nginx/esource.conf`: exactly this file in a real nginx, a hub, and a service of rights.

Only the lines that are marked `# yours` differ: addresses, the certificate, the archive's folder.
"""

import re
import socket
import ssl
import subprocess
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.harness.hub import Answer, Hub, answer_on, running_hub
from tests.harness.machine import ROOT, free_port, needs
from tests.harness.nginx import Nginx, running_nginx
from tests.harness.waiting import PATIENCE_SECONDS

SITE = (ROOT / "deploy" / "nginx" / "esource.conf").read_text()
HOST = "hub.example.org"
STRANGER = "127.0.0.2"  # this machine, too, but nginx is told that it is not
RIGHTS = {"rita:r": {"read"}, "wanda:w": {"read", "write"}}
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

    def __init__(self, hub: Hub, nginx: Nginx, port: int, plain_port: int, home: Path) -> None:
        self.hub = hub
        self.nginx = nginx
        self.port = port
        self.plain_port = plain_port
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


def ours(site: str, hub_port: int, auth_port: int, port: int, plain_port: int, home: Path) -> str:
    """Return the site with the lines marked `# yours` made ours, and nothing else changed."""
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
        "alias /var/lib/esource/archive/;": f"alias {home}/archive/;",
    }

    def line(match: re.Match[str]) -> str:
        return match[1] + values[match[2]]

    return re.sub(r"^( *)(\S.*;)  # yours.*$", line, site, flags=re.MULTILINE)


@contextmanager
def running_site(home: Path, **settings: str) -> Iterator[Site]:
    """The site in front of a hub with these settings."""
    [openssl] = needs("openssl")
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}",
         "-keyout", str(home / "hub.key"), "-out", str(home / "hub.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    (home / "archive").mkdir()
    rights = Service(("127.0.0.1", 0), Rights)
    threading.Thread(target=rights.serve_forever, daemon=True).start()
    port, plain_port = free_port(), free_port()
    with running_hub(home, **settings) as hub:
        text = ours(SITE, hub.port, rights.server_address[1], port, plain_port, home)
        with running_nginx(home, text, port) as nginx:
            yield Site(hub, nginx, port, plain_port, home)
    rights.shutdown()
    rights.server_close()
