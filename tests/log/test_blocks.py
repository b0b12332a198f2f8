"""Logs on an engine that several hubs share, where they differ from others; on PostgreSQL."""

from collections.abc import Iterator
from contextlib import closing
from zlib import crc32

import pytest

from esource.errors import StorageError
from esource.hub.view import View
from esource.log import Appended, Moved, Notice, Replaced, Written, blocks, mark
from esource.log.blocks import LAST_BYTES, READ_BYTES, Answer, BlockLog, Cache, Entry, Head
from esource.log.blocks import _entry as entry_of
from esource.log.postgresql import APPENDING, REVISION, PostgreSQL
from esource.rows.tsv import BOM
from tests.harness.postgres import shared_postgres

ROWS = b"1\t\tone\n2\t\ttwo\n"
OTHER = b"3\t\tthree\n"


@pytest.fixture
def database() -> str:
    """The name of an empty database."""
    return shared_postgres().database().rpartition("/")[2]


@pytest.fixture
def hubs(database: str) -> Iterator[list[PostgreSQL]]:
    """The logs of two hubs."""
    url = shared_postgres().url(database)
    with closing(PostgreSQL(url, 5)) as one, closing(PostgreSQL(url, 5)) as other:
        for logs in (one, other):
            logs.hold(lambda: None)
        yield [one, other]


def opened(logs: PostgreSQL, name: str = "orders") -> BlockLog:
    log = logs.open(name)
    assert isinstance(log, BlockLog)
    return log


# -- what runs in the server ---------------------------------------------------------------


def revision(database: str) -> str:
    """Return the revision of the function that appends, as its text says."""
    text = "SELECT prosrc FROM pg_proc WHERE oid = to_regproc('esource.append')"
    [(source,)] = shared_postgres().do(text, database=database)
    return str(source).split("revision ")[1].split()[0]


def be_of_revision(database: str, number: int) -> None:
    """Have the function be of another one, which does the same."""
    text = APPENDING.replace(f"-- revision {REVISION}", f"-- revision {number}")
    shared_postgres().do(text, database=database)


def test_a_start_replaces_what_appends_while_hubs_of_an_older_version_go_on(
    hubs: list[PostgreSQL], database: str
) -> None:
    log = opened(hubs[0])
    log.append(None, [ROWS])
    be_of_revision(database, REVISION - 1)
    log.append(None, [ROWS])
    hubs[1].hold(lambda: None)
    assert revision(database) == f"{REVISION}"
    log.append(None, [OTHER])
    assert opened(hubs[1]).pread(0, 1000) == ROWS + ROWS + OTHER
    be_of_revision(database, REVISION + 1)
    hubs[0].hold(lambda: None)
    assert revision(database) == f"{REVISION + 1}", "a newer version's stays"


def test_a_hub_that_may_not_replace_what_appends_does_with_what_is_there(
    hubs: list[PostgreSQL], database: str
) -> None:
    be_of_revision(database, REVISION - 1)
    shared_postgres().do(
        f"CREATE ROLE {database} LOGIN",
        f"GRANT USAGE ON SCHEMA esource TO {database}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA esource TO {database}",
        database=database,
    )
    url = shared_postgres().url(database).replace("//postgres@", f"//{database}@")
    with closing(PostgreSQL(url, 5)) as logs:
        logs.hold(lambda: None)
        opened(logs).append(None, [ROWS])
        assert opened(hubs[0]).pread(0, 1000) == ROWS
    assert revision(database) == f"{REVISION - 1}"


@pytest.mark.parametrize("count", [1, 3])
def test_several_blocks_are_appended_as_one(hubs: list[PostgreSQL], count: int) -> None:
    log = opened(hubs[0])
    each = [b"%d\t\t%b\n" % (n, b"x" * blocks.BLOCK_BYTES) for n in range(count)]
    for number in range(2):
        written = log.append(None, each)
        assert isinstance(written, Appended)
        assert written.start == number * len(b"".join(each))
    again = opened(hubs[1])
    assert again.pread(0, again.end) == 2 * b"".join(each)


# -- appends -------------------------------------------------------------------------------


def test_an_entry_that_is_sent_again_finds_itself_wherever_others_have_got_to(
    hubs: list[PostgreSQL],
) -> None:
    one, other = hubs
    entry = entry_of([ROWS], None, b"")
    first = one.append("orders", Head(), entry)
    opened(other).append(None, [OTHER])
    again = one.append("orders", Head(), entry)
    assert (first.start, again.start) == (0, 0)
    assert again.head.end == len(ROWS) + len(OTHER)
    assert opened(other).pread(0, 1000) == ROWS + OTHER


def test_what_was_refused_once_is_never_done(hubs: list[PostgreSQL]) -> None:
    one, other = hubs
    late, early = b"2026-01-01T00:00:00.000002Z", b"2026-01-01T00:00:00.000001Z"
    opened(other).append(None, [late + b"\t\tx\n"])
    for entry in (
        entry_of([early + b"\t\tx\n"], None, early), entry_of([late + b"\t\tx\n"], None, late),
        entry_of([ROWS], 0, b""), entry_of([ROWS], 1, b""),
    ):  # fmt: skip
        for _ in range(2):
            answer = one.append("orders", Head(), entry)
            assert (answer.start, answer.goes_on) == (None, True)
            opened(other).append(None, [OTHER])


def test_a_log_that_was_empty_reads_what_others_have_put_there(hubs: list[PostgreSQL]) -> None:
    one, other = hubs
    log, exact = opened(one), opened(one)
    opened(other).append(None, [ROWS])
    moved = log.write(None, [OTHER])  # which might begin behind a byte order mark
    assert isinstance(moved, Moved)
    assert (moved.end, moved.is_kept) == (len(ROWS), False)
    opened(other).append(None, [ROWS])
    written = log.write(None, [OTHER])
    assert isinstance(written, Written)
    assert written.start == 2 * len(ROWS)
    assert log.pread(0, 1000) == ROWS + ROWS + OTHER, "a mark is made of it before it is settled"
    log.settle(written, 0.0)
    moved = exact.write(0, [OTHER])
    assert isinstance(moved, Moved)
    assert (moved.end, moved.is_kept) == (2 * len(ROWS) + len(OTHER), False)
    assert exact.pread(0, 1000) == ROWS + ROWS + OTHER
    assert exact.generation == log.generation != ""


def test_rows_of_others_are_no_part_of_an_append_in_progress(hubs: list[PostgreSQL]) -> None:
    one, other = hubs
    log = opened(one)
    written = log.write(None, [ROWS])
    assert isinstance(written, Written)
    assert log.is_current(), "nobody was told of it"
    log.settle(written, 0.0)
    opened(other).append(None, [OTHER])
    written = log.write(None, [ROWS])
    assert isinstance(written, Written)
    assert not log.is_current(), "a publisher was told of rows that are before it"
    log.settle(written, 0.0)
    assert log.is_current()


@pytest.mark.parametrize("is_cached", [False, True])
def test_rows_that_are_gone_are_never_read_with_those_that_stand_in_their_place(
    hubs: list[PostgreSQL], database: str, is_cached: bool
) -> None:
    one, other = hubs
    for rows in (ROWS, OTHER, OTHER):
        opened(one).append(None, [rows])
    log = BlockLog("orders", one, Cache(), one.head("orders", Head()).head)
    if is_cached:
        assert log.pread(0, 1000) == ROWS + OTHER + OTHER
    # As it is on a standby that lacks the last rows, once it has taken over.
    shared_postgres().do(
        f'DELETE FROM esource.block WHERE "end" > {len(ROWS)}',
        'UPDATE esource.channel SET ("end", nonce) = (SELECT "end", nonce FROM esource.block)',
        database=database,
    )
    for name in (b"4", b"5"):
        opened(other).append(None, [name + b"\t\tthree\n"])
    assert not log.is_current()
    moved = log.append(None, [ROWS])
    assert isinstance(moved, Moved)
    assert moved.end is None
    change = log.refresh()
    assert isinstance(change, Replaced)
    assert change.by.pread(0, 1000) == ROWS + b"4\t\tthree\n5\t\tthree\n"
    assert log.pread(0, 1000) in ((ROWS + OTHER + OTHER) if is_cached else b"", b"")
    assert isinstance(change.by.append(None, [ROWS]), Appended)


def test_an_append_after_a_long_time_looks_for_itself_in_few_rows(
    hubs: list[PostgreSQL], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = hubs
    known: list[int] = []
    append = one.append

    def spy(name: str, head: Head, entry: Entry) -> Answer:
        known.append(head.end)
        return append(name, head, entry)

    monkeypatch.setattr(one, "append", spy)
    log = opened(one)
    opened(other).append(None, [ROWS])
    log.append(None, [OTHER])
    opened(other).append(None, [ROWS])
    monkeypatch.setattr(blocks, "STALE_SECONDS", 0.0)
    appended = log.append(None, [OTHER])
    assert isinstance(appended, Appended)
    assert known == [0, appended.start]


def heard(hubs: list[PostgreSQL]) -> list[Notice]:
    """What the first hub is told; an empty list if nothing comes for a while."""
    return hubs[0].listen(5) or []


def test_what_another_hub_tells_is_all_that_a_log_needs(
    hubs: list[PostgreSQL], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = hubs
    assert one.listen(5) is None
    log, theirs = opened(one), opened(other)
    long = b"4\t\t%b\n" % (b"x" * blocks.NEWS_BYTES)
    for batches in ([ROWS], [OTHER, OTHER], [long]):
        for rows in batches:
            theirs.append(None, [rows])
        other.tell([theirs])
        before = log.end
        assert one.heed(log, heard(hubs))
        assert log.is_current(), "the head is that of the engine"
        if batches != [long]:
            with monkeypatch.context() as patch:
                patch.setattr(one, "read", None)  # the rows have come with the notice
                assert log.pread(before, log.end - before) == b"".join(batches)
    assert log.pread(0, 10_000) == ROWS + OTHER + OTHER + long
    assert isinstance(log.append(log.end, [OTHER]), Appended)


def test_a_notice_that_does_not_go_on_from_what_is_known_changes_nothing(
    hubs: list[PostgreSQL], database: str
) -> None:
    one, other = hubs
    assert one.listen(5) is None
    theirs, late = opened(other), opened(one)

    def told() -> list[Notice]:
        other.tell([theirs])
        return heard(hubs)

    theirs.append(None, [ROWS])
    first = told()
    theirs.append(None, [OTHER])
    second = told()
    for about in ("", "nonsense", first[0].about[:-4], first[0].about + "!", "1 " + first[0].about):
        assert not one.heed(late, [first[0]._replace(about=about)]), "it makes no sense"
    assert not one.heed(late, second), "the first is missing"
    assert (late.end, late.pread(0, 1000)) == (0, b"")
    assert one.heed(late, first)
    assert one.heed(late, second)
    assert one.heed(late, first), "which is known"
    opened(one).append(None, [ROWS])
    theirs.append(None, [ROWS])
    assert not one.heed(late, told()), "others have appended in between"
    assert late.refresh() is None
    # As it is on a standby that lacks the last rows, once it has taken over.
    shared_postgres().do(
        f'DELETE FROM esource.block WHERE "end" > {len(ROWS)}',
        'UPDATE esource.channel SET ("end", nonce) = (SELECT "end", nonce FROM esource.block)',
        database=database,
    )
    theirs = opened(other)
    theirs.append(None, [b"5\t\tother\n"])
    assert not one.heed(late, told()), "what is known is gone"
    assert isinstance(late.refresh(), Replaced)


def test_a_notice_of_first_rows_behind_a_byte_order_mark_is_not_gone_on_with(
    hubs: list[PostgreSQL],
) -> None:
    """Followers of the channel without rows would be shown it."""
    one, other = hubs
    assert one.listen(5) is None
    theirs, late = opened(other), opened(one)
    theirs.append(None, [BOM + ROWS])
    other.tell([theirs])
    assert not one.heed(late, heard(hubs))


def test_who_may_only_connect_neither_hears_rows_nor_says_what_they_are(
    hubs: list[PostgreSQL], database: str
) -> None:
    assert hubs[0].listen(5) is None
    [(name,)] = shared_postgres().do("SELECT news FROM esource.form", database=database)
    assert len(str(name)) > len("esource_") + 30
    shared_postgres().do(f"NOTIFY {name}, 'nobody\nforged '", database=database)
    assert heard(hubs) == [Notice("forged")], "it is the name that is not known"


def asked_of(logs: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return a list to which each read of rows from now on adds (offset, stop)."""
    read, asked = logs.read, list[tuple[int, int]]()

    def counted(name: str, head: Head, offset: int, stop: int) -> tuple[int, bytes]:
        asked.append((offset, stop))
        return read(name, head, offset, stop)

    monkeypatch.setattr(logs, "read", counted)
    return asked


def test_who_reads_on_asks_for_what_follows_along(
    hubs: list[PostgreSQL], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = hubs
    block = b"".join(b"%d\t\t%b\n" % (n, b"x" * 1000) for n in range(250))
    for _ in range(3):
        opened(one).append(None, [block])
    log, asked = opened(other), asked_of(other, monkeypatch)
    assert b"".join(log.pread(n * len(block), len(block)) for n in range(3)) == 3 * block
    assert asked == [(0, 3 * len(block))]


def test_who_reads_a_little_beyond_what_is_known_asks_for_what_follows(
    hubs: list[PostgreSQL], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = hubs
    block = b"".join(b"%d\t\t%b\n" % (n, b"x" * 1000) for n in range(250))
    for _ in range(7):
        opened(one).append(None, [block])
    log, asked = opened(other), asked_of(other, monkeypatch)
    assert log.pread(0, 100_000) == block[:100_000]
    [known] = [stop for _, stop in asked]
    known += -known % len(block)  # whole blocks
    assert log.pread(known - 100_000, 100_010) == block[-100_000:] + block[:10]
    assert asked[1:] == [(known, min(known + READ_BYTES, 7 * len(block)))]


def test_who_wants_few_bytes_asks_for_no_more(
    hubs: list[PostgreSQL], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = hubs
    for n in range(100):
        opened(one).append(None, [b"%d\t\t%b\n" % (n, b"x" * 5000)])
    log, asked = opened(other), asked_of(other, monkeypatch)
    assert log.pread(0, 10) == b"0\t\txxxxxxx"
    assert asked == [(0, 10)]


def test_an_append_behind_few_rows_of_others_asks_for_them_once(
    hubs: list[PostgreSQL], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, whole = opened(hubs[0]), b"first\t\t\n"
    one.append(None, [whole])
    other = opened(hubs[1])
    one.append(None, [whole])
    whole *= 2
    for number in range(1, 20):
        asked = asked_of(hubs[number % 2], monkeypatch)
        log = (one, other)[number % 2]
        row = b"%d\t\t%b\n" % (number, 100 * b"x")
        written = log.write(None, [row])
        assert isinstance(written, Written)
        whole += row
        places = written.start, len(whole)
        assert [mark(log, place) for place in places] == [crc32(whole[:place]) for place in places]
        log.settle(written, 0.0)
        assert View.of(log).newest_id == b"%d" % number
        assert len(asked) == 1


def test_rows_before_an_append_that_was_tried_twice_stand_where_they_are(
    hubs: list[PostgreSQL], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = opened(hubs[0])
    one.append(None, [ROWS])
    other, append = opened(hubs[1]), hubs[1].append
    one.append(None, [b"3\t\tbefore\n"])

    def of_a_connection_that_is_cut(name: str, known: Head, entry: Entry) -> Answer:
        append(name, known, entry)  # of which the answer does not come
        one.append(None, [b"5\t\tbehind\n"])
        return append(name, known, entry)

    with monkeypatch.context() as patch:
        patch.setattr(hubs[1], "append", of_a_connection_that_is_cut)
        written = other.write(None, [b"4\t\tmine\n"])
    assert isinstance(written, Written)
    whole = ROWS + b"3\t\tbefore\n4\t\tmine\n5\t\tbehind\n"
    assert other.pread(0, len(whole)) == whole
    other.settle(written, 0.0)
    assert other.pread(0, len(whole)) == whole


def test_what_was_read_of_rows_that_could_not_be_settled_is_not_kept(
    hubs: list[PostgreSQL], database: str
) -> None:
    one, other = hubs
    log = opened(one)
    log.append(None, [ROWS])
    written = log.write(None, [b"3\t\tmine\n"])
    assert isinstance(written, Written)
    assert log.pread(0, 1000) == ROWS + b"3\t\tmine\n"
    with pytest.raises(StorageError):
        log.settle(written, 0.0, ValueError("nobody knows"))
    # As it is on a standby that lacks the last rows, once it has taken over.
    shared_postgres().do(
        f'DELETE FROM esource.block WHERE "end" > {len(ROWS)}',
        'UPDATE esource.channel SET ("end", nonce) = (SELECT "end", nonce FROM esource.block)',
        database=database,
    )
    opened(other).append(None, [b"4\t\ttheirs\n"])
    assert log.refresh() is None
    assert log.pread(0, 1000) == ROWS + b"4\t\ttheirs\n"


def test_rows_that_are_not_all_there_are_not_taken_for_those_before_an_append(
    hubs: list[PostgreSQL], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, whole = opened(hubs[0]), b"".join(b"%d\t\tone\n" % n for n in range(4))
    for row in whole.splitlines(keepends=True)[:2]:
        one.append(None, [row])
    other = opened(hubs[1])
    one.append(None, [whole.splitlines(keepends=True)[2]])
    read = hubs[1].read

    def of_a_server_that_lacks_some(
        name: str, head: Head, offset: int, stop: int
    ) -> tuple[int, bytes]:
        start, rows = read(name, head, offset, stop)
        return start, rows[:-7]

    with monkeypatch.context() as patch:
        patch.setattr(hubs[1], "read", of_a_server_that_lacks_some)
        written = other.write(None, [b"3\t\tone\n"])
    assert isinstance(written, Written)
    assert other.pread(0, len(whole)) == whole
    other.settle(written, 0.0)


@pytest.mark.parametrize("size", [1, 30, 3000, LAST_BYTES - 4, LAST_BYTES, 100_000])
def test_the_last_rows_come_with_the_head(
    hubs: list[PostgreSQL], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    rows = [b"%05d\t\t%b\n" % (n, b"x" * size) for n in range(2 + 20_000 // size)][:200]
    for row in rows:
        opened(hubs[0]).append(None, [row])
    asked = asked_of(hubs[1], monkeypatch)
    log, last = opened(hubs[1]), b"".join(rows)[-LAST_BYTES:]
    assert log.pread(log.end - len(last), len(last)) == last
    assert asked == []
    log.pread(max(log.end - LAST_BYTES - 1, 0), 1)
    assert bool(asked) == (log.end > LAST_BYTES), "no more than these"
    assert log.pread(0, log.end) == b"".join(rows)
