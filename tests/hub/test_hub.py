import os
from pathlib import Path

import pytest

from esource.config import Config
from esource.errors import BadInput, StartError
from esource.hub.hub import FolderLock, Hub, prepare_folder


@pytest.mark.parametrize("name", ["abcd", "A-Z_09", "----", "a" * 64])
def test_names_of_channels(tmp_path: Path, name: str) -> None:
    assert Hub(Config(dir=tmp_path)).channel(name).path == tmp_path / f"{name}.tsv"


@pytest.mark.parametrize(
    "name", ["", "abc", "a" * 65, "abcd\n", "ab/cd", "..", "abcd.", "äbcd", "ab cd", "abc\0"]
)
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="is not a channel name"):
        Hub(Config(dir=tmp_path)).channel(name)
    assert list(tmp_path.glob("*.tsv")) == []


def test_there_is_one_channel_of_a_name_for_as_long_as_anybody_holds_it(tmp_path: Path) -> None:
    hub = Hub(Config(dir=tmp_path))
    held = hub.channel("held")
    for n in range(hub.keep_open + 10):
        hub.channel(f"other{n}")
    assert hub.channel("held") is held


def test_channels_that_nobody_uses_are_closed(tmp_path: Path) -> None:
    hub = Hub(Config(dir=tmp_path))
    for n in range(hub.keep_open * 2):
        (tmp_path / f"channel{n}.tsv").write_text("1\t\tx\n")
    before = len(os.listdir("/proc/self/fd"))
    for n in range(hub.keep_open * 2):
        hub.channel(f"channel{n}")
    assert len(os.listdir("/proc/self/fd")) <= before + hub.keep_open + 1


def test_a_lock_is_exclusive_until_it_is_released(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path / "lock"), FolderLock(tmp_path / "lock")
    assert first.acquire()
    assert first.acquire()
    assert not second.acquire()
    assert second.holder() == f"process {os.getpid()}"
    first.release()
    assert second.acquire()
    second.release()


def test_a_folder_is_made_but_not_its_parents(tmp_path: Path) -> None:
    prepare_folder(tmp_path / "events").release()
    assert (tmp_path / "events").is_dir()
    with pytest.raises(StartError, match="its parent does not exist"):
        prepare_folder(tmp_path / "no" / "events")
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="cannot write to the folder"):
        prepare_folder(tmp_path / "file")
