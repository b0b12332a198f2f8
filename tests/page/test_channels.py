"""The list of channels, and the form that publishes."""

import shlex
import subprocess

import pytest
from playwright.sync_api import BrowserContext

from tests.harness import Hub, eventually
from tests.page.person import Person

PAGE = 200  # channels


def names(person: Person) -> list[str]:
    return person.page.locator(".channel-name").all_text_contents()


def has_names(person: Person, *wanted: str) -> None:
    eventually(lambda: names(person) == list(wanted))


def test_a_hub_without_channels_tells_how_to_make_the_first(own_person: Person) -> None:
    own_person.visit()
    own_person.page.wait_for_selector("text=No channel yet >> nth=0")
    line = own_person.line("welcome-curl")
    assert line == f"curl -d 'one coffee' {own_person.hub.url}/orders"
    subprocess.run(["bash", "-c", line], check=True, capture_output=True)
    has_names(own_person, "orders")
    assert own_person.text("#welcome-title") == "Choose a channel"


def test_channels_are_listed_with_live_rates_and_one_is_chosen(own_person: Person) -> None:
    hub = own_person.hub
    for name in ("deploys", "orders", "app-log"):
        hub.publish(f"/{name}", "one")
    own_person.visit()
    has_names(own_person, "app-log", "deploys", "orders")
    assert own_person.text("#total") == "3"
    for _ in range(50):
        hub.publish("/orders", "x")
    rate = own_person.page.locator("li", has_text="orders").locator(".number").first
    eventually(lambda: rate.inner_text() not in ("0/s", "–"))
    own_person.page.get_by_role("link", name="orders").click()
    own_person.wait_for_state("open")
    assert own_person.page.url == f"{hub.url}/?channel=orders"
    assert own_person.page.title() == "orders – esource"
    eventually(lambda: own_person.text("#followers") == "1")
    current = own_person.page.locator("[aria-current=page] .channel-name")
    assert current.all_text_contents() == ["orders"]
    own_person.page.go_back()
    own_person.page.wait_for_selector("#welcome")
    eventually(lambda: own_person.page.locator("[aria-current]").count() == 0)


@pytest.mark.files("an empty file")
def test_who_changes_the_channel_quickly_sees_the_last_one_only(own_person: Person) -> None:
    hub = own_person.hub
    channels = [f"channel-{n}" for n in range(6)]
    for name in channels:
        hub.publish(f"/{name}", name)
    hub.put("empty", "")
    own_person.visit()
    has_names(own_person, *channels, "empty")
    order = ["empty", *channels, "empty", "channel-3", "empty", "channel-5"]
    click = """names => names.forEach(
      (name) => document.querySelector(`a[href="?channel=${name}"]`).click())"""
    own_person.page.evaluate(click, order)
    own_person.sees("channel-5")
    own_person.wait_for_state("open")
    for name in (*channels, "empty"):
        hub.publish(f"/{name}", f"more of {name}")
    own_person.sees("channel-5", "more of channel-5")
    eventually(lambda: own_person.text("#followers") == "1")


def test_many_channels_are_paged_and_filtered_by_name(own_person: Person) -> None:
    hub = own_person.hub
    for n in range(450):
        hub.put(f"channel-{n:03}", f"{n}\t\tx\n")
    own_person.visit()
    eventually(lambda: names(own_person)[:1] == ["channel-000"])
    assert len(names(own_person)) == PAGE
    assert own_person.text("#page") == "1–200"
    own_person.page.locator("#more").click()
    eventually(lambda: names(own_person)[:1] == ["channel-200"])
    own_person.page.locator("#more").click()
    eventually(lambda: names(own_person)[-1:] == ["channel-449"])
    assert own_person.text("#page") == "401–450"
    assert own_person.page.locator("#more").is_disabled()
    own_person.page.locator("#back").click()
    eventually(lambda: own_person.text("#page") == "201–400")
    own_person.page.locator("#match").fill("L-13")
    has_names(own_person, *(f"channel-{n}" for n in range(130, 140)))
    line = own_person.line("list-curl")
    printed = subprocess.run(["bash", "-c", line], check=True, capture_output=True, text=True)
    assert [row.split()[0] for row in printed.stdout.splitlines()[1:]] == names(own_person)
    own_person.page.locator("#match").fill("nothing like it")
    own_person.page.wait_for_selector("text=No channel has this")


def test_a_hub_that_is_gone_is_told_and_its_return_too(own_person: Person) -> None:
    own_person.hub.publish("/orders", "one")
    own_person.visit()
    has_names(own_person, "orders")
    own_person.hub.stop()
    eventually(lambda: "does not answer" in own_person.text("#trouble"))
    assert names(own_person) == ["orders"]
    own_person.hub.start()
    eventually(lambda: own_person.text("#trouble") == "")


def test_of_a_gateways_page_only_the_status_is_told(own_person: Person) -> None:
    own_person.forgiven = "502"
    own_person.page.route(
        "**/-/channels*",
        lambda route: route.fulfill(status=502, content_type="text/html", body="<h1>Bad</h1>"),
    )
    own_person.visit()
    eventually(lambda: own_person.text("#trouble"))
    said = "The hub says 502: Bad Gateway. Asking again every 2 s."
    assert own_person.text("#trouble") == said


# -- publish -------------------------------------------------------------------------------------

AWKWARD = [
    "plain", "", "two\nlines\n\nfour", "it's 'quoted' and \"quoted\"", "@file", "$HOME `id` \\n !",
    "-d", "tab\there", "grün 🛩", '{"a": [1, 2]}', "&x=1 %41 +", "#", "?", "  edge  ",
]  # fmt: skip


def open_form(person: Person) -> None:
    person.page.locator("summary").click()


def fill_form(person: Person, channel: str, type: str, id: str, data: str) -> None:
    values = {"#to": channel, "#to-type": type, "#to-id": id, "#data": data}
    for field, value in values.items():
        person.page.locator(field).fill(value)


def test_an_event_is_published_and_its_id_told(person: Person) -> None:
    person.visit("?channel=form")
    open_form(person)
    assert person.page.locator("#to").input_value() == "form"
    fill_form(person, "form", "a type", "", "the data")
    person.page.get_by_role("button", name="Publish").click()
    person.sees("the data")
    [(id, type, _)] = person.rows
    assert type == "a type"
    assert person.text("#published") == f"Stored as {id}"
    person.page.locator("#to-id").fill("mine")
    person.page.locator("#data").focus()
    person.page.keyboard.press("Control+Enter")
    person.sees("the data", "the data")
    assert person.rows[-1][0] == "mine"
    assert person.page.locator("#to-id").input_value() == ""


def test_what_the_hub_refuses_is_told_in_its_own_words(person: Person) -> None:
    person.forgiven = "400"
    person.visit("?channel=refused")
    open_form(person)
    fill_form(person, "refused", " spaces ", "", "x")
    person.page.keyboard.press("Control+Enter")
    eventually(lambda: "The hub says 400" in person.text("#published"))
    fill_form(person, "no", "", "", "x")
    person.page.keyboard.press("Control+Enter")  # the browser says so by itself
    assert person.page.locator("#to:invalid").count() == 1
    assert not person.hub.has("refused")


def test_the_line_for_the_shell_publishes_the_same(person: Person) -> None:
    person.visit()
    open_form(person)
    for n, data in enumerate(AWKWARD):
        fill_form(person, "by_form", f"it's {n}", f"#{n} & more", data)
        line = person.line("publish-curl").replace("by_form", "by_line")
        person.page.keyboard.press("Control+Enter")
        person.page.wait_for_selector(f"#published:text-is('Stored as #{n} & more')")
        subprocess.run(["bash", "-c", line], check=True, capture_output=True)
    assert len(person.hub.rows("by_form")) == len(AWKWARD)
    assert person.hub.rows("by_line") == person.hub.rows("by_form")


def test_words_are_quoted_for_any_shell(person: Person) -> None:
    person.visit()
    script = "async words => (await import('/-/page/curl.js')).quote(words)"
    for word in AWKWARD:
        assert shlex.split(person.page.evaluate(script, word)) == [word]


@pytest.mark.parametrize("secure", [True, False])
def test_a_line_is_copied_with_and_without_a_clipboard(
    context: BrowserContext, hub: Hub, secure: bool
) -> None:
    person = Person(context, hub)
    if secure:
        context.grant_permissions(["clipboard-read", "clipboard-write"])
    else:
        person.page.add_init_script("delete Navigator.prototype.clipboard")
    person.page.clock.install()
    person.visit("?channel=copied")
    person.page.locator("#view-curl button").click()
    person.page.wait_for_selector("#view-curl button:text('Copied')")
    person.page.locator("#view-curl button").click()  # once more, to be sure
    person.page.clock.run_for(5000)
    assert person.text("#view-curl button") == "Copy"
    open_form(person)
    person.page.locator("#data").focus()
    person.page.keyboard.press("Control+V")
    assert person.page.locator("#data").input_value() == person.line("view-curl")
    person.leave()
