"""Programs that ship logs and alerts, each with a real hub behind it: nothing is lost, in order."""

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import PATIENCE_SECONDS, Hub, do_without, eventually, free_port, needs
from tests.harness.document import Document
from tests.harness.program import running

RECIPES = Document("docs/recipes.md")  # which has the configurations, but for the addresses

MESSAGES = [f'message {number} with "quotes", a \\ and grün' for number in range(300)]


def send(port: int, messages: list[str]) -> None:
    """Send lines over TCP, as a program that logs does."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as connection:
        connection.sendall("".join(f"{message}\n" for message in messages).encode())


def values(hub: Hub, channel: str, key: str) -> list[str]:
    """Return what the events of a channel, which are JSON, have under a key."""
    return [json.loads(data)[key] for data in hub.data(channel)]


# -- syslog-ng ---------------------------------------------------------------------------------

SYSLOG_NG = """\
@version: 3.38
source s {{ network(ip("127.0.0.1") port({port}) transport("tcp") flags(no-parse)); }};
{page}"""
[OF_THE_PAGE] = RECIPES.blocks("conf")


@contextmanager
def syslog_ng(home: Path, hub: Hub, path: str, type: str, body: str) -> Iterator[int]:
    """syslog-ng with an `http()` destination; yields the port that it takes lines at."""
    [program] = needs("syslog-ng")
    port, config = free_port(), home / "syslog-ng.conf"
    page = OF_THE_PAGE.replace("http://hub:9000/syslog?each=line", f"{hub.url}/{path}")
    page = page.replace("application/json", type).replace("format-json --scope rfc5424", body)
    config.write_text(SYSLOG_NG.format(port=port, page=page))
    with running(
        home, port, program, "-F", "-e", "-d", "--no-caps", "-f", config, "-R", home / "persist",
        "-p", home / "pid", "-c", home / "control",
    ):  # fmt: skip
        yield port


def test_syslog_ng_ships_lines_of_json_of_its_own(tmp_path: Path, own_hub: Hub) -> None:
    """Over a restart of the hub, too: what is not acknowledged is sent again."""
    body = "format-json --scope rfc5424"
    path = "syslog-ng?each=line"
    with syslog_ng(tmp_path, own_hub, path, "application/json", body) as port:
        send(port, MESSAGES[:150])
        eventually(lambda: len(own_hub.rows("syslog-ng")) == 150)
        own_hub.stop()
        send(port, MESSAGES[150:])
        own_hub.start()
        eventually(lambda: len(own_hub.rows("syslog-ng")) == 300)
    assert values(own_hub, "syslog-ng", "MESSAGE") == MESSAGES


def test_syslog_ng_ships_ndjson_that_has_data(tmp_path: Path, hub: Hub) -> None:
    body = "format-json data=$MSG event=log"
    with syslog_ng(tmp_path, hub, "ndjson", "application/x-ndjson", body) as port:
        send(port, MESSAGES)
        eventually(lambda: len(hub.rows("ndjson")) == 300)
    assert [data.decode() for data in hub.data("ndjson")] == MESSAGES


def test_ndjson_of_another_form_is_refused_and_says_why(tmp_path: Path, hub: Hub) -> None:
    """What syslog-ng is told to send to others: nothing of it is stored as something else."""
    body = "format-json message=$MSG"
    with syslog_ng(tmp_path, hub, "refused", "application/x-ndjson", body) as port:
        send(port, MESSAGES[:3])
        eventually(lambda: re.search("status_code='400'", (tmp_path / "log").read_text()))
    assert hub.rows("refused") == []
    lines = b"".join(b'{"message":"%d"}\n' % number for number in range(3))
    answer = hub.post("/refused", lines, Content_Type="application/x-ndjson")
    assert answer.status == 400
    assert "line 1" in answer.text
    assert "message" in answer.text


# -- rsyslog -----------------------------------------------------------------------------------

RSYSLOG = """\
global(workDirectory="{home}")
module(load="imptcp")
module(load="omprog")
input(type="imptcp" address="127.0.0.1" port="{port}")
template(name="line" type="string" string="%rawmsg%\\n")
action(type="omprog" {action})
"""
# Tells rsyslog of each message whether it is stored; one that is not is sent again.
CONFIRM = next(block for block in RECIPES.blocks("sh") if block.startswith("#!"))


@contextmanager
def rsyslog(home: Path, action: str) -> Iterator[int]:
    """rsyslog with an `omprog` action; yields the port that it takes lines at.

    Debian's packages of rsyslog and of syslog-ng exclude each other, so it may be unpacked only.
    """
    root = Path("/opt/rsyslog")
    program = root / "usr" / "sbin" / "rsyslogd"
    if not program.exists():
        do_without(f"missing: {program}")
    [modules] = root.glob("usr/lib/*/rsyslog")
    port, config = free_port(), home / "rsyslog.conf"
    config.write_text(RSYSLOG.format(home=home, port=port, action=action))
    with running(
        home, port, "env", f"LD_LIBRARY_PATH={modules.parent}", program, "-n", "-f", config,
        "-i", home / "pid", "-M", modules,
    ):  # fmt: skip
        yield port


def test_rsyslog_ships_to_one_curl_that_stays(tmp_path: Path, hub: Hub) -> None:
    curl = f"/usr/bin/curl -sNT - -X POST {hub.url}/rsyslog?each=line"
    with rsyslog(tmp_path, f'template="line" binary="{curl}"') as port:
        send(port, MESSAGES)
        eventually(lambda: len(hub.rows("rsyslog")) == 300)
    assert [data.decode() for data in hub.data("rsyslog")] == MESSAGES


def test_rsyslog_that_is_told_what_is_stored_loses_nothing_over_a_restart(
    tmp_path: Path, own_hub: Hub
) -> None:
    script = tmp_path / "confirm"
    script.write_text(CONFIRM)
    script.chmod(0o755)
    action = (
        f'template="line" binary="{script} {own_hub.url}/rsyslog" confirmMessages="on" '
        'action.resumeRetryCount="-1" action.resumeInterval="1"'
    )
    with rsyslog(tmp_path, action) as port:
        send(port, MESSAGES[:10])
        eventually(lambda: len(own_hub.rows("rsyslog")) == 10)
        own_hub.stop()
        send(port, MESSAGES[10:20])
        own_hub.start()
        eventually(lambda: len(own_hub.rows("rsyslog")) == 20)
    assert [data.decode() for data in own_hub.data("rsyslog")] == MESSAGES[:20]


# -- Alertmanager ------------------------------------------------------------------------------

SUMMARY = 'two lines: "a"\nb'
[ALERTMANAGER] = RECIPES.blocks("yaml")
# An alert is not held back for others that may come.
AT_ONCE = "group_wait: 0s, group_interval: 1s}"


def test_an_alert_of_alertmanager_is_an_event(tmp_path: Path, hub: Hub) -> None:
    [program] = needs("prometheus-alertmanager")
    port, config = free_port(), tmp_path / "alertmanager.yml"
    config.write_text(
        ALERTMANAGER.replace("http://hub:9000", hub.url).replace("]}\nrec", f"], {AT_ONCE}\nrec")
    )
    address = f"127.0.0.1:{port}"
    with running(
        tmp_path, port, program, f"--config.file={config}", f"--web.listen-address={address}",
        "--cluster.listen-address=", f"--storage.path={tmp_path / 'data'}",
    ):  # fmt: skip
        for name in ("DiskFull", "HubDown"):
            labels = {"alertname": name, "instance": "web1"}
            body = json.dumps([{"labels": labels, "annotations": {"summary": SUMMARY}}]).encode()
            header = ("-H", "Content-Type: application/json")
            url = f"http://{address}/api/v2/alerts"
            eventually(
                lambda body=body, header=header, url=url: (  # type: ignore[misc]
                    hub.curl("-f", *header, "--data-binary", "@-", url, body=body).returncode == 0
                )
            )
            eventually(lambda name=name: name in hub.get("/alerts").text)  # type: ignore[misc]
    rows = [row.split(b"\t", 2) for row in hub.rows("alerts")]
    assert [type for _, type, _ in rows] == [b"alert"] * 2
    sent = [json.loads(data) for _, _, data in rows]
    assert [each["groupLabels"]["alertname"] for each in sent] == ["DiskFull", "HubDown"]
    [alert] = sent[0]["alerts"]
    assert (alert["status"], alert["labels"]["instance"]) == ("firing", "web1")
    assert alert["annotations"]["summary"] == SUMMARY


# -- the journal -------------------------------------------------------------------------------

# A journald of its own, whose /run is nobody else's, takes two messages and a long one.
JOURNALD = """\
mount -t tmpfs none /run
mkdir -p /run/systemd/journal /run/log/journal
/lib/systemd/systemd-journald &
until [ -S /run/systemd/journal/stdout ]; do sleep 0.02; done
for message in one two; do echo "$message" | systemd-cat -t shop; done
head -c 8000 /dev/zero | tr '\\0' x | systemd-cat -t shop
until [ "$(journalctl -D /run/log/journal -t shop -o cat | wc -l)" = 3 ]; do sleep 0.02; done
cp -r /run/log/journal "$1"
kill $!
"""


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A folder with the journal of a real journald."""
    needs("journalctl", "unshare")
    if os.geteuid() != 0:
        pytest.skip("a journald of its own needs root")
    folder = tmp_path / "journal"
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", JOURNALD, "-",
         str(folder)],
        capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    if "not permitted" in done.stderr or "denied" in done.stderr:
        pytest.skip(f"no rights to mount here: {done.stderr}")
    assert folder.exists(), done
    return folder


def test_the_journal_is_shipped_line_by_line(journal: Path, hub: Hub) -> None:
    read = f"journalctl -D {journal} -t shop -o json --all"
    ship = f"curl -sS -T - -X POST '{hub.url}/journal?each=line'"
    done = subprocess.run(f"{read} | {ship}", shell=True, capture_output=True, check=True)
    assert json.loads(done.stdout)["count"] == 3, done
    assert values(hub, "journal", "MESSAGE") == ["one", "two", "x" * 8000]
    wanted = subprocess.run(read, shell=True, capture_output=True, check=True)
    assert [json.loads(data) for data in hub.data("journal")] == [
        json.loads(line) for line in wanted.stdout.splitlines()
    ]


def test_a_curl_that_is_not_told_to_post_is_told_so(hub: Hub) -> None:
    answer = hub.curl("-T", "-", f"{hub.url}/put-there?each=line", body=b"a line\n")
    assert answer.stdout == b"PUT is not for channels; POST publishes, GET reads\n"
    assert hub.rows("put-there") == []
