"""`GET /<channel>`: SPEC, section 5."""

import subprocess
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path

import pytest

from tests.harness import Hub, eventually, needs, running_hub
from tests.harness.channels import age
from tests.harness.shims import SLOW_DISK, customized
from tests.harness.waiting import AT_ONCE_SECONDS


def test_a_download_is_the_file(hub: Hub) -> None:
    for data in ("one", "two\nlines", "tab\there"):
        newest = hub.publish("/file", data)
    answer = hub.get("/file")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/tab-separated-values; charset=utf-8"
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert answer.headers["Last-Event-ID"] == newest
    assert answer.body == hub.content("file")


def test_a_channel_nobody_wrote_to_is_empty_and_gets_no_file(hub: Hub) -> None:
    answer = hub.get("/empty")
    assert (answer.status, answer.body) == (200, b"")
    assert "Last-Event-ID" not in answer.headers
    assert not hub.has("empty")


def test_head_says_what_get_sends(hub: Hub) -> None:
    hub.publish("/head", "x")
    get, head = hub.get("/head"), hub.request("HEAD", "/head")
    assert head.body == b""
    for name in ("Content-Length", "ETag", "Last-Event-ID", "Content-Type", "Accept-Ranges"):
        assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize(
    ("asked", "slice_", "content_range"),
    [
        ("bytes=0-9", slice(0, 10), "bytes 0-9/{}"),
        ("bytes=10-", slice(10, None), "bytes 10-{last}/{}"),
        ("bytes=-5", slice(-5, None), "bytes {minus5}-{last}/{}"),
        ("bytes=-1000000", slice(None), "bytes 0-{last}/{}"),
        ("bytes=5-999999", slice(5, None), "bytes 5-{last}/{}"),
    ],
)
def test_one_range(hub: Hub, asked: str, slice_: slice, content_range: str) -> None:
    if not hub.has("range"):
        hub.publish("/range", "0123456789" * 10)
    whole = hub.content("range")
    answer = hub.get("/range", Range=asked)
    size = len(whole)
    assert answer.status == 206
    assert answer.body == whole[slice_]
    assert answer.headers["Content-Range"] == content_range.format(
        size, last=size - 1, minus5=size - 5
    )


def test_a_range_beyond_the_end_is_416_and_says_the_size(hub: Hub) -> None:
    hub.publish("/beyond", "x")
    size = len(hub.content("beyond"))
    answer = hub.get("/beyond", Range=f"bytes={size}-")
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{size}"
    assert answer.text.count("\n") == 1


@pytest.mark.parametrize("asked", ["bytes=0-1,3-4", "rows=0-1", "bytes=x-y", "bytes=5-2"])
def test_ranges_of_other_kinds_are_ignored(hub: Hub, asked: str) -> None:
    hub.publish("/other_range", "x")
    assert hub.get("/other_range", Range=asked).status == 200


def test_a_range_is_only_for_the_version_that_if_range_names(hub: Hub) -> None:
    hub.publish("/if_range", "x")
    etag = hub.get("/if_range").headers["ETag"]
    assert hub.get("/if_range", Range="bytes=1-", If_Range=etag).status == 206
    hub.publish("/if_range", "y")
    assert hub.get("/if_range", Range="bytes=1-", If_Range=etag).status == 200


def test_nothing_new_is_304(hub: Hub) -> None:
    hub.publish("/etag", "x")
    first = hub.get("/etag")
    answer = hub.get("/etag", If_None_Match=first.headers["ETag"])
    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers["ETag"] == first.headers["ETag"]
    hub.publish("/etag", "y")
    assert hub.get("/etag", If_None_Match=first.headers["ETag"]).status == 200


def test_a_date_never_hides_an_event_of_the_same_second(hub: Hub) -> None:
    hub.publish("/date", "x")
    first = hub.get("/date")
    modified = first.headers["Last-Modified"]
    assert parsedate_to_datetime(modified).timestamp() <= time.time()
    hub.publish("/date", "y")
    assert hub.get("/date", If_Modified_Since=modified).status == 200
    later = formatdate(time.time() + 2, usegmt=True)
    assert hub.get("/date", If_Modified_Since=later).status == 304


@pytest.mark.files("a disk that hangs")
def test_a_date_never_hides_an_event_that_took_long_to_sync(tmp_path: Path) -> None:
    with running_hub(tmp_path, **customized(tmp_path, SLOW_DISK)) as hub:
        hub.publish("/warm", "x")
        time.sleep(1 - time.time() % 1)  # both are written in the same second
        hub.publish("/date", "x")
        (tmp_path / "hang").touch()
        with ThreadPoolExecutor() as threads:
            second = threads.submit(hub.post, "/date", "y")
            eventually(lambda: len(hub.rows("date")) == 2)
            time.sleep(1.1 - time.time() % 1)
            first = hub.get("/date")
            (tmp_path / "hang").unlink()
            assert second.result().status == 201
        assert first.body.count(b"\n") == 1
        answer = hub.get("/date", If_Modified_Since=first.headers["Last-Modified"])
        assert answer.status == 200


@pytest.mark.files("a disk that hangs")
def test_a_read_does_not_wait_while_rows_of_others_are_synced(tmp_path: Path) -> None:
    with running_hub(tmp_path, **customized(tmp_path, SLOW_DISK)) as hub:
        hub.publish("/slow", "x")
        hub.put("slow", b"2\t\tby hand\n")
        hang = tmp_path / "hang"
        hang.touch()
        with ThreadPoolExecutor() as threads:
            first = threads.submit(hub.get, "/slow")  # takes them in
            time.sleep(0.2)
            others = [threads.submit(hub.get, "/slow") for _ in range(2)]
            try:
                for other in others:
                    assert other.result(AT_ONCE_SECONDS).body.count(b"\n") == 1
            finally:
                hang.unlink()
            assert first.result().body.count(b"\n") == 2


def test_curl_continues_a_copy(hub: Hub, tmp_path: Path) -> None:
    copy = tmp_path / "copy.tsv"
    for n in range(3):
        hub.publish("/copy", f"event {n}")
        done = hub.curl("-C", "-", "-o", str(copy), f"{hub.url}/copy")
        assert done.returncode == 0, done.stderr
        assert copy.read_bytes() == hub.content("copy")
    assert hub.curl("-C", "-", "-o", str(copy), f"{hub.url}/copy").returncode == 0
    assert copy.read_bytes() == hub.content("copy")


def test_a_large_channel_comes_whole_on_a_connection_that_goes_on(hub: Hub) -> None:
    hub.put("large", b"".join(b"%d\t\t%b\n" % (n, b"x" * 1_000_000) for n in range(30)))
    done = hub.curl(
        f"{hub.url}/large", "-o", "/dev/null", f"{hub.url}/large", "-o", "/dev/null",
        "-w", "%{size_download} %{num_connects}\n",
    )  # fmt: skip
    size = len(hub.content("large"))
    assert done.stdout.decode() == f"{size} 1\n{size} 0\n"
    assert hub.get("/large").body == hub.content("large")


@pytest.mark.files("half a row, by hand")
def test_a_torn_row_is_not_served_and_saved_aside(own_hub: Hub) -> None:
    own_hub.put("torn", b"1\t\tone\n2\t\ttw")
    age(own_hub.file("torn"))
    assert own_hub.get("/torn").body == b"1\t\tone\n"
    assert [f.read_bytes() for f in own_hub.folder.glob("torn.tsv.torn-*")] == [b"2\t\ttw"]
    assert "torn write" in own_hub.log
    own_hub.publish("/torn?id=3", "three")
    assert own_hub.rows("torn") == [b"1\t\tone", b"3\t\tthree"]


WISH = {"Want_Repr_Digest": "sha-256=1"}


def test_openssl_says_of_a_copy_what_the_hub_says_of_the_channel(hub: Hub, tmp_path: Path) -> None:
    curl, openssl = needs("curl", "openssl")
    for data in ("one", "größe\nand more"):
        hub.publish("/digest", data)
        copy = tmp_path / "copy.tsv"
        url = f"http://127.0.0.1:{hub.port}/digest"
        command = [
            curl,
            "-fsS",
            "-D",
            "-",
            "-o",
            str(copy),
            "-H",
            "Want-Repr-Digest: sha-256=1",
            url,
        ]
        head = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        sha256 = subprocess.run(
            [openssl, "dgst", "-sha256", "-binary", copy], capture_output=True, check=True
        ).stdout
        assert f"\nRepr-Digest: sha-256=:{b64encode(sha256).decode()}:\n" in head


def test_a_digest_is_of_the_whole_channel_whatever_is_asked_of_it(hub: Hub) -> None:
    hub.publish("/whole", "x")
    digest = hub.get("/whole", **WISH).headers["Repr-Digest"]
    assert hub.request("HEAD", "/whole", None, **WISH).headers["Repr-Digest"] == digest
    part = hub.get("/whole", Range="bytes=0-3", **WISH)
    assert (part.status, part.headers["Repr-Digest"]) == (206, digest)
    for other in ("?format=ndjson", "?tail=1", "?event=x"):
        assert "Repr-Digest" not in hub.get("/whole" + other, **WISH).headers
    assert "Repr-Digest" not in hub.get("/whole").headers


@pytest.mark.parametrize(
    ("wanted", "is_wanted"),
    [
        ("sha-256=10, sha-512=3", True),
        ("unixsum=0,\tsha-256=1", True),
        ("sha-256=0, sha-256=2", True),
        ("sha-256=2, sha-256=0", False),
        ("sha-256=0", False),
        ("sha-256=-1", False),
        ("sha-512=1", False),
        ("xsha-256=1", False),
        ("sha-256", False),
        ("sha-256=", False),
        ("SHA-256=1", False),
        ("sha-256=1,", False),
        ("sha-256=1;", False),
        ("sha-256 =1", False),
        ("sha-256=1 sha-512=1", False),
        ("sha-256=1.5", False),
    ],
)
def test_a_digest_is_a_wish_in_the_grammar_of_fields(
    hub: Hub, wanted: str, is_wanted: bool
) -> None:
    answer = hub.get("/wishes", Want_Repr_Digest=wanted)
    assert (answer.status, "Repr-Digest" in answer.headers) == (200, is_wanted)
