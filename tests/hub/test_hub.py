"""Names -> channels: which are refused, and how long each is held."""

import os
from pathlib import Path

import gevent
import pytest

from esource.config import Config
from esource.errors import BadInput
from esource.event import Event
from esource.hub.hub import Hub
from tests.harness.channels import publish


@pytest.mark.parametrize("name", ["abcd", "A-Z_09", "----", "a" * 64])
def test_names_of_channels(tmp_path: Path, name: str) -> None:
    assert Hub(Config(dir=tmp_path)).channel(name).name == name


@pytest.mark.parametrize(
    "name", ["", "abc", "a" * 65, "abcd\n", "ab/cd", "..", "abcd.", "äbcd", "ab cd", "abc\0"]
)
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="is not a channel name"):
        Hub(Config(dir=tmp_path)).channel(name)
    assert list(tmp_path.glob("*.tsv")) == []


def test_there_is_one_channel_of_a_name_for_as_long_as_anybody_holds_it(tmp_path: Path) -> None:
    hub = Hub(Config(dir=tmp_path))
    hub.keep_open = 100
    held = hub.channel("held")
    for n in range(hub.keep_open + 10):
        hub.channel(f"other{n}")
    assert hub.channel("held") is held


def test_channels_that_nobody_uses_are_closed(tmp_path: Path) -> None:
    hub = Hub(Config(dir=tmp_path))
    hub.keep_open = 100
    for n in range(hub.keep_open * 2):
        (tmp_path / f"channel{n}.tsv").write_text("1\t\tx\n")
    before = len(os.listdir("/proc/self/fd"))
    for n in range(hub.keep_open * 2):
        hub.channel(f"channel{n}")
    assert len(os.listdir("/proc/self/fd")) <= before + hub.keep_open + 1


def test_a_channel_that_is_opened_during_a_drain_drains_too(tmp_path: Path) -> None:
    hub = Hub(Config(dir=tmp_path))
    early = hub.channel("early")
    hub.drain()
    late = hub.channel("late")
    with gevent.Timeout(10):
        for channel in (early, late):
            assert list(channel.follow(channel.view.log, 0, heartbeat=1000)) == []
    publish(late, Event(b"1", b"", b"which goes on"))
    assert late.view.newest_id == b"1"
