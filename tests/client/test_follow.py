"""`esource follow`: it comes back, and what it has done with is done with."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.harness import Hub, eventually, free_port, size
from tests.harness.client import Numbers, command, kill_again_and_again, run, running
from tests.harness.encrypted import EncryptedHub
from tests.harness.nginx import running_nginx


def data(lines: str) -> list[str]:
    return [json.loads(line)["data"] for line in lines.splitlines()]


def test_it_begins_with_the_first_event_and_ends_where_it_is_told_to(hub: Hub) -> None:
    for text in ("one", "two", "three"):
        hub.publish("/ended?event=last" if text == "two" else "/ended", text)
    assert data(run("follow", f"{hub.url}/ended", "--limit", 3).stdout) == ["one", "two", "three"]
    done = run("follow", f"{hub.url}/ended", "--until", "last")
    assert (done.returncode, data(done.stdout), done.stderr) == (0, ["one", "two"], "")
    assert data(run("follow", f"{hub.url}/ended?event=last", "--limit", 1).stdout) == ["two"]
    raw = run("follow", f"{hub.url}/ended?tail=1", "--limit", 1, "--format", "raw")
    assert raw.stdout == "three\n"
    assert (
        run("follow", f"{hub.url}/ended", "--limit", 3, "--format", "tsv").stdout.encode()
        == (hub.folder / "ended.tsv").read_bytes()
    )


def test_with_new_it_begins_with_the_next_event_and_misses_none_over_a_restart(
    own_hub: Hub,
) -> None:
    own_hub.publish("/next", "before")
    with running("follow", f"{own_hub.url}/next", "--new", "--limit", 1) as follower:
        eventually(lambda: "esource_subscribers 1" in own_hub.get("/-/metrics").text)
        own_hub.stop()
        with own_hub.file("next").open("a") as file:
            file.write("while\t\tno hub ran\n")
        own_hub.start()
        out, _ = follower.communicate(timeout=30)
        assert data(out) == ["no hub ran"]


def test_killed_and_started_again_it_does_each_event_at_least_once_and_in_order(
    own_hub: Hub, tmp_path: Path
) -> None:
    hub = own_hub
    numbers = Numbers(hub, "numbers")
    out, cursor = tmp_path / "out", tmp_path / "cursor"
    out.touch()
    words = command("follow", f"{hub.url}/numbers", "--cursor", cursor, "--until", "end")

    def halfway() -> None:
        hub.kill()
        hub.start()

    kill_again_and_again(words, size(4, 50), lambda: out.stat().st_size, halfway, out)
    count = numbers.end(size(100, 10_000))
    hub.publish("/numbers?event=end", "over")
    with open(out, "ab") as file:
        assert subprocess.run(words, stdout=file).returncode == 0
    seen: list[int] = []
    for text in data(out.read_text())[:-1]:
        if (n := int(text)) > (seen[-1] if seen else -1):
            assert n == len(seen)  # nothing is left out, whatever was repeated
            seen.append(n)
    assert len(seen) == count
    assert subprocess.run(words, capture_output=True).stdout == b""  # it is done with


SITE = """
server {{ listen 127.0.0.1:{port}; location / {{
    if ($http_x_token != "let-me") {{ return 401; }}
    if ($http_authorization != "Basic dXNlcjpzZWNyZXQ=") {{ return 401; }}
    proxy_pass {hub}; proxy_buffering off; proxy_read_timeout 1s; }} }}
"""


def test_a_gateway_that_cuts_off_and_asks_for_credentials_costs_nothing(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This one ends a stream that says nothing for a second; the next one goes on."""
    port = free_port()
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password secret\n")
    (tmp_path / "headers").write_text("X-Token: let-me\n")
    monkeypatch.setenv("NETRC", str(netrc))
    url = f"http://127.0.0.1:{port}/cut-off"
    with running_nginx(tmp_path, SITE.format(port=port, hub=hub.url), port):
        done = run("follow", url, "--netrc")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "401" in done.stderr
        words = ("--netrc", "--header-file", tmp_path / "headers", "--limit", 3)
        with running("follow", url, *words) as follower:
            for n in range(3):
                time.sleep(1.2)  # so that it is cut off in between
                hub.publish("/cut-off", str(n))
            out, err = follower.communicate(timeout=30)
        assert data(out) == ["0", "1", "2"], err
        url = f"http://user:secret@127.0.0.1:{port}/cut-off"
        assert data(run("follow", url, "-H", "X-Token: let-me", "--limit", 1).stdout) == ["0"]


def test_a_command_has_the_event_and_is_tried_until_it_is_content(hub: Hub, tmp_path: Path) -> None:
    hub.publish("/worked?id=a-1&event=paid", "two\nlines")
    script = f'echo "$EVENT_ID $EVENT_TYPE" >> {tmp_path}/log; cat >> {tmp_path}/log; '
    fails = f"test -e {tmp_path}/ready || {{ touch {tmp_path}/ready; exit 3; }}"
    done = run("follow", f"{hub.url}/worked", "--limit", 1, "--exec", script + fails)
    assert done.returncode == 0
    assert (tmp_path / "log").read_text() == "a-1 paid\ntwo\nlines" * 2


def test_what_no_try_helps_ends_it_or_goes_to_the_dead(hub: Hub, tmp_path: Path) -> None:
    hub.publish("/failing?id=bad&event=paid", "bad\n\n")
    hub.publish("/failing?id=good", "good")
    words = ("follow", f"{hub.url}/failing", "--cursor", tmp_path / "cursor", "--limit", 2)
    only = 'test "$EVENT_ID" = good'
    done = run(*words, "--exec", only, "--tries", 2)
    assert done.returncode == 1
    assert "'bad'" in done.stderr
    assert json.loads((tmp_path / "cursor").read_text())["id"].startswith("@")  # before all
    done = run(*words, "--exec", only, "--tries", 2, "--dead", "failed")
    assert done.returncode == 0
    assert hub.rows("failed") == [b"bad\tpaid\tbad\x0b"]
    assert json.loads((tmp_path / "cursor").read_text())["id"] == "good"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_event_at_work(
    hub: Hub, tmp_path: Path, number: signal.Signals
) -> None:
    channel = f"signal-{number.name}"
    hub.publish(f"/{channel}?id=first", "1")
    hub.publish(f"/{channel}?id=second", "2")
    script = f"touch {tmp_path}/at-work; until test -e {tmp_path}/go; do sleep 0.05; done"
    cursor = tmp_path / "cursor"
    words = ("follow", f"{hub.url}/{channel}", "--cursor", cursor, "--exec", script)
    with running(*words) as follower:
        eventually((tmp_path / "at-work").exists)
        os.kill(follower.pid, number)
        (tmp_path / "go").touch()
        assert follower.wait(30) == 0
    assert json.loads(cursor.read_text())["id"] == "first"
    with running("follow", f"{hub.url}/{channel}") as follower:  # which waits, after two
        assert follower.stdout
        follower.stdout.readline(), follower.stdout.readline()
        os.kill(follower.pid, number)
        assert follower.wait(30) == 0


def test_what_makes_no_sense_is_refused_with_one_line(hub: Hub, tmp_path: Path) -> None:
    cursor = tmp_path / "cursor"
    hub.publish("/sensible", "x")
    assert run("follow", f"{hub.url}/sensible", "--cursor", cursor, "--limit", 1).returncode == 0
    kept = cursor.read_bytes()
    for code, words in (
        (2, (f"{hub.url}/another", "--cursor", cursor)),
        (2, (f"{hub.url}/sensible", "--cursor", tmp_path / "none" / "cursor")),
        (2, (f"{hub.url}/sensible", "-H", "no header")),
        (2, (f"{hub.url}/sensible", "--tries", "2")),
        (2, ("ftp://localhost/sensible",)),
        (1, (f"{hub.url}/no",)),  # no name of a channel: the hub says so
        (1, (f"{hub.url}/sensible?tail=",)),
    ):
        done = run("follow", *words)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1), done
        assert done.stderr.startswith("esource: ")
    assert cursor.read_bytes() == kept


def test_it_asks_over_tls(tmp_path: Path) -> None:
    hub = EncryptedHub(tmp_path)
    hub.start(*hub.options)
    try:
        hub.publish("/asked", "over TLS")
        words = ("follow", f"https://127.0.0.1:{hub.port}/asked", "--limit", 1)
        trusted = run(*words, "--cacert", tmp_path / "certificate.pem")
        assert data(trusted.stdout) == ["over TLS"]
    finally:
        hub.stop()


def test_it_asks_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "hub.socket"
    hub = Hub(tmp_path)
    hub.start("-b", f"127.0.0.1:{hub.port}", "-b", f"unix:{path}")
    try:
        hub.publish("/asked", "over a socket")
        words = ("follow", "http://localhost/asked", "--limit", 1, "--unix-socket", path)
        assert data(run(*words).stdout) == ["over a socket"]
    finally:
        hub.stop()
