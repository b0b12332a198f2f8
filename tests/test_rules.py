"""The rules of `ESOURCE_KEEP`: what is kept of which channels."""

from pathlib import Path

import pytest

from esource.rules import SEGMENT_BYTES, Rule, parse, rule_of
from tests.harness import PATIENCE_SECONDS, Hub

M, G, DAY = 1 << 20, 1 << 30, 86_400


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("orders/age=30d", [Rule("orders", age=30 * DAY)]),
        ("*/age=1h", [Rule("*", age=3600)]),
        ("a-*_z/age=2w", [Rule("a-*_z", age=14 * DAY)]),
        ("app*/age=10y", [Rule("app*", age=3650 * DAY)]),
        ("orders/segment=1M", [Rule("orders", segment=M)]),
        ("orders/size=1G", [Rule("orders", size=G, segment=G // 10)]),
        ("orders/size=5M", [Rule("orders", size=5 * M, segment=M)]),
        ("orders/size=1T", [Rule("orders", size=1 << 40, segment=SEGMENT_BYTES)]),
        ("orders/size=1G,segment=2G", [Rule("orders", size=G, segment=2 * G)]),
        (
            "app-*/age=30d,size=10G:metrics-*/age=7d:orders/segment=1G",
            [
                Rule("app-*", 30 * DAY, 10 * G), Rule("metrics-*", 7 * DAY),
                Rule("orders", segment=G),
            ],
        ),
    ],
)  # fmt: skip
def test_good_rules(text: str, rules: list[Rule]) -> None:
    assert list(parse(text)) == rules


BAD = [
    "orders", "orders/", "/age=1d", "or.ders/age=1d", "or?ers/age=1d", "[a]/age=1d", "a b/age=1d",
    "orders/age", "orders/age=", "orders/age=0d", "orders/age=1", "orders/age=d", "orders/age=1m",
    "orders/age=30D", "orders/age=-1d", "orders/age=1.5d", "orders/age=1 d", "orders/age=1234567d",
    "orders/age=٣d", "orders/age=1d,", "orders/age=1d,age=2d", "orders/size=1K", "orders/size=0G",
    "orders/segment=1k", "orders/sise=1G", "orders/Age=1d", "orders/age=1d:", ":orders/age=1d",
    "orders/age=1d;size=1G", "orders/age=1d size=1G", "orders/age=1d\n",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_bad_rules_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="rules such as") as error:
        parse(f"good/age=1d:{text}" if ":" not in text else text)
    bad = next((each for each in text.split(":") if each != "orders/age=1d"), text)
    assert repr(bad) in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "names", "others"),
    [
        ("orders", ["orders"], ["orders2", "my-orders", "order"]),
        ("app-*", ["app-", "app-x", "app-x-y"], ["app", "my-app-x"]),
        ("*-eu", ["a-eu", "-eu"], ["a-eu-2"]),
        ("a*b*c", ["abc", "a-b-c", "abbbc"], ["acb", "abcd"]),
        ("*", ["orders", "-"], []),
    ],
)
def test_which_channels_a_pattern_matches(
    pattern: str, names: list[str], others: list[str]
) -> None:
    rule = Rule(pattern)
    assert [name for name in [*names, *others] if rule.matches(name)] == names


def test_of_two_rules_that_match_the_first_counts() -> None:
    rules = parse("app-audit/age=10y:app-*/age=30d:*/age=90d")
    found = [rule_of(rules, name) for name in ("app-audit", "app-web", "orders")]
    assert [rule and rule.age for rule in found] == [3650 * DAY, 30 * DAY, 90 * DAY]
    assert rule_of(rules[:2], "orders") is None
    assert rule_of(parse("*/age=90d:app-*/age=30d"), "app-web") == Rule("*", age=90 * DAY)


def test_a_typo_stops_the_start_with_a_line_that_names_it(tmp_path: Path) -> None:
    hub = Hub(tmp_path, ESOURCE_KEEP="app-*/age=30d:orders/sise=10G")
    assert hub.launch().wait(PATIENCE_SECONDS) != 0
    [line] = hub.log.splitlines()
    assert "ESOURCE_KEEP" in line
    assert "'orders/sise=10G' is none: 'sise' is none of age, size, segment" in line
