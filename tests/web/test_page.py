"""The files of the page, as a browser gets them. What it does with them is in `tests/page`."""

import re
from pathlib import Path

import pytest

from esource.web import page
from tests.harness import ROOT, Hub, running_hub

FILES = sorted(path.name for path in page.FOLDER.iterdir())
POLICY = {
    "default-src": "'none'", "script-src": "'self'", "style-src": "'self'",
    "img-src": "'self' data:", "connect-src": "'self'", "base-uri": "'none'",
    "form-action": "'none'", "frame-ancestors": "'none'",
}  # fmt: skip


@pytest.mark.parametrize("path", ["/", "/?channel=orders", *(f"/-/page/{name}" for name in FILES)])
def test_each_file_comes_with_its_type_and_the_policy(hub: Hub, path: str) -> None:
    answer = hub.get(path, Accept="text/html,*/*;q=0.8")
    name = path.rpartition("/")[2] if "page" in path else "index.html"
    assert (answer.status, answer.body) == (200, (page.FOLDER / name).read_bytes())
    assert answer.headers["Content-Type"] == page.CONTENT_TYPES["." + name.rpartition(".")[2]]
    policy = answer.headers["Content-Security-Policy"].split("; ")
    assert dict(directive.split(" ", 1) for directive in policy) == POLICY
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-cache"


def test_a_file_that_the_browser_has_is_not_sent_again(hub: Hub) -> None:
    answer = hub.get("/-/page/page.css")
    again = hub.get("/-/page/page.css", If_None_Match=answer.headers["ETag"])
    assert (again.status, again.body) == (304, b"")
    assert again.headers["Content-Security-Policy"]
    assert hub.get("/-/page/page.css", If_None_Match='"other"').status == 200
    head = hub.request("HEAD", "/")
    assert head.headers["Vary"] == "Accept"
    assert (head.status, head.body) == (200, b"")
    assert head.headers["ETag"] == hub.get("/").headers["ETag"]


@pytest.mark.parametrize("name", ["none.js", "", "..%2fpage.py", "%2e%2e/page.py", "page.js/"])
def test_there_is_nothing_else(hub: Hub, name: str) -> None:
    assert hub.get(f"/-/page/{name}").status == 404


def test_nobody_writes_to_the_page(hub: Hub) -> None:
    assert hub.post("/", "event").status == 405
    assert hub.post("/-/page/page.js", "event").status == 405


def test_the_page_asks_nobody_but_the_hub() -> None:
    for name in FILES:
        text = (page.FOLDER / name).read_text()
        assert set(re.findall(r"https?://[^\s\"'`]*", text)) <= {"http://www.w3.org/2000/svg"}
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", text)
    index = (page.FOLDER / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script>", index)


def test_every_file_is_used() -> None:
    texts = {name: (page.FOLDER / name).read_text() for name in FILES}
    for name in FILES:
        used = any(name in text for other, text in texts.items() if other != name)
        assert used or name in ("index.html", "index.txt"), name


def test_the_pictures_of_the_documentation_are_there_and_small() -> None:
    texts = "".join((ROOT / name).read_text() for name in ("README.md", "docs/page.md"))
    pictures = re.findall(r"tests/page/screenshots/[^\"]+", texts)
    assert {Path(picture).stem for picture in pictures} == {"light", "dark", "phone"}
    for picture in pictures:
        assert 10_000 < (ROOT / picture).stat().st_size < 150_000


def test_what_takes_no_html_gets_a_dozen_lines(hub: Hub) -> None:
    answer = hub.get("/")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.text == (page.FOLDER / "index.txt").read_text()
    assert answer.text.count("\n") <= 12


def test_other_hosts_are_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("hosts")
    with running_hub(home, ESOURCE_ALLOWED_HOSTS="127.0.0.1 hub.example.org") as hub:
        assert hub.get("/").status == 200
        assert hub.get("/", Host="evil.example.org").status == 421
        assert hub.get("/-/page/page.js", Host="evil.example.org").status == 421


def test_the_page_can_be_turned_off(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_hub(tmp_path_factory.mktemp("off"), ESOURCE_UI="0") as hub:
        assert hub.get("/-/page/page.js").status == 404
        assert hub.get("/", Accept="text/html").text == (page.FOLDER / "index.txt").read_text()
        assert hub.get("/-/channels").status == 200
