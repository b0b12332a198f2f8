"""Whose a folder is."""

import os
from pathlib import Path

import pytest

from esource.errors import StartError
from esource.log.lock import Lock, prepare_folder


def test_a_lock_is_exclusive_until_it_is_released(tmp_path: Path) -> None:
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
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
