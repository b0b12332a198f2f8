"""What others send."""

from tests.harness import eventually
from tests.page.person import Person

MARKUP = [
    "<script>window.broken = 1</script>",
    "<img src=x onerror='window.broken = 1'>",
    "</span></li></ol><style>body { display: none }</style>",
    "<a href=javascript:alert(1)>click</a> &amp; &lt;b&gt;",
    "<iframe src=//example.org></iframe>",
]


def test_an_event_full_of_markup_is_shown_as_text(person: Person) -> None:
    script = person.page.evaluate("s => encodeURIComponent(s)", MARKUP[0])
    person.visit("?channel=markup")
    shown = person.page.locator("#rows *, #type *")  # the list of channels changes by itself
    elements = shown.count()
    for data in MARKUP:
        person.hub.publish(f"/markup?event={script}&id={script}", data)
    person.sees(*MARKUP)
    assert person.rows[0][:2] == (MARKUP[0], MARKUP[0])
    for row in range(len(MARKUP)):
        person.page.locator(".row").nth(row).click()
    details = person.page.locator(".detail pre").all_text_contents()
    assert sorted(details) == sorted(MARKUP)
    options = person.page.locator("#type option")
    eventually(lambda: MARKUP[0] in options.all_text_contents())
    # Five elements for a row, and twelve for its detail, in which five buttons copy; the option.
    assert shown.count() <= elements + len(MARKUP) * 17 + 1
    assert person.page.locator("#rows :is(script, img, style, a, iframe)").count() == 0
    assert person.page.evaluate("window.broken") is None


def test_an_address_full_of_markup_is_shown_as_text(person: Person) -> None:
    person.page.goto(f"{person.hub.url}/?channel=%3Cimg%20src=x%3E&type=%3Cb%3E&text=%3Cb%3E")
    eventually(lambda: person.text("#title") == "<img src=x>")
    eventually(lambda: "name is 4 to 64" in person.text("#above"))
    assert person.page.locator("#above button").is_hidden()  # trying again is of no use
    assert person.page.locator("#view :is(img, b)").count() == 0


def test_the_policy_stops_what_the_page_would_never_do(person: Person) -> None:
    """Should markup ever get in: no script, no style, no request to elsewhere."""
    person.forgiven = "Content Security Policy|violat|script-src|style-src|connect-src|Failed"
    person.visit()
    person.page.evaluate(
        """async () => {
          document.body.insertAdjacentHTML('beforeend', '<img src=x onerror="window.broken = 1">')
          const script = document.body.appendChild(document.createElement('script'))
          script.textContent = 'window.broken = 1'
          await fetch('http://127.0.0.1:1/').catch(() => {})
        }"""
    )
    eventually(lambda: person.page.evaluate("violations.length") >= 3)
    assert person.page.evaluate("window.broken") is None
    stopped = {name.removesuffix("-elem").removesuffix("-attr") for name in violations(person)}
    assert {"script-src", "connect-src"} <= stopped
    person.page.evaluate("violations.length = 0")
    person.forgiven = ""


def violations(person: Person) -> list[str]:
    found: list[str] = person.page.evaluate("violations")
    return found
