"""What a person looks for in a channel, and what they take along."""

import json
import random
import re
import subprocess
from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Download, Route

from esource import __version__
from tests.harness import Hub, eventually, running_hub
from tests.harness.machine import size
from tests.page.person import Person

# The longest time in which the page did not paint: a bound on faults, on a busy machine.
FROZEN_MS = 3000
# So that a test can hide the page, and show it again.
HIDE = """
let isHidden = false
Object.defineProperty(document, 'hidden', { get: () => isHidden })
window.hide = (on) => {
  isHidden = on
  document.dispatchEvent(new Event('visibilitychange'))
}
"""


def rows_of(count: int, first: int = 0, padding: str = "") -> str:
    return "".join(f"{n:06}\t\tevent {n}{padding}\n" for n in range(first, first + count))


def printed(line: str, seconds: int = 2) -> list[bytes]:
    """Run a line that may go on for ever, for so long; return the lines that it prints."""
    command = ["timeout", str(seconds), "bash", "-c", line]
    run = subprocess.run(command, capture_output=True, check=False)
    return run.stdout.split(b"\n")[:-1]


# -- search --------------------------------------------------------------------------------------


def test_all_of_a_channel_is_searched_in_one_go_and_the_page_goes_on_meanwhile(
    person: Person,
) -> None:
    # More than is looked through unasked.
    hay = rows_of(45_000 * size(1, 5), padding=" " + "x" * 1000)
    person.hub.put("haystack", "first\t\ta Needle\n" + hay + "last\t\tneedles\n")
    person.visit("?channel=haystack&text=needle")
    person.sees("needles")
    more = person.page.get_by_role("button", name=re.compile("Search all .* before"))
    more.wait_for()
    assert "No more in the last 3" in person.text("#above")  # MB
    follows = printed(person.line("view-curl"))
    assert [row.split(b"\t")[0] for row in follows] == [b"last"]
    person.page.evaluate("longest = 0")
    more.click()
    person.sees("a Needle", "needles")
    assert "begins here" in person.text("#above")
    assert person.page.evaluate("longest") < FROZEN_MS
    follows = printed(person.line("view-curl"), seconds=size(2, 10))
    assert [row.split(b"\t")[0] for row in follows] == [b"first", b"last"]
    person.hub.publish("/haystack?id=new", "one NEEDLE more")
    person.sees("a Needle", "needles", "one NEEDLE more")


def test_what_json_escapes_is_found_and_shown_as_it_is_meant(person: Person) -> None:
    hub = person.hub
    hub.publish("/escaped", '{"who": "J\\u00f6rg \\ud83d\\udee9 \\u202e\\u0022"}')
    hub.publish("/escaped", '{"who": "JÖRG"}')
    hub.publish("/escaped", '{"say": "\\"hi\\" \\u003cb>"}')
    hub.publish("/escaped", "jorg.*")
    person.visit("?channel=escaped&text=jörg")
    shown = '{"who": "Jörg 🛩 \\u202e\\u0022"}'
    person.sees(shown, '{"who": "JÖRG"}')
    assert len(printed(person.line("view-curl"))) >= 1  # the other if the locale has no Ö
    person.page.locator(".row").first.click()
    assert "🛩 \\u202e\\u0022" in person.text(".json")
    for text, found in (('"hi"', 1), ("<b>", 1), (".*", 1), ("\\u00F6", 1), ("[", 0)):
        person.page.locator("#text").fill(text)
        eventually(lambda found=found: len(person.data) == found)  # type: ignore[misc]
        eventually(lambda found=found: len(printed(person.line("view-curl"))) == found)  # type: ignore[misc]


@pytest.mark.parametrize("seed", range(size(1, 3)))
def test_a_search_finds_what_a_look_at_each_row_finds(person: Person, seed: int) -> None:
    chance = random.Random(seed)
    words = ["Jörg", "JÖRG", "J\\u00f6rg", "j\\u00D6RG", "jorg", '\\"q\\"', '"Q"', "a" * 90, "🛩"]
    rows = [
        f"{n}\tt\t{' '.join(chance.choices(words, k=chance.randrange(6)))}\n" for n in range(3000)
    ]
    person.visit()
    # As it arrives: in pieces that end anywhere, also within a row, and within a character.
    script = """async ([text, what, sizes, most]) => {
      const { blocksOf } = await import('/-/page/blocks.js')
      const { found } = await import('/-/page/scan.js')
      const { patternOf } = await import('/-/page/text.js')
      const bytes = new TextEncoder().encode(text)
      let at = 0
      const stream = new ReadableStream({ pull(to) {
        if (at >= bytes.length) return to.close()
        const size = sizes[at % sizes.length]
        to.enqueue(bytes.slice(at, at += size))
      } })
      const ids = []
      let [start, number] = [0, 0]
      const decoder = new TextDecoder()
      for await (const block of blocksOf(stream)) {
        const part = found(block, patternOf(what), most)
        for (const row of part.rows) {
          const begin = start + row.start
          const end = bytes.indexOf(10, begin)
          if (decoder.decode(bytes.subarray(begin, end)) !== row.text) ids.push('not there')
          ids.push([row.text.split('\\t')[0], number + row.number])
        }
        start += block.length
        number += part.count
      }
      return [ids, start, number]
    }"""
    sizes = [chance.choice((1, 7, 100, 5000, 65536)) for _ in range(50)]
    for what in ("jörg", "Jorg", '"q"', "🛩", "zzz", "1\tT", "aaaa"):
        plain = what.lower()
        forms = {plain, plain.replace('"', '\\"')}
        forms |= {plain.replace("ö", form) for form in ("\\u00f6", "\\u00d6")}
        wanted = [
            [row.split("\t")[0], n]
            for n, row in enumerate(rows)
            if any(form in row.lower() for form in forms)
        ]
        text = "".join(rows)
        found = person.page.evaluate(script, [text, what, sizes, 10**6])
        assert found == [wanted, len(text.encode()), len(rows)]
    [ids, _, _] = person.page.evaluate(script, ["".join(rows), "t", [10**9], 5])
    assert [id for id, _ in ids] == ["2995", "2996", "2997", "2998", "2999"]  # the last ones


@pytest.fixture(params=["whole", "trimmed", "typed"])
def haystack(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Hub, str, list[tuple[str, str]]]]:
    """A hub with the channel `haystack`, whose ids repeat; which view; and its events."""
    with running_hub(tmp_path, ESOURCE_KEEP="haystack/segment=1M") as hub:
        events = []
        for first in range(0, 4800, 400):
            some = [(f"{n % 9}", f"event {n} {'x' * 700}") for n in range(first, first + 400)]
            rows = "".join(f"{id}\tt\t{data}\n{id}\tother\t-\n" for id, data in some)
            answer = hub.post("/haystack", rows, Content_Type="text/tab-separated-values")
            assert answer.status == 201
            events += some
        if request.param == "trimmed":
            oldest = sorted(hub.folder.glob("haystack.*.tsv"))[0]
            gone = oldest.read_bytes().count(b"\tt\t")
            assert gone > 0
            hub.stop()
            oldest.unlink()
            hub.start()
            del events[:gone]
        yield hub, "&type=t" if request.param == "typed" else "", events


@pytest.mark.files("segments")
def test_a_search_finds_all_though_ids_repeat_and_more_match_than_are_shown_at_once(
    haystack: tuple[Hub, str, list[tuple[str, str]]], context: BrowserContext
) -> None:
    hub, type, events = haystack
    person = Person(context, hub)
    wanted = [data[:400] for _, data in events]
    person.visit(f"?channel=haystack{type}&text=EVENT")
    eventually(lambda: person.data)
    person.page.locator("#events").hover()

    def has_all() -> bool:
        person.page.mouse.wheel(0, -100_000)
        above = person.text("#above")
        return "begins here" in above or "Older events were removed" in above

    eventually(has_all, seconds=60)  # 24 steps of 200 rows
    shown = person.data
    assert shown == wanted[: len(shown)]
    person.leave()


def test_a_search_says_how_far_it_is_and_stops_when_it_is_told_to(person: Person) -> None:
    hay = rows_of(45_000, padding=" " + "x" * 1000)
    person.hub.put("stopped", "first\t\ta Needle\n" + hay + "last\t\tneedles\n")
    page = person.page
    person.visit("?channel=stopped&text=needle")
    more = page.get_by_role("button", name=re.compile("Search all .* before"))
    more.wait_for()
    before = person.text("#above")
    held: list[Route] = []
    page.context.route("**/stopped", lambda route: held.append(route))
    more.click()
    stop = page.get_by_role("button", name="Stop")
    stop.wait_for()
    assert "0 found" in person.text("#above")
    bar = page.get_by_role("progressbar", name="How much is read")
    assert bar.is_visible()

    def asked() -> list[Route]:
        page.wait_for_timeout(50)
        return [route for route in held if route.request.method == "GET"]

    eventually(asked)
    assert bar.evaluate("bar => bar.value") == 0
    asked()[-1].continue_()  # and the next part is held
    eventually(lambda: len(asked()) == 2 and 0 < bar.evaluate("bar => bar.value") < 1)
    stop.click()
    more.wait_for()
    assert not bar.is_visible()
    assert person.text("#above") != before  # what was looked through is not looked through again
    page.context.unroute_all(behavior="ignoreErrors")
    person.sees("needles")
    more.click()
    person.sees("a Needle", "needles")


# -- jump ----------------------------------------------------------------------------------------


@pytest.fixture(params=["whole", "trimmed"])
def long_channel(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Hub, int]]:
    """A hub with the channel `history` of 6000 events, and which is the first that is kept."""
    with running_hub(tmp_path, ESOURCE_KEEP="history/segment=1M") as hub:
        first = 0
        for n in range(0, 6000, 500):
            rows = rows_of(500, n, padding=" " + "x" * 500)
            assert (
                hub.post("/history", rows, Content_Type="text/tab-separated-values").status == 201
            )
        if request.param == "trimmed":
            oldest = sorted(hub.folder.glob("history.*.tsv"))[0]
            first = len(oldest.read_bytes().splitlines())
            assert first > 0
            hub.stop()
            oldest.unlink()
            hub.start()
        yield hub, first


@pytest.mark.files("segments")
def test_a_jump_leads_to_an_event_and_from_there_to_both_ends(
    long_channel: tuple[Hub, int], context: BrowserContext
) -> None:
    hub, first = long_channel
    person = Person(context, hub)
    page = person.page
    page.goto(f"{hub.url}/?channel=history#003000")
    page.wait_for_selector(".row[aria-expanded=true]")
    assert page.locator(".row[aria-expanded=true] .id").get_attribute("title") == "003000"
    person.wait_for_state("past")
    numbers = [int(id) for id, _, _ in person.rows]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    shown = [row.split(b"\t")[0] for row in printed(person.line("view-curl"))]
    assert shown == [id.encode() for id, _, _ in person.rows]
    page.locator("#events").hover()

    def follows() -> bool:
        page.mouse.wheel(0, 100_000)
        numbers = [int(id) for id, _, _ in person.rows]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        return person.page.locator("#state[data-state=open]").count() > 0

    eventually(follows)
    hub.publish("/history?id=006000", "new")

    def is_at_the_end() -> bool:
        page.mouse.wheel(0, 100_000)
        return person.rows[-1][0] == "006000"

    eventually(is_at_the_end)
    page.locator("#events").hover()
    page.get_by_role("button", name="To the beginning").click()
    eventually(lambda: person.rows and int(person.rows[0][0]) == first)
    said = "Older events were removed" if first else "The channel begins here"
    eventually(lambda: said in person.text("#above"))
    page.locator("#jump-to").fill("nothing-like-it")
    page.keyboard.press("Enter")
    person.forgiven = "400"
    eventually(lambda: "no event 'nothing-like-it'" in person.text("#above"))
    page.locator("#text").fill(f"event {first + 7} ")
    eventually(lambda: [id for id, _, _ in person.rows] == [f"{first + 7:06}"])
    person.leave()


def test_times_are_local_and_days_are_told_apart(browser: Browser, hub: Hub) -> None:
    ids = ["2026-01-30T22:59:59.5Z", "2026-01-30T23:00:00Z", "2026-02-01T12:00:00Z"]
    hub.put("days", "".join(f"{id}\t\t{n}\n" for n, id in enumerate(ids)))
    context = browser.new_context(timezone_id="Europe/Berlin")
    person = Person(context, hub)
    person.visit("?channel=days")
    person.sees("0", "1", "2")
    times = person.page.locator(".row .id")
    assert times.all_text_contents() == ["23:59:59.500", "00:00:00.000", "13:00:00.000"]
    days = person.page.locator("#rows li").evaluate_all("rows => rows.map(row => row.dataset.day)")
    assert [day.split()[-3:] for day in days] == [
        ["30", "January", "2026"], ["31", "January", "2026"], ["1", "February", "2026"],
    ]  # fmt: skip
    newest = hub.publish("/days", "now")
    person.page.select_option("#times", "ago")
    eventually(lambda: re.fullmatch(r"now|\d+ s ago", times.last.text_content() or ""))
    person.page.select_option("#times", "id")
    assert times.all_text_contents() == [*ids, newest]
    person.page.locator("#wrap").click()
    person.page.locator("#jump-to").fill("2026-01-31")  # local, too
    person.page.keyboard.press("Enter")
    wanted = "#2026-01-30T23%3A00%3A00.000Z"
    eventually(lambda: person.page.evaluate("location.hash") == wanted)
    person.sees("0", "1", "2", "now")
    person.visit("?channel=days")  # what a person likes is kept
    person.sees("0", "1", "2", "now")
    assert times.all_text_contents() == [*ids, newest]
    assert person.page.locator("#wrap[aria-pressed=true]").count() == 1
    person.leave()
    context.close()


# -- several channels, and tabs ------------------------------------------------------------------


def test_several_channels_are_shown_in_one_view(own_person: Person) -> None:
    hub, page = own_person.hub, own_person.page
    hub.publish("/orders?event=placed", "tea")
    hub.publish("/app-log", "GET /")
    hub.publish("/others", "x")
    own_person.visit("?channel=orders")
    page.get_by_role("button", name="Show app-log as well").click()
    own_person.wait_for_state("open")
    eventually(lambda: sorted(own_person.data) == ["GET /", "tea"])
    assert sorted(type for _, type, _ in own_person.rows) == ["app-log ", "orders placed"]
    hub.publish("/orders", "cake")
    eventually(lambda: own_person.data[-1] == "cake")
    hub.kill()
    own_person.wait_for_state("reconnecting")
    hub.start()
    hub.publish("/app-log", "GET /cake")
    eventually(lambda: own_person.data[-1] == "GET /cake")
    assert len(own_person.data) == 4
    found = [json.loads(line)["data"] for line in printed(own_person.line("view-curl"))]
    assert sorted(found) == sorted(own_person.data)
    page.locator("#text").fill("cake")
    eventually(lambda: sorted(own_person.data) == ["GET /cake", "cake"])
    page.get_by_role("button", name="Show orders as well", pressed=True).click()
    own_person.sees("GET /cake")
    assert page.title() == "app-log – esource"


def test_a_hidden_tab_lets_go_of_its_stream_and_goes_on_where_it_was(
    own_hub: Hub, context: BrowserContext
) -> None:
    def subscribers() -> int:
        channels = json.loads(own_hub.get("/-/channels?format=json").body)["channels"]
        return sum(channel["subscribers"] for channel in channels)

    own_hub.publish("/orders", "1")
    own_hub.publish("/deploys", "1")
    people = []
    for n in range(7):  # more than a browser has connections to a hub
        person = Person(context, own_hub)
        person.page.add_init_script(HIDE)
        if n == 6:
            person.page.goto(f"{own_hub.url}/?channel=orders&channel=deploys")
        else:
            person.visit("?channel=orders")
        person.wait_for_state("open")
        person.page.evaluate("hide(true)")
        person.wait_for_state("asleep")
        people.append(person)
    eventually(lambda: subscribers() == 0)
    own_hub.publish("/orders", "2")
    for person in (people[0], people[6]):
        seen = len(person.data)
        person.page.evaluate("hide(false)")
        eventually(lambda person=person, seen=seen: len(person.data) == seen + 1)  # type: ignore[misc]
        assert person.data[-1] == "2"
    for person in people:
        person.leave()


# -- taking it along -----------------------------------------------------------------------------


def test_an_event_is_copied_in_five_ways_and_its_link_leads_to_it(
    context: BrowserContext, hub: Hub
) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    person = Person(context, hub)
    hub.publish("/copies?id=a%20%231&event=t", "it's\ntwo")
    hub.publish("/copies", "last")
    person.visit("?channel=copies")
    person.page.locator(".row").first.click()

    def copied(name: str) -> str:
        person.page.get_by_role("button", name=f"Copy {name}").click()
        return str(person.page.evaluate("navigator.clipboard.readText()"))

    assert copied("data") == "it's\ntwo"
    assert copied("row").encode() == hub.rows("copies")[0]
    assert copied("id") == "a #1"
    line = copied("curl").replace("/copies", "/again")
    subprocess.run(["bash", "-c", line], check=True, capture_output=True)
    assert hub.rows("again") == hub.rows("copies")[:1]
    person.page.goto("about:blank")
    link = f"{hub.url}/?channel=copies#a%20%231"
    person.page.goto(link)
    person.page.wait_for_selector(".row[aria-expanded=true]")
    assert copied("link") == link
    assert person.page.locator(".row[aria-expanded=true] .text").text_content() == "it's ↵ two"
    person.leave()


def test_what_is_filtered_is_exported_whole_in_three_forms(person: Person) -> None:
    hub, page = person.hub, person.page
    rows = "".join(f'{n:05}\tt{n % 2}\tevent {n}, "x"\v\n' for n in range(20_000))
    long = "long\tt0\t" + "x" * (2 << 20) + "\n"  # which no browser reads in one piece
    hub.put("exported", long + rows)
    person.visit("?channel=exported")

    def export(form: str) -> bytes:
        with page.expect_download() as waiting:
            page.select_option("#export", form)
        download: Download = waiting.value
        assert download.suggested_filename == f"exported.{form}"
        return download.path().read_bytes()

    is_whole = export("tsv") == hub.content("exported")
    assert is_whole  # of megabytes pytest would say for minutes what is not
    page.wait_for_selector("#type option[value='named:t1']", state="attached")
    page.select_option("#type", "named:t1")
    page.locator("#text").fill("EVENT 1")
    wanted = [n for n in range(20_000) if n % 2 and str(n).startswith("1")]
    eventually(lambda: page.evaluate("location.search").endswith("text=EVENT+1"))
    lines = [json.loads(line) for line in export("ndjson").splitlines()]
    assert [line["id"] for line in lines] == [f"{n:05}" for n in wanted]
    assert lines[0] == {"id": "00001", "event": "t1", "data": 'event 1, "x"\n'}
    table = export("csv").decode()
    assert table.startswith('id,event,data\r\n00001,t1,"event 1, ""x""\n"\r\n')
    assert "Exported" in person.text("#exported")


def test_keys_work_wherever_one_is(person: Person) -> None:
    hub, page, press = person.hub, person.page, person.page.keyboard.press
    hub.put("keys", rows_of(300))
    person.visit("?channel=keys")
    eventually(lambda: person.rows)
    focused = "document.activeElement.querySelector('.id')?.title"
    for key, id in (("k", "000298"), ("k", "000297"), ("j", "000298")):
        press(key)
        assert page.evaluate(focused) == id
    press("?")
    page.wait_for_selector("dialog[open]")
    press("Escape")
    press("g")
    eventually(lambda: person.rows and person.rows[0][0] == "000000")
    press("n")
    eventually(lambda: person.rows and person.rows[-1][0] == "000299")
    person.wait_for_state("open")
    press("/")
    page.keyboard.type("event 7?jk")  # is text there
    assert page.locator("#text").input_value() == "event 7?jk"


@pytest.mark.files("segments")
def test_the_hub_says_its_version_and_health_and_a_history_its_segments(
    long_channel: tuple[Hub, int], context: BrowserContext
) -> None:
    hub, _ = long_channel
    person = Person(context, hub)
    person.visit("?channel=history")
    eventually(lambda: person.text("#health") == "Healthy")
    eventually(lambda: person.text("#version") == f"esource {__version__}")
    link = person.page.get_by_role("link", name="Docs")
    links = metadata("esource").get_all("Project-URL") or []
    assert f"Documentation, {link.get_attribute('href')}" in links
    assert link.get_attribute("rel") == "noreferrer"
    files = sorted(hub.folder.glob("history.[0-9]*.tsv"))
    eventually(lambda: person.text("#segments") == str(len(files)))
    kept = sum(file.stat().st_size for file in files)
    eventually(lambda: person.text("#size") == f"{kept / 1e6:.1f} MB")
    person.leave()
