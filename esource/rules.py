"""How much of a channel's history is kept, and in what pieces: the rules of `ESOURCE_KEEP`.

    app-*/age=30d,size=10G:metrics-*/age=7d:orders/segment=1G

The first rule whose pattern matches a channel's name counts; without one a channel is one file that
only grows.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

SEGMENT_BYTES = 1 << 28  # if a rule does not say
PARTS = 10  # of what a rule keeps a segment is at most so small a part, in bytes and in time
_SECONDS = {"h": 3600, "d": 86_400, "w": 7 * 86_400, "y": 365 * 86_400}
_BYTES = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_UNITS = {"age": _SECONDS, "size": _BYTES, "segment": _BYTES}


class Rule(NamedTuple):
    """What is kept of the channels whose names match a pattern."""

    pattern: str  # in which `*` stands for anything
    age: int | None = None  # seconds; older events need not be kept
    size: int | None = None  # bytes; what goes beyond need not be kept
    segment: int = SEGMENT_BYTES  # bytes, at which a segment is closed

    @property
    def segment_age(self) -> float | None:
        """How old the first event of a segment may be, in seconds, before that is closed."""
        return None if self.age is None else self.age / PARTS

    def matches(self, name: str) -> bool:
        """Return whether this rule is for a channel."""
        parts = map(re.escape, self.pattern.split("*"))
        return bool(re.fullmatch(".*".join(parts), name))


def parse(text: str) -> tuple[Rule, ...]:
    """Return the rules that a text has; raise `ValueError`, whose text names a bad one."""
    return tuple(_rule(each) for each in text.split(":")) if text else ()


def rule_of(rules: Sequence[Rule], name: str) -> Rule | None:
    """Return the rule for a channel, if there is one."""
    return next((rule for rule in rules if rule.matches(name)), None)


def amount(key: str, text: str) -> int:
    """Return how much `30d` or `10G` is, in seconds or bytes; raise `ValueError`.

    `key` is `age`, `size` or `segment`.
    """
    units = _UNITS[key]
    number = re.fullmatch(rf"([1-9][0-9]{{0,5}})([{''.join(units)}])", text)
    if not number:
        least = next(iter(units))
        raise ValueError(f"{key} is a number with one of {' '.join(units)}, from 1{least} on")
    return int(number[1]) * units[number[2]]


def _rule(text: str) -> Rule:
    pattern, slash, rest = text.partition("/")
    if not slash or not re.fullmatch(r"[A-Za-z0-9_*-]+", pattern):
        raise ValueError(_bad(text, "no PATTERN/KEY=VALUE,…"))
    found: dict[str, int] = {}
    for pair in rest.split(","):
        key, _, value = pair.partition("=")
        if key not in _UNITS:
            raise ValueError(_bad(text, f"{key!r} is none of {', '.join(_UNITS)}"))
        if key in found:
            raise ValueError(_bad(text, f"it has {key} twice"))
        try:
            found[key] = amount(key, value)
        except ValueError as error:
            raise ValueError(_bad(text, str(error))) from None
    if "size" in found:
        least = _BYTES["M"]
        found.setdefault("segment", max(least, min(found["size"] // PARTS, SEGMENT_BYTES)))
    return Rule(pattern, **found)


def _bad(text: str, why: str) -> str:
    return f"rules such as app-*/age=30d,size=10G with colons in between; {text!r} is none: {why}"
