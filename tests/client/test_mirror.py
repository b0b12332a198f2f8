"""`esource follow --to`: a copy that is the same, byte for byte."""

import subprocess
from pathlib import Path

from tests.harness import Hub, eventually, running_hub, size
from tests.harness.client import Numbers, command, kill_again_and_again, run, running


def test_a_copy_is_the_same_bytes_and_stays_so_live(hub: Hub) -> None:
    for n in range(100):
        hub.publish(f"/original?id=same-{n % 7}&event=t", f"line\nof {n}")  # ids that come again
    assert run("follow", f"{hub.url}/original", "--to", f"{hub.url}/copy", "--once").returncode == 0
    original, copy = hub.file("original"), hub.file("copy")
    assert copy.read_bytes() == original.read_bytes()
    with running("follow", f"{hub.url}/original", "--to", f"{hub.url}/copy"):
        for _ in range(3):
            hub.publish("/original?id=same-1", "live")
            eventually(lambda: copy.read_bytes() == original.read_bytes())


def test_a_copy_that_is_none_is_not_touched(hub: Hub) -> None:
    hub.publish("/mine?id=1", "x")
    hub.publish("/other?id=1", "y")
    before = hub.file("other").read_bytes()
    done = run("follow", f"{hub.url}/mine", "--to", f"{hub.url}/other", "--once")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "is no copy of" in done.stderr
    assert hub.file("other").read_bytes() == before


def test_a_row_that_the_copy_would_change_ends_it(hub: Hub) -> None:
    hub.file("by-hand").write_bytes(b"1\t\tfine\n\t\tno id\n")
    hub.get("/by-hand")
    done = run("follow", f"{hub.url}/by-hand", "--to", f"{hub.url}/by-hand-2", "--once")
    assert done.returncode == 1
    assert "'\\t\\tno id'" in done.stderr
    assert hub.rows("by-hand-2") == []


def test_a_copy_begun_after_the_beginning_was_removed_goes_on(own_hub: Hub) -> None:
    hub = own_hub
    for n in range(5):
        hub.publish(f"/trimmed?id={n}", f"{n}" * (1 << 19))
        if n in (1, 3):
            assert run("rotate", "--dir", hub.folder, "trimmed").returncode == 0
    trim = ("trim", "--dir", hub.folder, "--larger-than", "1M", "trimmed")
    words = ("follow", f"{hub.url}/trimmed", "--to", f"{hub.url}/copied", "--once")
    assert run(*trim).returncode == 0
    kept = hub.get("/trimmed").body
    assert run(*words).returncode == 0
    assert hub.file("copied").read_bytes() == kept
    hub.publish("/trimmed?id=later", "x")
    assert run(*words).returncode == 0
    assert hub.file("copied").read_bytes() == hub.get("/trimmed").body


def test_killed_with_both_hubs_it_goes_on_where_the_copy_ends(tmp_path: Path) -> None:
    for home in ("a", "b"):
        (tmp_path / home).mkdir()
    with running_hub(tmp_path / "a") as here, running_hub(tmp_path / "b") as there:
        numbers = Numbers(here, "numbers")
        words = command("follow", f"{here.url}/numbers", "--to", f"{there.url}/")

        def halfway() -> None:
            for hub in (there, here):
                hub.kill()
                hub.start()

        kill_again_and_again(words, size(4, 50), lambda: len(there.rows("numbers")), halfway)
        count = numbers.end(size(100, 10_000))
        assert subprocess.run([*words, "--once"]).returncode == 0
        assert there.file("numbers").read_bytes() == here.file("numbers").read_bytes()
        assert len(here.rows("numbers")) == count
