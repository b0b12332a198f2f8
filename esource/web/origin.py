"""Which pages may ask, as far as a browser tells: hosts and origins. Pure.

The hub has no users and no passwords. But a browser carries requests for any page that a
person opens, also to a hub on that person's own machine, where no gateway stands in front:

- a page may post `text/plain` anywhere without asking (no CORS preflight), so writes are
  refused unless they come from the hub's own pages, a listed origin, or no browser at all;
- it may not read the answers, unless the hub says so (CORS), which it does for listed origins;
- a name that the attacker's DNS points to 127.0.0.1 makes the attacker's page the hub's own
  ("DNS rebinding"): a list of the hub's names, if there is one, ends that.

Sources: the Fetch standard (CORS protocol, `Sec-Fetch-Site`), RFC 6454, RFC 9110, 15.5.20.
"""

import re
from collections.abc import Mapping

from esource.config import Config
from esource.errors import Forbidden, Misdirected

METHODS = "GET, HEAD, POST"
# What a page may send and see beyond what is always safe.
REQUEST_HEADERS = (
    "Cache-Control, Content-Type, If-Match, If-Modified-Since, If-None-Match, If-Range, "
    "Last-Event-ID, Range, Want-Repr-Digest"
)
RESPONSE_HEADERS = "Content-Range, ETag, Esource-Resume, Last-Event-ID, Repr-Digest, Retry-After"
PREFLIGHT_SECONDS = 600
_NAME = "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}"  # RFC 9110, 5.6.2
NAMES = re.compile(f"{_NAME}(?: ?, ?{_NAME}){{0,50}}")


class Origins:
    """The rules of one configuration."""

    def __init__(self, config: Config) -> None:
        """Take the lists; both may be empty."""
        self._origins = config.cors_origins
        self._hosts = config.allowed_hosts

    def check_host(self, host: str) -> None:
        """Raise `Misdirected` if a request's `Host` is not this hub; it is empty if not sent."""
        if not self._hosts:
            return
        host = host.lower()
        if host not in self._hosts and _without_port(host) not in self._hosts:
            raise Misdirected(f"this hub is not {host or 'a hub without a name'!r}")

    def check_write(self, host: str, origin: str | None, site: str | None) -> None:
        """Raise `Forbidden` if a page of another origin wants to write.

        Of a request's `Host`, `Origin` and `Sec-Fetch-Site`; None for those not sent.
        """
        if origin is None and site is None:
            return  # no browser
        if site is not None:
            if site in ("same-origin", "none"):
                return
        elif origin is not None and _is_own(origin, host):
            return
        if not self._allows(origin):
            raise Forbidden(
                f"pages of {origin or 'another origin'} may not write; "
                "ESOURCE_CORS_ORIGINS lists those that may"
            )

    def headers(self, origin: str | None) -> dict[str, str]:
        """Return the headers that let a page of a listed origin read the answer."""
        if not self._origins:
            return {}
        if origin is None or not self._allows(origin):
            return {"Vary": "Origin"}
        headers = {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": "*",
            "Access-Control-Expose-Headers": RESPONSE_HEADERS,
        }
        if origin.lower() in self._origins:  # by its name: then with the cookie of a gateway, too
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Allow-Credentials"] = "true"
        return headers

    def preflight(self, environ: Mapping[str, str], methods: str = METHODS) -> dict[str, str]:
        """Return the headers of the answer to OPTIONS; raise `Forbidden` for other origins."""
        headers = {"Allow": f"{methods}, OPTIONS"}
        if "HTTP_ACCESS_CONTROL_REQUEST_METHOD" not in environ:
            return headers  # it is no page that asks
        origin = environ.get("HTTP_ORIGIN")
        if not self._allows(origin):
            raise Forbidden(f"pages of {origin} may not; ESOURCE_CORS_ORIGINS lists those that may")
        asked = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "")
        also = f", {asked}" if NAMES.fullmatch(asked) else ""
        return {
            **headers,
            "Access-Control-Allow-Methods": METHODS,
            # Also those of a gateway, which knows them. (`*` would not do with a cookie.)
            "Access-Control-Allow-Headers": f"{REQUEST_HEADERS}{also}",
            "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
        }

    def _allows(self, origin: str | None) -> bool:
        return origin is not None and (origin.lower() in self._origins or "*" in self._origins)


def _is_own(origin: str, host: str) -> bool:
    """Return whether an origin is the host of the request; `null` is that of none."""
    scheme, _, authority = origin.lower().partition("://")
    host = host.lower()
    # An origin leaves out the port that its scheme has anyway.
    default = {"http": ":80", "https": ":443"}.get(scheme, "")
    return bool(authority) and authority in (host, host.removesuffix(default or ":"))


def _without_port(host: str) -> str:
    name, _, port = host.rpartition(":")
    return name if port.isdigit() else host
