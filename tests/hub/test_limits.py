from pathlib import Path
from types import SimpleNamespace

import pytest

from esource.errors import Busy
from esource.hub import limits
from esource.hub.limits import QUIET_SECONDS, Limit
from tests.harness import Stream, running_hub


def test_an_operator_is_reminded_of_a_limit_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda: now))
    rooms, guests = Limit("max_channels", 3), Limit("max_subscribers", 4)

    def refused(limit: Limit) -> None:
        with pytest.raises(Busy, match="no room") as error:
            limit.refuse("no room")
        assert error.value.seconds == 10

    line = "ESOURCE_MAX_CHANNELS is 3, and as many there are: more are refused"
    for _ in range(1000):
        refused(rooms)
    assert caplog.messages == [line]
    refused(guests)
    assert len(caplog.messages) == 2
    now = QUIET_SECONDS - 1
    refused(rooms)
    assert len(caplog.messages) == 2
    now = QUIET_SECONDS
    refused(rooms)
    assert caplog.messages[2:] == [line]


def test_the_log_says_which_limit_refuses(tmp_path: Path) -> None:
    settings = {"ESOURCE_MAX_SUBSCRIBERS": "2", "ESOURCE_MAX_CHANNELS": "1"}
    with running_hub(tmp_path, **settings) as hub:
        hub.publish("/orders", "x")
        with Stream(hub, "/orders"), Stream(hub, "/orders"):
            assert "[WARNING]" not in hub.log
            for _ in range(5):
                assert hub.get("/orders?follow=1").status == 503
                assert hub.post("/others", "x").status == 503
        warnings = [line.partition("[WARNING] ")[2] for line in hub.log.splitlines()]
        assert sorted(filter(None, warnings)) == [
            "ESOURCE_MAX_CHANNELS is 1, and as many there are: more are refused",
            "ESOURCE_MAX_SUBSCRIBERS is 2, and as many there are: more are refused",
        ]
