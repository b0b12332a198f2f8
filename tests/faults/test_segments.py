"""A disk that fails while a file is closed: no publisher is refused, and the file goes on."""

import errno
from collections.abc import Iterator

import pytest

from tests.harness import QUIET, Hub
from tests.harness.shims import Build, Disk, on_a_disk

LARGE = b"x" * 400_000  # of which two are in a segment


@pytest.fixture(scope="module", params=["always", "interval"])
def closing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shim: Build
) -> Iterator[tuple[Hub, Disk]]:
    """A hub that closes files, on a disk that fails when it is told to."""
    settings = {"ESOURCE_KEEP": "*/segment=1M", "ESOURCE_FSYNC": request.param, **QUIET}
    with on_a_disk(tmp_path_factory.mktemp("closing"), shim, **settings) as hub_and_disk:
        yield hub_and_disk


FAULTS = {
    "the old file is not synced": ("sync", 0, errno.EIO),
    "there is no space for the next": ("open", 0, errno.ENOSPC),
    "the file system is read-only": ("open", 0, errno.EROFS),
    "the name is not synced": ("sync_folder", 0, errno.EIO),
    "there are no descriptors": ("open", 1, errno.EMFILE),
    "the new file is not synced": ("sync", 1, errno.EIO),
}


def test_closing_that_fails_refuses_no_publisher_and_moves_no_row(
    closing: tuple[Hub, Disk],
) -> None:
    hub, disk = closing
    expected = {}
    for number, (kind, left, error) in enumerate(FAULTS.values()):
        name = f"channel{number}"
        for n in range(2):
            hub.publish(f"/{name}?id={n}", LARGE)
        disk.fail(kind, left, error)
        refused = hub.log.count("cannot be closed, and goes on")
        assert hub.post(f"/{name}?id=2", LARGE).status == 201
        assert disk.pending(kind) == 0
        disk.heal()
        assert hub.log.count("cannot be closed, and goes on") == refused + 1, hub.log[-500:]
        hub.publish(f"/{name}?id=3", LARGE)
        expected[name] = b"".join(b"%d\t\t%b\n" % (n, LARGE) for n in range(4))
        assert hub.get(f"/{name}").body == expected[name]
        assert len(list(hub.folder.glob(f"{name}.[0-9]*.tsv"))) == 1
    hub.restart()
    for name, text in expected.items():
        assert hub.get(f"/{name}").body == text
        hub.publish(f"/{name}?id=4", LARGE)
        first, second = sorted(hub.folder.glob(f"{name}.[0-9]*.tsv"))
        assert first.read_bytes() == text
        assert second.name == f"{name}.{len(text):020}.tsv"
        assert hub.file(name).resolve() == second.resolve()
    assert list(hub.folder.glob("*.torn-*")) == []


def test_a_segment_that_cannot_be_read_is_an_error_of_that_read_alone(
    closing: tuple[Hub, Disk],
) -> None:
    hub, disk = closing
    for n in range(5):
        hub.publish(f"/unread?id={n}", LARGE)
    disk.fail("read", 0, errno.EIO, times=-1)
    answers = [hub.get(f"/unread?tail={n}&format=ndjson") for n in (1, 5)]
    disk.heal()
    assert [answer.status for answer in answers] == [503, 503]
    assert hub.get("/unread?tail=5").body.count(b"\n") == 5
    hub.publish("/unread?id=5", b"x")
