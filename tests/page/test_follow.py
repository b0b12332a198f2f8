"""A channel on the page: its events as they come, and those that were before."""

import re
import subprocess
import threading
import time
from contextlib import suppress
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Route

from tests.harness import Hub, Stream, eventually
from tests.page.person import Person

TSV = "text/tab-separated-values"
MOST_ROWS = 1000  # in the document
# The longest time in which the page did not paint: a bound on faults, on a busy machine.
FROZEN_MS = 3000


def fill(hub: Hub, channel: str, count: int, padding: str = "", first: int = 0) -> None:
    rows = "".join(f"{n:06}\t\tevent {n}{padding}\n" for n in range(first, first + count))
    assert hub.post(f"/{channel}", rows, Content_Type=TSV).status == 201


def publish_as_typed(hub: Hub, channel: str, *events: tuple[str, str]) -> None:
    for type, data in events:
        hub.publish(f"/{channel}?" + urlencode({"event": type}), data)


def test_events_appear_as_they_come_after_those_that_were_there(person: Person) -> None:
    publish_as_typed(person.hub, "live", ("", "one"), ("a type", "two"))
    person.visit("?channel=live")
    person.sees("one", "two")
    publish_as_typed(person.hub, "live", ("a new type", "three"), ("", ""))
    person.sees("one", "two", "three", "")
    assert [type for _, type, _ in person.rows] == ["", "a type", "a new type", ""]
    assert [id.encode() for id, _, _ in person.rows] == [
        row.split(b"\t")[0] for row in person.hub.rows("live")
    ]


def test_an_empty_channel_tells_how_to_make_its_first_event(person: Person) -> None:
    person.visit("?channel=nothing")
    person.page.wait_for_selector("#no-events")
    line = person.line("first-curl")
    assert line == f"curl -d 'one coffee' {person.hub.url}/nothing"
    subprocess.run(["bash", "-c", line], check=True, capture_output=True)
    person.sees("one coffee")
    assert person.page.locator("#no-events").is_hidden()


@pytest.mark.parametrize("end", ["restart", "kill"])
def test_the_browser_comes_back_by_itself_and_nothing_is_lost_or_doubled(
    own_person: Person, end: str
) -> None:
    hub = own_person.hub
    publish_as_typed(hub, "orders", *(("before", f"{n}") for n in range(20)))
    own_person.visit("?channel=orders")
    stop = threading.Event()

    def publish() -> None:
        n = 20
        while not stop.is_set():
            with suppress(OSError):  # there is no hub
                hub.publish(f"/orders?event=t{n % 7}", f"{n}")
            n += 1
            time.sleep(0.03)  # so that the page can show them all

    publisher = threading.Thread(target=publish)
    publisher.start()
    try:
        eventually(lambda: len(own_person.rows) > 50)
        for _ in range(2):
            hub.stop() if end == "restart" else hub.kill()
            own_person.wait_for_state("reconnecting")
            assert "Reconnecting" in own_person.text("#state")
            hub.start()
            own_person.wait_for_state("open")
    finally:
        stop.set()
        publisher.join()
    rows = [row.decode().split("\t") for row in hub.rows("orders")]
    assert len(rows) < MOST_ROWS
    eventually(lambda: len(own_person.rows) >= len(rows))
    assert own_person.rows == [tuple(row) for row in rows]
    assert own_person.page.evaluate("sources") == 1


def test_a_stream_over_the_limit_ends_and_the_browser_comes_back(own_person: Person) -> None:
    hub = own_person.hub
    hub.publish("/orders", "one")
    hub.stop()
    hub.environ["ESOURCE_MAX_SUBSCRIBERS"] = "1"
    hub.start()
    own_person.forgiven += "|503|MIME"
    with Stream(hub, "/orders"):
        assert hub.get("/orders?follow=1&timeout=0").status == 503
        own_person.page.goto(f"{hub.url}/?channel=orders")
        own_person.wait_for_state("reconnecting")  # in half a minute: it is told so, and no 503
        own_person.sees("one")
    own_person.page.reload()
    own_person.wait_for_state("open")
    hub.publish("/orders", "two")
    own_person.sees("one", "two")


def test_ids_that_come_twice_are_not_shown_twice(person: Person) -> None:
    rows = "same\t\t1\nsame\t\t2\n\t\twithout id\nsame\t\t3\n"
    person.hub.put("twice", rows)
    streams: list[str] = []
    person.page.on("request", lambda asked: streams.append(asked.url))
    person.visit("?channel=twice")
    person.sees("1", "2", "without id", "3")
    person.hub.publish("/twice?id=same", "4")
    person.sees("1", "2", "without id", "3", "4")
    assert sum("sse-json" in url for url in streams) == 1, "it was read anew to see that"


@pytest.mark.parametrize("count", [50, 20_000])
def test_ids_that_repeat_throughout_a_channel_are_read_once(own_person: Person, count: int) -> None:
    hub = own_person.hub
    rows = [f"{n % 7}\t\tevent {n}\n" for n in range(count)]
    hub.put("repeated", "".join(rows))
    own_person.visit("?channel=repeated")
    eventually(lambda: own_person.data)

    def are_the_last() -> bool:
        data = own_person.data
        return data == [row.split("\t")[2][:-1] for row in rows[-len(data) :]]

    assert are_the_last()
    for n in range(count, count + 3):
        rows.append(f"{n % 7}\t\tevent {n}\n")
        hub.publish(f"/repeated?id={n % 7}", f"event {n}")
    eventually(lambda: own_person.data[-1] == f"event {count + 2}")
    assert are_the_last()
    hub.kill()
    own_person.wait_for_state("reconnecting")
    hub.start()
    own_person.wait_for_state("open")
    eventually(lambda: own_person.data)
    rows.append("7\t\tlast\n")
    hub.publish("/repeated?id=7", "last")
    eventually(lambda: own_person.data[-1] == "last")
    assert are_the_last()


def test_what_a_stream_sends_again_after_a_break_is_left_out(own_person: Person) -> None:
    hub = own_person.hub
    hub.publish("/again?id=before", "0")
    own_person.visit("?channel=again")
    for n in range(1, 4):  # the hub goes on after the first of them
        hub.publish("/again?id=same", f"{n}")
    own_person.sees("0", "1", "2", "3")
    hub.kill()
    own_person.wait_for_state("reconnecting")
    hub.start()
    own_person.wait_for_state("open")
    hub.publish("/again?id=same", "4")
    own_person.sees("0", "1", "2", "3", "4")
    assert own_person.page.evaluate("sources") == 1


def test_a_busy_channel_is_not_taken_for_one_that_was_moved_away(person: Person) -> None:
    def measure(route: Route) -> None:
        if route.request.method != "HEAD":
            return route.fallback()
        response = route.fetch()
        seen = len(person.data)
        person.hub.publish("/busy", "more")  # while the answer is on its way
        eventually(lambda: len(person.data) > seen)
        measured.append(route.request.url)
        route.fulfill(response=response)
        return None

    measured: list[str] = []
    streams: list[str] = []
    person.hub.publish("/busy", "one")
    person.visit("?channel=busy")
    person.page.on("request", lambda asked: streams.append(asked.url))
    person.page.route(re.compile("/busy"), measure)
    for _ in range(3000):
        person.page.wait_for_timeout(10)
        if len(measured) > 4:
            break
    assert len(measured) > 4
    person.page.unroute(re.compile("/busy"))
    assert not [url for url in streams if "sse-json" in url]


def test_a_channel_without_any_ids_is_shown_too(person: Person) -> None:
    person.hub.put("nameless", "\t\t1\n\t\t2\nno event\n")
    person.visit("?channel=nameless")
    person.sees("1", "2")
    person.hub.publish("/nameless?id=3", "3")
    person.sees("1", "2", "3")


def test_ids_beyond_ascii_are_followed_too(person: Person) -> None:
    person.hub.publish("/unicode?id=gr%C3%BC%C3%9Fe", "1")
    person.visit("?channel=unicode")
    person.hub.publish("/unicode?id=%F0%9F%9B%A9", "2")
    person.sees("1", "2")
    assert [id for id, _, _ in person.rows] == ["grüße", "🛩"]


def test_a_file_that_is_moved_away_is_noticed(own_person: Person) -> None:
    fill(own_person.hub, "rotated", 50)
    own_person.visit("?channel=rotated")
    eventually(lambda: len(own_person.rows) == 50)
    own_person.hub.take_away("rotated")
    own_person.hub.publish("/rotated?id=new", "the first of the new file")
    eventually(lambda: own_person.rows[-1][0] == "new")
    eventually(lambda: len(own_person.rows) == 1)


# -- history -------------------------------------------------------------------------------------


def scroll_to_the_beginning(person: Person) -> None:
    """Scroll up until the page says that the channel begins there."""
    person.page.locator("#events").hover()

    def is_there() -> bool:
        person.page.mouse.wheel(0, -100_000)
        return "begins here" in person.text("#above")

    eventually(is_there)


def test_scrolling_up_reads_history_without_a_gap_and_down_again_follows(person: Person) -> None:
    hub = person.hub
    fill(hub, "history", 4000, padding=" " + "x" * 40)
    person.visit("?channel=history")
    eventually(lambda: person.rows and person.rows[-1][0] == "003999")
    fill(hub, "history", 300, first=4000)
    eventually(lambda: person.rows[-1][0] == "004299")
    scroll_to_the_beginning(person)
    ids = [int(id) for id, _, _ in person.rows]
    assert ids == list(range(len(ids)))
    assert len(ids) <= MOST_ROWS
    hub.publish("/history?id=the-newest", "new")
    assert person.rows[0][0] == "000000"  # who reads is not disturbed

    def is_at_the_end() -> bool:
        person.page.mouse.wheel(0, 100_000)
        ids = [id for id, _, _ in person.rows]
        numbers = [int(id) for id in ids if id != "the-newest"]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        return ids[-1] == "the-newest"

    eventually(is_at_the_end)

    def follows() -> bool:
        person.page.mouse.wheel(0, 100_000)  # what was added last is below the end of before
        return person.page.locator("#jump").is_hidden()

    eventually(follows)
    hub.publish("/history?id=follows", "again")
    eventually(lambda: person.rows[-1][0] == "follows")


def test_history_beyond_what_is_kept_can_be_read_and_left_again(person: Person) -> None:
    fill(person.hub, "long", 12_000)
    person.visit("?channel=long")
    scroll_to_the_beginning(person)
    ids = [int(id) for id, _, _ in person.rows]
    assert ids == list(range(len(ids)))
    person.page.locator("#jump").click()
    eventually(lambda: person.rows and person.rows[-1][0] == "011999")


def test_events_of_a_megabyte_are_read_too(person: Person) -> None:
    for n in range(4):
        person.hub.publish(f"/large?id=l{n}", "x" * ((1 << 20) - 1))
    person.visit("?channel=large")
    eventually(lambda: [id for id, _, _ in person.rows] == ["l0", "l1", "l2", "l3"])
    assert "begins here" in person.text("#above")


def test_the_line_for_the_shell_prints_what_is_on_the_screen(person: Person) -> None:
    fill(person.hub, "shell", 3000, padding=" " + "x" * 40)
    person.visit("?channel=shell")
    eventually(lambda: person.rows)

    def shown() -> list[bytes]:
        return [id.encode() for id, _, _ in person.rows]

    line = person.line("view-curl")
    assert line == f"curl -sN '{person.hub.url}/shell?tail={len(shown())}&follow=1'"
    assert [row.split(b"\t")[0] for row in printed(line)] == shown()
    publish_as_typed(person.hub, "shell", ("grün", "two\nlines"), ("", "🛩"), ("", ""))
    eventually(lambda: person.data[-1] == "")
    eventually(lambda: f"tail={len(person.rows)}&" in person.line("view-curl"))
    assert [row.split(b"\t")[0] for row in printed(person.line("view-curl"))] == shown()
    person.page.locator("#events").hover()
    person.page.mouse.wheel(0, -1000)
    eventually(lambda: " -r " in person.line("view-curl"))
    eventually(lambda: person.page.locator("#events").get_attribute("aria-busy") == "false")
    assert [row.split(b"\t")[0] for row in printed(person.line("view-curl"))] == shown()


def test_under_a_text_the_line_prints_what_is_on_the_screen_too(person: Person) -> None:
    fill(person.hub, "lines", 3000)
    for n in range(3):
        fill(person.hub, "lines", 100)
        person.hub.publish(f"/lines?id=n{n}", "a needle")
    fill(person.hub, "lines", 2500)
    person.visit("?channel=lines&text=needle")
    person.sees(*3 * ["a needle"])
    eventually(lambda: "begins here" in person.text("#above"))
    found = [b"n0", b"n1", b"n2"]
    assert [row.split(b"\t")[0] for row in printed(person.line("view-curl"))] == found
    person.visit("?channel=lines&text=event+2")  # more than there is room for
    eventually(lambda: len(person.rows) >= 200)
    fill(person.hub, "lines", 3)
    eventually(lambda: person.data[-1] == "event 2")
    shown = [id.encode() for id, _, _ in person.rows]
    assert [row.split(b"\t")[0] for row in printed(person.line("view-curl"))] == shown


def printed(line: str) -> list[bytes]:
    """Run a line that may go on for ever; return the lines that it prints."""
    run = subprocess.run(["timeout", "2", "bash", "-c", line], capture_output=True, check=False)
    return run.stdout.split(b"\n")[:-1]


# -- what is shown -------------------------------------------------------------------------------


def test_by_type_only_events_of_that_type_are_asked_for(person: Person) -> None:
    asked: list[str] = []
    person.page.on("request", lambda request: asked.append(request.url))
    publish_as_typed(person.hub, "typed", ("a", "1"), ("b", "2"), ("", "3"), ("a", "4"))
    person.visit("?channel=typed")
    person.sees("1", "2", "3", "4")
    person.page.wait_for_selector("#type option[value='named:b']", state="attached")
    person.page.select_option("#type", "named:a")
    person.sees("1", "4")
    publish_as_typed(person.hub, "typed", ("b", "5"), ("a", "6"))
    person.sees("1", "4", "6")
    assert any("format=sse-json" in url and "event=a" in url for url in asked)
    assert printed(person.line("view-curl"))[-1].endswith(b"\ta\t6")
    person.page.select_option("#type", "none")
    person.sees("3")
    person.page.select_option("#type", "other")
    person.page.locator("#other").fill("c")
    person.page.locator("#other").press("Enter")
    person.page.wait_for_selector("#no-events")
    publish_as_typed(person.hub, "typed", ("c", "7"), ("a", "8"))
    person.sees("7")
    assert person.page.url.endswith("?channel=typed&type=c")
    person.page.go_back()
    person.sees("3")


def test_by_text_only_events_that_hold_it_are_shown(person: Person) -> None:
    publish_as_typed(person.hub, "texts", ("", "a Needle"), ("", "hay"), ("needles", "-"))
    person.visit("?channel=texts")
    person.page.locator("#text").fill("needle")
    person.sees("a Needle", "-")
    publish_as_typed(person.hub, "texts", ("", "more hay"), ("", "it's a NEEDLE"))
    person.sees("a Needle", "-", "it's a NEEDLE")
    person.page.locator("#text").fill("it's")
    person.sees("it's a NEEDLE")
    assert [row.split(b"\t")[2] for row in printed(person.line("view-curl"))] == [b"it's a NEEDLE"]


def test_a_search_goes_back_through_all_of_the_file(person: Person) -> None:
    person.hub.publish("/haystack?id=first", "needle")
    fill(person.hub, "haystack", 60_000, padding=" " + "x" * 150)  # more than is read at once
    person.visit("?channel=haystack&text=needle")
    person.sees("needle")


def test_a_search_that_finds_half_a_million_at_once_shows_them_in_steps(person: Person) -> None:
    hay = "".join(f"{n:06}\t\thay {'x' * 150}\n" for n in range(90_000))
    person.hub.put("needles", 500_000 * "\t\tneedle\n" + hay)
    person.visit("?channel=needles&text=needle")
    eventually(lambda: person.data)
    assert set(person.data) == {"needle"}
    assert len(person.data) <= MOST_ROWS
    assert person.page.get_by_role("button", name="Earlier events").is_visible()


def test_pause_holds_everything_still_and_says_what_is_missed(person: Person) -> None:
    person.hub.publish("/paused", "1")
    person.visit("?channel=paused")
    person.sees("1")
    person.page.locator("#pause").click()
    publish_as_typed(person.hub, "paused", ("", "2"), ("", "3"))
    eventually(lambda: person.text("#jump") == "2 newer ↓")
    assert person.data == ["1"]
    person.page.locator("#pause").click()
    person.sees("1", "2", "3")


def test_json_is_a_tree_and_no_digit_of_it_changes(person: Person) -> None:
    data = '{"n":12345678901234567890.10,"n":1e400,"list":[],"text":"{\\"a\\":[1,2]}"}'
    person.hub.publish("/json", data)
    person.visit("?channel=json")
    person.page.locator(".row").click()
    lines = person.page.locator(".json :is(summary, div:not(:has(div)))").all_text_contents()
    assert lines == [
        "{", '"n": 12345678901234567890.10,', '"n": 1e400,', '"list": [],',
        '"text": "{\\"a\\":[1,2]}"', "}",
    ]  # fmt: skip
    person.page.get_by_role("button", name="As a tree").click()
    assert person.page.locator(".detail pre").text_content() == data


# -- what is said about it ------------------------------------------------------------------------


def most_in_a_second(person: Person) -> int:
    """Return what the chart tells those who do not see it."""
    label = person.page.locator("#chart").get_attribute("aria-label") or ""
    return int(label.removeprefix("Events per second over the last minute: at most "))


def test_the_chart_tells_of_the_seconds_in_which_events_came(person: Person) -> None:
    bars = person.page.locator("#chart rect:not(.none)")
    fill(person.hub, "chart", 3)
    fill(person.hub, "chart-2", 1)
    person.visit("?channel=chart")
    eventually(lambda: person.text("#peak") == person.text("#rate") == "0/s")
    assert (most_in_a_second(person), bars.count()) == (0, 0)  # those from before do not count
    published = 0

    def has_a_rate() -> bool:
        nonlocal published
        fill(person.hub, "chart", 5, first=3 + published)
        published += 5
        return person.text("#rate") != "0/s"

    eventually(has_a_rate)
    eventually(lambda: person.text("#rate") == "0/s")  # that second is over, the minute is not
    most = most_in_a_second(person)
    assert 0 < most <= published
    assert float(person.text("#peak").removesuffix("/s")) == most
    heights = bars.evaluate_all("bars => bars.map(bar => bar.getBoundingClientRect().height)")
    chart = person.page.locator("#chart").bounding_box()
    assert chart
    assert max(heights) == chart["height"]
    person.page.locator("a[href='?channel=chart-2']").click()
    person.sees("event 0")
    assert (most_in_a_second(person), bars.count()) == (0, 0)


def test_what_has_not_arrived_yet_is_told_in_bytes_until_it_has(person: Person) -> None:
    streams: list[Route] = []  # asked for, and held back
    person.page.route(re.compile(r"/held\?format=sse-json"), lambda route: streams.append(route))
    person.hub.publish("/held?id=one", "1")
    person.page.goto(f"{person.hub.url}/?channel=held")
    eventually(lambda: person.text("#behind") == "0 B")
    before = len(person.hub.content("held"))
    fill(person.hub, "held", 3)
    missing = len(person.hub.content("held")) - before
    eventually(lambda: person.text("#behind") == f"{missing} B")
    assert person.data == ["1"]
    [stream] = streams
    stream.continue_()
    person.sees("1", "event 0", "event 1", "event 2")
    eventually(lambda: person.text("#behind") == "0 B")


def test_how_far_the_page_is_behind_is_told_in_bytes(person: Person) -> None:
    person.hub.publish("/behind?id=one", "grün")
    person.visit("?channel=behind")
    person.hub.publish("/behind?id=two", "x\ny")
    person.sees("grün", "x ↵ y")
    size = len(person.hub.content("behind"))
    eventually(lambda: person.text("#size") == f"{size} B")
    assert person.text("#behind") == "0 B"


# -- a flood -------------------------------------------------------------------------------------


def test_a_hundred_thousand_events_at_once_do_not_freeze_the_page(own_person: Person) -> None:
    person = own_person
    person.visit("?channel=flood")
    person.page.evaluate("longest = 0")
    sender = threading.Thread(target=fill, args=(person.hub, "flood", 100_000, " " + "x" * 60))
    sender.start()
    eventually(lambda: person.rows)
    person.page.locator("#pause").click()  # it answers in the middle of it
    person.page.wait_for_selector("#pause[aria-pressed=true]")
    person.page.locator("#pause").click()
    most = 0

    def is_over() -> bool:
        nonlocal most
        rows = person.page.locator(".row")
        most = max(most, rows.count())
        return rows.count() > 0 and rows.last.locator(".id").text_content() == "099999"

    eventually(is_over)
    sender.join()
    assert most <= MOST_ROWS
    assert person.page.evaluate("longest") < FROZEN_MS
    numbers = [int(id) for id, _, _ in person.rows]
    assert numbers == list(range(numbers[0], 100_000))
    person.page.locator("#events").hover()

    def has_more() -> bool:
        person.page.mouse.wheel(0, -100_000)
        oldest = person.page.locator(".row").first.locator(".id").text_content()
        return int(oldest or "0") < 93_900  # further back than what was kept

    eventually(has_more, seconds=60)  # 30 steps of 200 rows
    numbers = [int(id) for id, _, _ in person.rows]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@pytest.mark.parametrize("may_drop", [True, False])
def test_the_page_keeps_a_bounded_number_of_events(person: Person, may_drop: bool) -> None:
    person.visit()
    script = """async (mayDrop) => {
      const { Kept } = await import('/-/page/kept.js')
      const kept = new Kept()
      let most = 0
      for (let n = 0; n < 100000; n++) {
        kept.add({ n, size: 10 }, mayDrop)
        most = Math.max(most, kept.events.length)
      }
      return [most, kept.events.length + kept.missed + kept.first, kept.events.at(-1).n]
    }"""
    most, total, last = person.page.evaluate(script, may_drop)
    assert most <= 6001
    assert total == 100_000
    assert last == (99_999 if may_drop else most - 1)
