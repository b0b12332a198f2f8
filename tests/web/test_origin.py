"""Hosts, origins, CORS: SPEC, section 7; the rules alone, and through a real server."""

from collections.abc import Callable, Iterator

import pytest

from esource.config import Config
from esource.errors import EsourceError, Forbidden, Misdirected
from esource.web.origin import REQUEST_HEADERS, Origins
from tests.harness import Answer, Hub, Stream, running_hub

PAGE = "https://page.example"
OTHER = "http://other.example:8080"
EVIL = "https://evil.example"


def origins(cors: str = "", hosts: str = "") -> Origins:
    environ = {"ESOURCE_CORS_ORIGINS": cors, "ESOURCE_ALLOWED_HOSTS": hosts}
    return Origins(Config.from_env(environ))


def outcome(check: Callable[..., object], *fields: object) -> int:
    """Return the status that a check of these fields asks for; 0 if it lets them through."""
    try:
        check(*fields)
    except EsourceError as error:
        return error.status
    return 0


# -- the rules alone ---------------------------------------------------------------------------

# the list, the host that is asked for, whether it is refused
HOSTS = [
    ("", "anything.example", False),
    ("", "", False),
    ("hub.example", "hub.example", False),
    ("hub.example", "HUB.Example", False),
    ("hub.example", "hub.example:9000", False),
    ("hub.example", "hub.example:", True),
    ("hub.example", "hub.example:9000:1", True),
    ("hub.example", "hub.example:x", True),
    ("hub.example", "hub.example.evil.example", True),
    ("hub.example", "xhub.example", True),
    ("hub.example", "evil.example, hub.example", True),
    ("hub.example", "hub.example@evil.example", True),
    ("hub.example", "", True),
    ("hub.example", "127.0.0.1:9000", True),
    ("hub.example:9000", "hub.example:9000", False),
    ("hub.example:9000", "hub.example:9001", True),
    ("hub.example:9000", "hub.example", True),
    ("hub.example, localhost 127.0.0.1", "localhost:80", False),
    ("hub.example, localhost 127.0.0.1", "127.0.0.1", False),
    ("[::1]", "[::1]:9000", False),
    ("[::1]", "[::1]", False),
    ("[::1]", "::1", True),
]


@pytest.mark.parametrize(("allowed", "host", "refused"), HOSTS)
def test_a_list_of_hosts_refuses_all_others(allowed: str, host: str, refused: bool) -> None:
    status = outcome(origins(hosts=allowed).check_host, host)
    assert status == (Misdirected.status if refused else 0)


# the listed origins, Host, Origin, Sec-Fetch-Site, whether the write is refused
WRITES = [
    # no browser
    ("", "hub:9000", None, None, False),
    (PAGE, "hub:9000", None, None, False),
    # the browser says where the page is from
    ("", "hub:9000", "http://hub:9000", "same-origin", False),
    ("", "hub:9000", None, "none", False),  # an address typed in, a bookmark
    ("", "hub:9000", "http://hub:9001", "same-site", True),
    ("", "hub:9000", EVIL, "cross-site", True),
    ("", "hub:9000", "http://hub:9000", "cross-site", True),
    ("", "hub:9000", None, "cross-site", True),
    ("", "hub:9000", None, "", True),
    (PAGE, "hub:9000", PAGE, "cross-site", False),
    (PAGE, "hub:9000", EVIL, "cross-site", True),
    (PAGE, "hub:9000", None, "cross-site", True),
    # an old browser, or a hub that is neither on localhost nor behind TLS: only Origin
    ("", "hub:9000", "http://hub:9000", None, False),
    ("", "HUB:9000", "http://hub:9000", None, False),
    ("", "hub", "http://hub", None, False),
    ("", "hub:80", "http://hub", None, False),
    ("", "hub:443", "https://hub", None, False),
    ("", "hub", "https://hub", None, False),  # TLS ends at a gateway
    ("", "hub:9000", "http://hub", None, True),
    ("", "hub:9000", "http://hub:9001", None, True),
    ("", "hub:9000", "http://evil.example", None, True),
    ("", "hub:9000", "http://hub:9000.evil.example", None, True),
    ("", "hub:9000", "http://hub:9000@evil.example", None, True),
    ("", "hub:9000", "http://evil.example/hub:9000", None, True),
    ("", "hub:9000", "hub:9000", None, True),
    ("", "hub:9000", "", None, True),
    ("", "hub:9000", "null", None, True),  # a sandboxed frame, a file, a redirect
    ("", "hub:9000", f"{EVIL} http://hub:9000", None, True),
    # listed
    (PAGE, "hub:9000", PAGE, None, False),
    (PAGE, "hub:9000", "https://PAGE.example", None, False),
    (PAGE, "hub:9000", "http://page.example", None, True),
    (PAGE, "hub:9000", "https://page.example:8443", None, True),
    (PAGE, "hub:9000", "https://sub.page.example", None, True),
    (PAGE, "hub:9000", "https://page.example.evil.example", None, True),
    (PAGE, "hub:9000", f"{PAGE}/", None, True),
    (f"{PAGE} {OTHER}", "hub:9000", OTHER, None, False),
    ("null", "hub:9000", "null", None, False),
    ("*", "hub:9000", EVIL, "cross-site", False),
    ("*", "hub:9000", None, "cross-site", True),
]


@pytest.mark.parametrize(("listed", "host", "origin", "site", "refused"), WRITES)
def test_a_page_of_another_origin_may_not_write_unless_it_is_listed(
    listed: str, host: str, origin: str | None, site: str | None, refused: bool
) -> None:
    status = outcome(origins(listed).check_write, host, origin, site)
    assert status == (Forbidden.status if refused else 0)


def test_an_origin_that_is_null_is_not_that_of_a_hub_without_a_name() -> None:
    assert outcome(origins().check_write, "", "null", None) == Forbidden.status


@pytest.mark.parametrize("origin", ["http://[", "http://]", "http://[x]", "http://a]b["])
def test_an_origin_that_is_no_url_is_refused(origin: str) -> None:
    assert outcome(origins().check_write, "hub", origin, None) == Forbidden.status


@pytest.mark.parametrize(
    ("listed", "origin", "allowed"),
    [
        (PAGE, PAGE, True),
        (PAGE, EVIL, False),
        (PAGE, None, False),
        (PAGE, "", False),
        (PAGE, "null", False),
        ("null", "null", True),
        ("*", EVIL, True),
    ],
)
def test_only_a_listed_origin_is_told_that_it_may_read(
    listed: str, origin: str | None, allowed: bool
) -> None:
    headers = origins(listed).headers(origin)
    assert headers["Vary"] == "Origin"  # or a cache would give one origin's answer to another
    named = "*" if listed == "*" else origin
    assert headers.get("Access-Control-Allow-Origin") == (named if allowed else None)
    # A cookie of a gateway is for those who are listed by their name.
    assert ("Access-Control-Allow-Credentials" in headers) == (allowed and listed != "*")


def test_without_a_list_there_is_no_word_of_origins() -> None:
    assert origins().headers(PAGE) == {}


@pytest.mark.parametrize(
    ("listed", "origin", "allowed"),
    [("", PAGE, False), (PAGE, EVIL, False), (PAGE, None, False), (PAGE, PAGE, True)],
)
def test_a_preflight_is_answered_for_listed_origins_alone(
    listed: str, origin: str | None, allowed: bool
) -> None:
    asked = {"HTTP_ACCESS_CONTROL_REQUEST_METHOD": "POST"}
    if origin is not None:
        asked["HTTP_ORIGIN"] = origin
    if not allowed:
        assert outcome(origins(listed).preflight, asked) == Forbidden.status
        return
    headers = origins(listed).preflight(asked)
    assert headers["Access-Control-Allow-Methods"] == "GET, HEAD, POST"


@pytest.mark.parametrize("asked", ["", ",", "x:y", "x\r\ny", "x y", "x" * 200, "x," * 60 + "x"])
def test_a_preflight_does_not_repeat_what_is_no_list_of_names(asked: str) -> None:
    environ = {
        "HTTP_ORIGIN": PAGE, "HTTP_ACCESS_CONTROL_REQUEST_METHOD": "POST",
        "HTTP_ACCESS_CONTROL_REQUEST_HEADERS": asked,
    }  # fmt: skip
    assert origins(PAGE).preflight(environ)["Access-Control-Allow-Headers"] == REQUEST_HEADERS


def test_options_without_a_question_only_lists_the_methods() -> None:
    assert origins(PAGE).preflight({"HTTP_ORIGIN": EVIL}) == {"Allow": "GET, HEAD, POST, OPTIONS"}


# -- through a real server ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def listing_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub that knows two pages and its own names."""
    home = tmp_path_factory.mktemp("listing")
    settings = {
        "ESOURCE_CORS_ORIGINS": f"{PAGE} {OTHER}",
        "ESOURCE_ALLOWED_HOSTS": "hub, hub.example, 127.0.0.1",
    }
    with running_hub(home, **settings) as hub:
        yield hub


def cors(answer: Answer) -> dict[str, str]:
    """Return an answer's CORS headers."""
    names = [name for name in answer.headers if name.lower().startswith("access-control-")]
    return {name.lower().removeprefix("access-control-"): answer.headers[name] for name in names}


@pytest.mark.parametrize("origin", [PAGE, OTHER])
@pytest.mark.parametrize("path", ["/cors", "/cors?format=ndjson", "/none", "/cors?limit=x", "/x"])
def test_a_listed_page_may_read_every_answer_errors_too(
    listing_hub: Hub, origin: str, path: str
) -> None:
    listing_hub.publish("/cors", "x")
    answer = listing_hub.get(path, Origin=origin)
    assert cors(answer)["allow-origin"] == origin
    assert cors(answer)["allow-credentials"] == "true"
    assert "Last-Event-ID" in cors(answer)["expose-headers"]
    assert "Origin" in ", ".join(answer.headers.get_all("Vary", []))


def test_a_listed_page_may_read_a_stream(listing_hub: Hub) -> None:
    with Stream(listing_hub, "/cors_stream", Origin=PAGE) as stream:
        assert stream.headers["Access-Control-Allow-Origin"] == PAGE
        assert stream.headers["X-Content-Type-Options"] == "nosniff"
        listing_hub.publish("/cors_stream", "x")
        assert stream.read(1)[0].data == b"x"


@pytest.mark.parametrize("origin", [EVIL, "null", "http://page.example", PAGE + ".evil.example"])
def test_another_page_may_not_read(listing_hub: Hub, origin: str) -> None:
    answer = listing_hub.get("/cors", Origin=origin)
    assert answer.status == 200  # the browser keeps it from the page
    assert cors(answer) == {}
    assert "Origin" in ", ".join(answer.headers.get_all("Vary", []))


def test_by_default_no_page_may_read_and_none_is_told_why(hub: Hub) -> None:
    for origin in (PAGE, "null", hub.url):
        answer = hub.get("/cors", Origin=origin)
        assert (answer.status, cors(answer)) == (200, {})


def test_a_preflight_tells_a_listed_page_what_it_may_send(listing_hub: Hub) -> None:
    answer = listing_hub.request(
        "OPTIONS", "/preflight", Origin=PAGE, Access_Control_Request_Method="POST",
        Access_Control_Request_Headers="content-type,if-match,x-token",
    )  # fmt: skip
    assert (answer.status, answer.body) == (204, b"")
    fields = cors(answer)
    assert fields["allow-origin"] == PAGE
    assert "POST" in fields["allow-methods"]
    allowed = set(fields["allow-headers"].lower().replace(" ", "").split(","))
    assert allowed >= {"content-type", "if-match", "if-none-match", "last-event-id", "range"}
    assert "x-token" in allowed  # which is for a gateway
    assert int(fields["max-age"]) > 0
    assert not listing_hub.has("preflight")


def test_a_preflight_of_another_page_is_refused(listing_hub: Hub, hub: Hub) -> None:
    for asked, origin in ((listing_hub, EVIL), (listing_hub, "null"), (hub, PAGE), (hub, EVIL)):
        answer = asked.request(
            "OPTIONS", "/preflight", Origin=origin, Access_Control_Request_Method="POST"
        )
        assert (answer.status, cors(answer)) == (403, {})


def test_options_of_no_browser_lists_the_methods(hub: Hub) -> None:
    answer = hub.request("OPTIONS", "/options")
    assert (answer.status, answer.body) == (204, b"")
    assert {*answer.headers["Allow"].split(", ")} == {"GET", "HEAD", "POST", "OPTIONS"}


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
        "text/event-stream", "application/x-ndjson",
    ],
)  # fmt: skip
def test_a_page_elsewhere_posts_in_vain_whether_or_not_a_preflight_is_needed(
    hub: Hub, content_type: str
) -> None:
    for fields in (
        {"Origin": EVIL, "Sec_Fetch_Site": "cross-site"},
        {"Origin": EVIL},
        {"Origin": "null"},
    ):
        answer = hub.post("/in_vain", "x", Content_Type=content_type, **fields)
        assert answer.status == 403
        assert answer.text.startswith("pages of ")
        assert "ESOURCE_CORS_ORIGINS" in answer.text
    assert not hub.has("in_vain")


def test_the_hubs_own_pages_and_listed_ones_may_write(hub: Hub, listing_hub: Hub) -> None:
    assert hub.post("/own_page", "x", Origin=hub.url).status == 201
    assert hub.post("/own_page", "x", Origin=hub.url, Sec_Fetch_Site="same-origin").status == 201
    answer = listing_hub.post("/own_page", "x", Origin=PAGE, Sec_Fetch_Site="cross-site")
    assert (answer.status, cors(answer)["allow-origin"]) == (201, PAGE)


def test_a_refused_write_is_not_read_and_its_body_is_no_request(hub: Hub) -> None:
    smuggled = b"POST /refused HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"
    head = "POST /refused HTTP/1.1\r\nHost: h\r\nOrigin: https://evil.example\r\n"
    request = f"{head}Content-Length: {len(smuggled)}\r\n\r\n".encode() + smuggled
    answer = hub.raw(request, half_close=True)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert not hub.has("refused")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
def test_a_request_for_another_host_is_misdirected(listing_hub: Hub, method: str) -> None:
    for host in ("evil.example", f"evil.example:{listing_hub.port}", "hub.evil.example", ""):
        answer = listing_hub.request(method, "/rebound", Host=host)
        assert answer.status == 421
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    for host in ("hub", "HUB:1234", "hub.example", f"127.0.0.1:{listing_hub.port}"):
        assert listing_hub.request(method, "/own_name", Host=host).status in (200, 201, 204)
    assert not listing_hub.has("rebound")


def test_a_request_for_another_host_learns_not_even_what_is_there(listing_hub: Hub) -> None:
    for method, path in (("GET", "/no/channel"), ("DELETE", "/rebound")):
        assert listing_hub.request(method, path, Host="evil.example").status == 421


def test_a_request_without_a_host_is_misdirected(listing_hub: Hub) -> None:
    answer = listing_hub.raw(b"GET /rebound HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 421 ")


def test_every_answer_of_the_hub_forbids_sniffing(hub: Hub) -> None:
    hub.publish("/sniffed", "<script>")
    for method, path, fields in (
        ("GET", "/sniffed", {}),
        ("HEAD", "/sniffed", {}),
        ("GET", "/sniffed?format=raw", {}),
        ("GET", "/sniffed?format=json", {}),
        ("GET", "/sniffed", {"Range": "bytes=0-1"}),
        ("GET", "/sniffed", {"Range": "bytes=999-"}),
        ("GET", "/sniffed", {"If_None_Match": "*"}),
        ("POST", "/sniffed", {}),
        ("POST", "/sniffed?each=line", {}),
        ("POST", "/sniffed", {"Origin": EVIL}),
        ("POST", "/sniffed", {"If_None_Match": "*"}),
        ("OPTIONS", "/sniffed", {}),
        ("DELETE", "/sniffed", {}),
        ("GET", "/x", {}),
        ("GET", "/sniffed/x", {}),
        ("GET", "/sniffed?x=", {}),
    ):
        answer = hub.request(method, path, b"" if method == "POST" else None, **fields)
        assert answer.headers.get_all("X-Content-Type-Options") == ["nosniff"], (method, path)
