"""A hub that encrypts by itself."""

import ssl
import subprocess
from pathlib import Path

from tests.harness.hub import Hub
from tests.harness.machine import needs


def certified(home: Path) -> tuple[Path, Path]:
    """Make a key and a certificate for loopback; return their files."""
    key, certificate = home / "key.pem", home / "certificate.pem"
    subprocess.run(
        [*needs("openssl"), "req", "-x509", "-newkey", "ec",
         "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=hub", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, certificate


class EncryptedHub(Hub):
    """A hub with a certificate of its own, which its clients insist on."""

    def __init__(self, home: Path, **settings: str) -> None:
        super().__init__(home, **settings)
        key, certificate = certified(home)
        self.options = ("--certfile", str(certificate), "--keyfile", str(key))
        self.trust = ssl.create_default_context(cafile=certificate)

    def connect(self) -> ssl.SSLSocket:
        return self.trust.wrap_socket(super().connect(), server_hostname="127.0.0.1")
