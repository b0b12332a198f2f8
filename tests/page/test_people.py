"""Whoever the person is: by keyboard, by screen reader, on a phone, in the dark.

`TESTS_SCREENSHOTS=1` takes the documentation's pictures of the page anew.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, ViewportSize

from tests.harness import Hub, eventually, running_hub
from tests.page.person import Person

FOLDER = Path(__file__).parent
PHONE = ViewportSize(width=390, height=844)
DESK = ViewportSize(width=1120, height=700)
LOOKS: dict[str, tuple[Literal["light", "dark"], ViewportSize]] = {
    "light": ("light", DESK), "dark": ("dark", DESK), "phone": ("light", PHONE),
}  # fmt: skip
NDJSON = "application/x-ndjson"
MOST_PICTURE_BYTES = 150_000


@pytest.fixture(scope="module")
def busy_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with channels as a person would have them."""
    with running_hub(tmp_path_factory.mktemp("busy")) as hub:
        goods = ("coffee", "tea", "cake", "juice")
        for name, count in (("app-log", 900), ("deploys", 12), ("orders", 400), ("sensors", 4000)):
            lines = []
            for n in range(count):
                order = {
                    "order": 1000 + n,
                    "goods": [goods[n * n % 4]],
                    "total": n * 137 % 900 / 10,
                }
                type, data = {
                    "app-log": ("", f"GET /products/{n * 7 % 90} 200 {n * 31 % 40} ms"),
                    "deploys": (("started", "done")[n % 2], f"version {n // 2}"),
                    "orders": (("placed", "paid", "shipped")[n % 3], json.dumps(order)),
                    "sensors": ("reading", json.dumps({"celsius": 18 + n * 13 % 60 / 10})),
                }[name]
                lines.append(json.dumps({"event": type, "data": data}))
            answer = hub.post(f"/{name}", "\n".join(lines), Content_Type=NDJSON)
            assert answer.status == 201
        yield hub


@pytest.fixture(scope="module")
def axe(packages: Path) -> Path:
    """The script of npm's `axe-core`."""
    return packages / "node_modules" / "axe-core" / "axe.min.js"


def complaints(person: Person) -> list[str]:
    """Return what axe has to say, with its best practices."""
    found = person.page.evaluate("axe.run({resultTypes: ['violations']})")
    return [
        f"{violation['id']}: {node['html']} {node['failureSummary']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


@pytest.fixture(params=LOOKS)
def looker(
    request: pytest.FixtureRequest, browser: Browser, busy_hub: Hub
) -> Iterator[tuple[str, Person]]:
    """Somebody who sees the page in one of the looks."""
    scheme, size = LOOKS[request.param]
    context = browser.new_context(
        viewport=size, color_scheme=scheme, device_scale_factor=1, reduced_motion="reduce"
    )
    person = Person(context, busy_hub)
    yield request.param, person
    person.leave()
    context.close()


@pytest.mark.skipif("TESTS_SCREENSHOTS" not in os.environ, reason="not asked for")
def test_pictures_for_the_readme(looker: tuple[str, Person]) -> None:
    # The first test, so that no other one is seen on them.
    look, person = looker
    # A port of its own each time would be another picture each time.
    person.page.add_init_script(
        """addEventListener('DOMContentLoaded', () => new MutationObserver(() => {
          const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
          while (walk.nextNode()) {
            const text = walk.currentNode.data.replaceAll(location.host, 'localhost:9000')
            if (text !== walk.currentNode.data) walk.currentNode.data = text
          }
        }).observe(document.body, { childList: true, characterData: true, subtree: true }))"""
    )
    person.visit("?channel=orders")
    eventually(lambda: person.rows)
    for n in range(160):
        order = json.dumps({"order": 1400 + n, "goods": ["tea"], "total": n * 137 % 900 / 10})
        person.hub.publish(f"/orders?event={('placed', 'paid')[n % 2]}", order)
        if n % 3 == 0:
            person.hub.publish("/app-log", f"GET /cart 200 {n % 40} ms")
        person.page.wait_for_timeout(30 + n * n % 70)
    if look != "phone":
        person.page.locator(".row").nth(-9).click()
    person.page.wait_for_timeout(500)
    path = FOLDER / "screenshots" / f"{look}.png"
    path.parent.mkdir(exist_ok=True)
    person.page.screenshot(path=path)
    assert path.stat().st_size < MOST_PICTURE_BYTES


def test_axe_finds_nothing_in_any_view(looker: tuple[str, Person], axe: Path) -> None:
    look, person = looker
    person.page.add_init_script(path=axe)
    person.visit()
    eventually(lambda: person.page.locator(".channel-name").count() >= 4)
    assert complaints(person) == []
    person.page.locator("summary").click()
    assert complaints(person) == []
    person.visit("?channel=orders")
    eventually(lambda: person.rows)
    person.page.locator("summary").click()
    person.page.locator("#data").fill("x")
    person.page.keyboard.press("Control+Enter")
    eventually(lambda: "Stored" in person.text("#published"))
    assert complaints(person) == []
    person.page.locator("summary").click()
    person.page.locator(".row").nth(-3).click()
    person.page.wait_for_selector(".detail")
    assert complaints(person) == []
    if look == "phone":
        person.page.locator("#more-tools").click()
    person.page.select_option("#type", "other")
    assert complaints(person) == []
    person.page.locator("#keys").click()
    assert complaints(person) == []
    person.visit("?channel=orders&channel=app-log&text=1")
    eventually(lambda: person.rows)
    assert complaints(person) == []
    person.visit(f"?channel=empty-{look}")
    person.page.wait_for_selector("#no-events")
    assert complaints(person) == []


def test_nothing_is_wider_than_a_phone(browser: Browser, busy_hub: Hub) -> None:
    context = browser.new_context(viewport={"width": 320, "height": 600})
    person = Person(context, busy_hub)
    busy_hub.publish("/wide?id=" + "i" * 300 + "&event=" + "t" * 200, "d" * 3000)
    for query, item in (
        ("", ".channel-name"),
        ("?channel=wide", ".row"),
        ("?channel=orders", ".row"),
    ):
        person.visit(query)
        person.page.wait_for_selector(item)
        person.page.locator("summary").click()
        if query:
            person.page.locator("#more-tools").click()
            person.page.locator(".row").first.click()
        overflow = "document.documentElement.scrollWidth - innerWidth"
        assert person.page.evaluate(overflow) <= 0
    person.leave()
    context.close()


def test_the_data_has_room_on_every_screen(browser: Browser, busy_hub: Hub) -> None:
    context = browser.new_context()
    person = Person(context, busy_hub)
    person.visit("?channel=orders")
    person.page.wait_for_selector(".row")
    for width in (320, 600, 740, 800, 900, 1024, 1280):
        person.page.set_viewport_size({"width": width, "height": 800})
        row, text = (
            person.page.locator(place).last.bounding_box() for place in (".row", ".row .text")
        )
        assert row
        assert text
        assert text["width"] > row["width"] * 0.45, width
    person.leave()
    context.close()


def test_everything_is_done_by_keyboard(own_person: Person) -> None:
    hub, page, press = own_person.hub, own_person.page, own_person.page.keyboard.press
    for data in ("1", '{"a": 2}', "3"):
        hub.publish("/orders", data)
    own_person.visit()
    page.wait_for_selector(".channel-name")

    def focus() -> str:
        script = "document.activeElement.id || document.activeElement.className"
        return str(page.evaluate(script))

    def tab_to(name: str) -> None:
        for _ in range(40):
            if focus() == name:
                return
            press("Tab")
        raise AssertionError(f"{name} is not reached, but {focus()}")

    press("Tab")
    assert focus() == "skip"
    assert page.locator(".skip").bounding_box()["x"] >= 0  # type: ignore[index]
    tab_to("match")
    page.keyboard.type("ord")
    press("Tab")
    press("Enter")
    own_person.wait_for_state("open")
    own_person.sees("1", '{"a": 2}', "3")
    page.evaluate("document.activeElement.blur()")
    page.locator(".skip").focus()
    press("Enter")
    assert focus() == "row"
    press("ArrowUp")
    press("Enter")
    assert page.locator(".detail .json").text_content() == '{"a": 2}'
    press("Enter")
    assert page.locator(".detail").count() == 0
    press("Home")
    assert page.evaluate("document.activeElement.textContent").endswith("1")
    press("End")
    assert page.evaluate("document.activeElement.textContent").endswith("3")
    hub.publish("/orders", "4")
    eventually(lambda: own_person.text("#jump") == "1 newer ↓")
    tab_to("jump")
    press("Enter")
    own_person.sees("1", '{"a": 2}', "3", "4")
    eventually(lambda: focus() == "row")
    page.locator("summary").focus()
    press("Enter")
    tab_to("data")
    page.keyboard.type("5")
    press("Control+Enter")
    own_person.sees("1", '{"a": 2}', "3", "4", "5")


def test_who_reads_history_by_keyboard_stays_in_it(person: Person) -> None:
    rows = "".join(f"{n}\t\t{n}\n" for n in range(500))
    person.hub.post("/by-key", rows, Content_Type="text/tab-separated-values")
    person.visit("?channel=by-key")
    eventually(lambda: person.rows)
    person.page.locator("#above button").focus()

    def is_at_the_beginning() -> bool:
        person.page.keyboard.press("Enter")
        return "begins here" in person.text("#above")

    eventually(is_at_the_beginning)
    assert person.page.evaluate("document.activeElement.textContent") == "00"


def test_the_place_of_the_focus_is_seen(person: Person) -> None:
    person.hub.publish("/focus", "1")
    person.visit("?channel=focus")
    person.page.wait_for_selector(".row")
    stops = set()
    for _ in range(30):
        person.page.keyboard.press("Tab")
        stop, outline = person.page.evaluate(
            """() => {
              const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement)
              return [document.activeElement.outerHTML.slice(0, 60), outlineStyle + outlineWidth]
            }"""
        )
        if not stop.startswith("<body"):
            assert outline == "solid2px", stop
        stops.add(stop)
    assert len(stops) >= 12


def test_who_wants_no_motion_sees_none(browser: Browser, hub: Hub) -> None:
    context = browser.new_context(reduced_motion="reduce")
    person = Person(context, hub)
    person.visit("?channel=still")
    script = """document.getElementById('state').dataset.state = 'reconnecting',
      getComputedStyle(document.getElementById('state'), '::before').animationName"""
    assert person.page.evaluate(script) == "none"
    person.leave()
    context.close()


def test_a_screen_reader_is_told_of_the_stream_and_not_of_each_event(person: Person) -> None:
    person.visit("?channel=spoken")
    live = "[...document.querySelectorAll('[aria-live], [role=status], [role=log], [role=alert]')]"
    assert person.page.evaluate(f"{live}.map(element => element.id).sort()") == [
        "exported", "published", "state", "trouble",
    ]  # fmt: skip
    landmarks = person.page.get_by_role("main").or_(person.page.get_by_role("navigation"))
    assert landmarks.count() == 2
    assert person.page.get_by_role("list", name="Events, newest last").count() == 1
