"""Logs in PostgreSQL, 15 and later: heads and blocks in two tables, and one function that appends.

The row of a channel is locked while it is appended to; the queue for that lock is the order of the
appends, whichever hub they come from. What is committed there is durable, as far as the server's
`synchronous_commit` and its standbys make it so.

What others are told (`NOTIFY`) is told after the commit and on another connection: within the
transaction it takes a lock of the whole server.
"""
# ruff: noqa: D102 -- what the calls of logs and engines promise, the contracts say

import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from struct import Struct, pack
from typing import Any, NamedTuple, TypeAlias, TypeVar

import psycopg
from psycopg import errors
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.generators import execute
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult
from psycopg.waiting import Ready

from esource.errors import StartError, StorageError, StorageFull
from esource.log import Counts, Kept, Log, Notice, Summary, WithoutFiles
from esource.log.blocks import (
    ESCAPE,
    KINDS,
    LAST_BYTES,
    Answer,
    BlockLog,
    Cache,
    Entry,
    Head,
    heard,
    heed,
    new_number,
    told,
)
from esource.log.index import Kind, Part, Span
from esource.log.patience import PAUSE_SECONDS, Away, Patience, TooLate, Unsafe, Untried
from esource.log.waiting import IN_THREADS, Waiting
from esource.rows import tsv
from esource.rules import Rule, rule_of

RV = TypeVar("RV")
_Server: TypeAlias = dict[str, str]  # its host and port, as parameters of a connection
Rows: TypeAlias = list[tuple[Any, ...]]
OLDEST = 15_00_00
FORM = 2  # of the tables
NOTICE_BYTES = 7500  # of at most 8000
BYTEA, BIGINT, TEXT, BYTEA_ARRAY, TEXT_ARRAY = 17, 20, 25, 1001, 1009  # numbers of types
TRUE = b"\1"
POLL_SECONDS = 0.1  # between looks at the clock while the server is waited for
IDLE = 24  # connections that are kept for the next calls: of all commits and reads at once
WARM = 4  # of these, that are made at the start


class Statement(NamedTuple):
    """What is run often: prepared once for a connection, and run without a cursor.

    A cursor takes several times as long as what a commit sends and gets.
    """

    name: bytes
    text: bytes
    types: tuple[int, ...]  # numbers, of its parameters


SCHEMA = """
CREATE SCHEMA IF NOT EXISTS esource;
-- Whoever can connect may listen to any name, and notify: notices have one that none can guess.
CREATE TABLE esource.form (
    form int NOT NULL,
    news text NOT NULL DEFAULT 'esource_' || replace(gen_random_uuid()::text, '-', '')
);
CREATE TABLE esource.channel (
    name text COLLATE "C" PRIMARY KEY,
    generation bigint NOT NULL UNIQUE,
    start bigint NOT NULL DEFAULT 0,
    first bigint NOT NULL,
    "end" bigint NOT NULL DEFAULT 0,
    nonce bigint NOT NULL DEFAULT 0,
    erasures bigint NOT NULL DEFAULT 0,
    newest bytea NOT NULL DEFAULT '',
    floor bytea NOT NULL DEFAULT '',
    modified timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
CREATE TABLE esource.block (
    generation bigint NOT NULL,
    "end" bigint NOT NULL,
    nonce bigint NOT NULL,
    stored timestamptz NOT NULL DEFAULT clock_timestamp(),
    rows bytea NOT NULL,
    PRIMARY KEY (generation, "end")
);
CREATE TABLE esource.erasure (
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    channel text COLLATE "C" NOT NULL,
    "offset" bigint NOT NULL,
    size bigint NOT NULL,
    id bytea NOT NULL,
    "by" text NOT NULL,
    reason text NOT NULL
);
ALTER TABLE esource.block ALTER rows SET STORAGE EXTERNAL;
CREATE TABLE esource.index (
    generation bigint NOT NULL REFERENCES esource.channel (generation) ON DELETE CASCADE,
    kind text COLLATE "C" NOT NULL,
    size bigint NOT NULL,
    start bigint NOT NULL,
    line bytea NOT NULL,
    hashes bytea,
    PRIMARY KEY (generation, kind, size, start)
);
ALTER TABLE esource.index ALTER hashes SET STORAGE EXTERNAL;

-- Whether the rows before an offset are those of which the last block had this nonce.
CREATE FUNCTION esource.goes_on(
    c esource.channel, known_generation bigint, known_end bigint, known_nonce bigint
) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN known_generation = 0 THEN true
        WHEN known_generation IS DISTINCT FROM c.generation OR known_end > c."end" THEN false
        WHEN known_end <= c.start THEN true
        WHEN known_end = c."end" THEN known_nonce = c.nonce
        ELSE EXISTS (
            SELECT FROM esource.block b
            WHERE b.generation = c.generation AND b."end" = known_end AND b.nonce = known_nonce
        )
    END
$$;

-- Up to where the blocks after an offset go, of some thousand, if an age and a size are kept.
CREATE FUNCTION esource.cut(c esource.channel, age interval, size bigint, after bigint)
RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT max(s."end") FROM (
        SELECT b."end", bool_and(
            coalesce(b.stored < clock_timestamp() - age, false)
            OR coalesce(c."end" - b."end" >= size, false)
        ) OVER (ORDER BY b."end") AS goes
        FROM esource.block b
        WHERE b.generation = c.generation AND b."end" > after AND b."end" < c."end"
        ORDER BY b."end" LIMIT 5000
    ) s WHERE goes
$$;

CREATE FUNCTION esource.trim(a_name text, age interval, size bigint, OUT removed bigint)
LANGUAGE plpgsql AS $$
DECLARE
    c esource.channel;
    cut bigint;
BEGIN
    SELECT * INTO c FROM esource.channel x WHERE x.name = a_name FOR NO KEY UPDATE;
    cut := esource.cut(c, age, size, c.start);
    removed := coalesce(cut - c.start, 0);
    IF removed > 0 THEN
        DELETE FROM esource.block b WHERE b.generation = c.generation AND b."end" <= cut;
        DELETE FROM esource.index i WHERE i.generation = c.generation AND i.start + i.size <= cut;
        UPDATE esource.channel x SET start = cut, first = cut WHERE x.name = a_name;
    END IF;
END $$;

-- Rows of an index. An erasure waits for it, and it for an erasure; an append does not.
CREATE FUNCTION esource.learn(
    a_name text, known_generation bigint, known_end bigint, known_nonce bigint,
    known_erasures bigint, a_kind text, a_size bigint, a_start bigint, a_line bytea, a_hashes bytea
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    c esource.channel;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);  -- it can be made again
    SELECT * INTO c FROM esource.channel x WHERE x.name = a_name FOR KEY SHARE;
    IF c.erasures = known_erasures
        AND esource.goes_on(c, known_generation, known_end, known_nonce) THEN
        INSERT INTO esource.index (generation, kind, size, start, line, hashes)
            VALUES (c.generation, a_kind, a_size, a_start, a_line, a_hashes)
            ON CONFLICT DO NOTHING;
        DELETE FROM esource.index i
            WHERE a_hashes IS NOT NULL AND i.generation = c.generation AND i.kind = a_kind
            AND i.size < a_size AND i.start >= a_start AND i.start + i.size <= a_start + a_size;
    END IF;
END $$;

-- What the index says of rows that are overwritten.
CREATE FUNCTION esource.forget() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM esource.channel c WHERE c.generation = NEW.generation FOR UPDATE;
    DELETE FROM esource.index i WHERE i.generation = NEW.generation AND i.kind = 'zone'
        AND i.start < NEW."end" AND i.start + i.size > NEW."end" - length(NEW.rows);
    RETURN NULL;
END $$;
CREATE TRIGGER forget AFTER UPDATE OF rows ON esource.block
    FOR EACH ROW EXECUTE FUNCTION esource.forget();
"""
# Its text has a revision: a start replaces an older one, and hubs that know that go on with this.
# So what it takes, gives and promises stays as it is.
REVISION = 2
APPENDING = f"""
CREATE OR REPLACE FUNCTION esource.append(
    a_name text, known_generation bigint, known_end bigint, known_nonce bigint,
    expected bigint, lowest bytea, highest bytea, newest_id bytea, a_first bigint,
    a_nonce bigint, new_generation bigint, blocks bytea[],
    OUT c esource.channel, OUT is_known boolean, OUT at bigint
) LANGUAGE plpgsql AS $$
-- revision {REVISION}
DECLARE
    size bigint := length(blocks[1]);
BEGIN  -- mostly one block behind what is known: to ask anything more takes longer than to append
    IF cardinality(blocks) <> 1 THEN
        size := (SELECT sum(length(r)) FROM unnest(blocks) r);
    END IF;
    SELECT * INTO c FROM esource.channel x WHERE x.name = a_name FOR NO KEY UPDATE;
    IF c.name IS NULL THEN
        IF known_generation <> 0 OR coalesce(expected, 0) <> 0 THEN
            is_known := known_generation = 0;
            RETURN;
        END IF;
        INSERT INTO esource.channel (name, generation, first)
            VALUES (a_name, new_generation, a_first) ON CONFLICT DO NOTHING;
        SELECT * INTO c FROM esource.channel x WHERE x.name = a_name FOR NO KEY UPDATE;
    END IF;
    is_known := (known_generation = c.generation AND known_end = c."end" AND known_nonce = c.nonce)
        OR esource.goes_on(c, known_generation, known_end, known_nonce);
    IF NOT is_known THEN
        RETURN;
    END IF;
    IF c."end" > known_end THEN  -- did an earlier try get through?
        SELECT max(b."end") - size INTO at FROM esource.block b
            WHERE b.generation = c.generation AND b."end" > known_end AND b.nonce = a_nonce;
        IF at IS NOT NULL THEN
            RETURN;
        END IF;
    END IF;
    IF expected <> c."end" OR (lowest <> '' AND lowest <= c.floor) THEN
        RETURN;
    END IF;
    at := c."end";
    IF cardinality(blocks) = 1 THEN
        INSERT INTO esource.block (generation, "end", nonce, rows)
            VALUES (c.generation, at + size, a_nonce, blocks[1]);
    ELSE
        INSERT INTO esource.block (generation, "end", nonce, rows)
            SELECT c.generation, at + sum(length(r)) OVER (ORDER BY n), a_nonce, r
            FROM unnest(blocks) WITH ORDINALITY AS each(r, n);
    END IF;
    UPDATE esource.channel x SET
        "end" = at + size, nonce = a_nonce, modified = clock_timestamp(),
        newest = CASE WHEN newest_id = '' THEN x.newest ELSE newest_id END,
        floor = greatest(x.floor, highest)
        WHERE x.name = a_name RETURNING * INTO c;
END $$
"""
REVISED = r"""
SELECT substring(prosrc FROM '-- revision (\d+)')::int FROM pg_proc
WHERE oid = to_regproc('esource.append')
"""
HEAD = """
SELECT generation, start, first, "end", nonce, erasures, extract(epoch FROM modified)::float8,
    esource.goes_on(c, %s, %s, %s)
FROM esource.channel c WHERE name = %s
"""
# The same, with the last bytes: of the first block that has some of them, a part.
OPEN = f"""
SELECT generation, start, first, "end", nonce, erasures, extract(epoch FROM modified)::float8, (
    SELECT string_agg(
        substring(rows FROM greatest(1, c."end" - {LAST_BYTES} - b."end" + length(rows) + 1)::int),
        '' ORDER BY b."end"
    )
    FROM esource.block b
    WHERE b.generation = c.generation AND b."end" > c."end" - {LAST_BYTES} AND b."end" <= c."end"
)
FROM esource.channel c WHERE name = %s
"""
HEADS = """
SELECT name, generation, start, first, "end", nonce, erasures,
    extract(epoch FROM modified)::float8
FROM esource.channel WHERE name = ANY(%s)
"""
APPEND = Statement(
    b"append",
    b"""
SELECT (c).generation, (c).start, (c).first, (c)."end", (c).nonce, (c).erasures,
    extract(epoch FROM (c).modified)::float8, is_known, at
FROM esource.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
""",
    (TEXT, *4 * [BIGINT], *3 * [BYTEA], *3 * [BIGINT], BYTEA_ARRAY),
)
APPENDED = Struct("!6qd")  # a head, in what it returns
GOES_ON = """EXISTS (
    SELECT FROM esource.block
    WHERE generation = %(generation)s AND "end" = %(end)s AND nonce = %(nonce)s
)"""
# Blocks are at most 256 KiB, but for single rows. (To have the server join them took it four times
# as long.)
READ = f"""
SELECT "end" - length(rows), rows FROM esource.block
WHERE generation = %(generation)s AND "end" > %(offset)s
    AND "end" <= %(stop)s::bigint + 262144 AND "end" - length(rows) < %(stop)s AND {GOES_ON}
ORDER BY "end"
"""
READ_LONG = f"""
SELECT "end" - length(rows), rows FROM esource.block
WHERE generation = %(generation)s AND "end" > %(offset)s AND {GOES_ON} ORDER BY "end" LIMIT 1
"""
LINES = """
SELECT w.n, i.start, i.line
FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bigint[])
    WITH ORDINALITY w(kind, size, first, stop, n)
JOIN esource.index i ON i.generation = %s AND i.kind = w.kind COLLATE "C" AND i.size = w.size
    AND i.start >= w.first AND i.start < w.stop
ORDER BY w.n, i.start
"""
HASHES = """
SELECT substring(i.hashes FROM w.place FOR w.bytes)
FROM unnest(%s::bigint[], %s::bigint[], %s::int[], %s::int[])
    WITH ORDINALITY w(size, start, place, bytes, n)
LEFT JOIN esource.index i
    ON i.generation = %s AND i.kind = %s AND i.size = w.size AND i.start = w.start
ORDER BY w.n
"""
LEARN = """SELECT esource.learn(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""
NAMES = """SELECT name FROM esource.channel ORDER BY name"""
SUMMARIES = """
SELECT name, "end", newest, extract(epoch FROM modified)::float8
FROM esource.channel WHERE name = ANY(%s) ORDER BY name
"""
KEPT = """
SELECT name, "end" - start, extract(epoch FROM modified)::float8 FROM esource.channel
"""
# Of each channel: its size, and how old its first block is, in seconds.
OLDEST_BLOCKS = """
SELECT name, "end" - start, extract(epoch FROM clock_timestamp() - (
    SELECT stored FROM esource.block b WHERE b.generation = c.generation ORDER BY "end" LIMIT 1
))::float8 FROM esource.channel c
"""
TRIM = """SELECT esource.trim(%s, %s * interval '1 second', %s)"""
CUT = """
SELECT esource.cut(c, %s * interval '1 second', %s, %s) FROM esource.channel c WHERE name = %s
"""
CREATE = """
INSERT INTO esource.channel (name, generation, start, first, "end") VALUES (%s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING
"""
DATE = """
WITH c AS (
    UPDATE esource.channel SET modified = to_timestamp(%(time)s) WHERE name = %(name)s RETURNING *
), b AS (
    UPDATE esource.block b SET stored = c.modified FROM c
    WHERE b.generation = c.generation AND b."end" > %(start)s AND b."end" <= %(end)s
) SELECT
"""
ERASE = """
WITH record AS (
    INSERT INTO esource.erasure (channel, "offset", id, size, "by", reason)
    VALUES (%(name)s, %(offset)s, %(id)s, length(%(row)s), %(by)s, %(reason)s)
), c AS (
    UPDATE esource.channel SET erasures = erasures + 1 WHERE name = %(name)s RETURNING *
), b AS (
    SELECT b.generation, b."end", b.rows FROM esource.block b, c
    WHERE b.generation = c.generation AND b."end" > %(offset)s ORDER BY b."end" LIMIT 1
) UPDATE esource.block x
SET rows = overlay(b.rows PLACING %(row)s FROM (%(offset)s - b."end" + length(b.rows) + 1)::int)
FROM b WHERE x.generation = b.generation AND x."end" = b."end" RETURNING 1
"""
REMOVE = """
WITH c AS (DELETE FROM esource.channel WHERE name = %s RETURNING generation)
DELETE FROM esource.block b USING c WHERE b.generation = c.generation RETURNING 1
"""
SETTINGS = """
SELECT name, setting FROM pg_settings WHERE name IN
    ('server_version_num', 'fsync', 'full_page_writes', 'synchronous_commit',
    'synchronous_standby_names')
"""
# Not waited for until it is on disk: those who miss it look for themselves.
NOTIFY = Statement(
    b"notify",
    b"""
SELECT set_config('synchronous_commit', 'off', true), pg_notify(news, text)
FROM esource.form, unnest($1::text[]) text
""",
    (TEXT_ARRAY,),
)
# What may be over the next moment: the server ends, begins, or is a standby now.
AWAY = (psycopg.OperationalError, psycopg.InterfaceError, errors.ReadOnlySqlTransaction)
MAY_BE_STORED = "the event may have been stored: repeat it with unique=1"
NO_URL = f"ESOURCE_STORE is no postgresql:// URL that libpq understands; {ESCAPE}"
DEFAULTS = {
    "application_name": "esource", "target_session_attrs": "read-write",
    "keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3",
}  # fmt: skip


def _bigint(number: int) -> bytes:
    return pack("!q", number)


def _array(of: int, each: "Sequence[bytes | memoryview[int]]") -> bytes:
    """Return an array of some type, in one piece: psycopg's own way makes two more copies."""
    parts: list[bytes | memoryview[int]] = [pack("!5I", 1, 0, of, len(each), 1)]
    for value in each:
        parts += pack("!I", len(value)), value
    return b"".join(parts)


class _NoTime(psycopg.OperationalError):
    """There is not enough time left to connect."""


class _Warned(psycopg.OperationalError):
    """The server has warned of something: its answer is not to be relied on."""


class _Connection(psycopg.Connection[Any]):
    """A connection of which each call ends in time."""

    server: "_Server"
    waiting: Waiting
    breaks = 0  # how often one had failed when it was made
    deadline = 0.0  # of the call, by the monotonic clock
    warning = ""  # that the server has sent with an answer
    prepared: frozenset[Statement] = frozenset()

    def run(
        self, statement: Statement, parameters: Sequence[bytes | None]
    ) -> list[list[bytes | None]]:
        """Return the rows of a statement. Parameters and values are in PostgreSQL's binary form."""
        if statement not in self.prepared:
            self.pgconn.send_prepare(*statement)
            self._result()
            self.prepared |= {statement}
        formats = [Format.BINARY] * len(parameters)
        self.pgconn.send_query_prepared(statement.name, parameters, formats, Format.BINARY)
        found = self._result()
        columns = range(found.nfields)
        return [[found.get_value(row, each) for each in columns] for row in range(found.ntuples)]

    def _result(self) -> PGresult:
        """Wait for the result of what was sent; raise what the server, or libpq, says."""
        result: PGresult = self.wait(execute(self.pgconn))[-1]
        if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
            raise errors.error_from_result(result)
        return result

    def wait(
        self, gen: PQGen[RV], interval: float = POLL_SECONDS, timeout: float | None = None
    ) -> RV:  # fmt: skip
        """Wait for the server, until the deadline if nothing else is said; raise what is `AWAY`."""
        left = self.deadline - time.monotonic() if timeout is None else timeout
        if self.waiting.is_in_loop():
            until = time.monotonic() + left
            try:
                wanted = next(gen)
                while left > 0:
                    ready = self.waiting.ready(self.pgconn.socket, wanted, left)
                    wanted = gen.send(Ready(ready))
                    left = until - time.monotonic()
            except StopIteration as done:
                answer: RV = done.value
                return answer
        return super().wait(gen, interval, max(left, 0.0))  # in the loop, a last look


class PostgreSQL(WithoutFiles):
    """The logs in one database (see `esource.log.Logs`), and their engine."""

    def __init__(
        self, url: str, seconds: float, rules: Sequence[Rule] = (), waiting: Waiting = IN_THREADS
    ) -> None:  # fmt: skip
        """Name the database; nothing is asked yet. A call takes up to so many seconds.

        Raises `StartError`.
        """
        self.counts = Counts()
        self._rules = rules
        self._waiting = waiting
        self._seconds = seconds
        self._parameters = _parameters(url, seconds)
        self._servers = _servers(self._parameters)  # that which was there last is first
        self._idle: deque[_Connection] = deque()
        self._breaks = 0  # how often a connection has failed
        self._why = ""  # why none could be made, the last time that it was so
        self._took = 0.0  # seconds, until that was known; 0 once one was made
        self._reads = Patience("PostgreSQL", seconds, self.counts)
        self._writes = Patience("PostgreSQL", seconds, self.counts, writes=True)
        self._cache = Cache()
        self._token = f"{new_number():x}"  # by which a hub knows its own notices
        self._ears: _Connection | None = None
        self._ears_break = 0  # of `_breaks`, when it was made
        self._settings: dict[str, str] = {}

    @property
    def shared(self) -> "PostgreSQL":
        return self

    def place(self) -> str:
        at = ", ".join(f"{name} {self._parameters.get(name)}" for name in ("host", "dbname"))
        standbys = self._settings.get("synchronous_standby_names") or "none"
        version = int(self._settings.get("server_version_num", 0))
        name = f"PostgreSQL {version // 10000}.{version % 10000}" if version else "PostgreSQL"
        return f"{name}, {at}, synchronous standbys: {standbys}"

    # -- calls ---------------------------------------------------------------------------

    def _connect(self, deadline: float) -> _Connection:
        """Connect to the first server that is there, and not a standby."""
        began = time.monotonic()
        if deadline - began < min(self._took, self._seconds / 2):
            raise _NoTime(self._why)  # an attempt takes two seconds if nothing is said
        failure: psycopg.Error | None = None
        servers, breaks = self._servers, self._breaks
        for server in servers:  # one that hangs leaves time for the others
            seconds = max(2, int((deadline - time.monotonic()) / (len(servers) + 1)))
            parameters = {**self._parameters, **server, "connect_timeout": seconds}
            try:
                connection = _Connection.connect(**parameters, autocommit=True)
            except psycopg.OperationalError as error:
                failure = error
                continue
            self._took = 0.0
            connection.server, connection.breaks = server, breaks
            connection.waiting = self._waiting
            self._servers = sorted(servers, key=lambda each: each is not server)
            connection.add_notice_handler(partial(_heed, connection))
            return connection
        assert failure
        self._why, self._took = _said(failure), time.monotonic() - began
        raise failure

    def _broken(self, connection: _Connection) -> None:
        """Let go of all connections that may have failed as well; ask this one's server last.

        Also of those that are at work: a server that stood still, and that others have taken over
        from, may still answer, from what it has. (Of one that is let go already nothing is new.)
        """
        if connection.breaks != self._breaks:
            return
        self._servers = sorted(self._servers, key=lambda each: each is connection.server)
        self._breaks += 1
        with suppress(IndexError):
            while True:
                self._idle.pop().close()

    @contextmanager
    def _connection(self, deadline: float) -> Iterator[_Connection]:
        """Give a connection for one call; after a failure it is closed."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._waiting.apart(self._connect, deadline)
        connection.deadline, connection.warning = deadline, ""
        try:
            yield connection
        except BaseException as error:
            connection.close()
            if isinstance(error, AWAY) and not isinstance(error, errors.DiskFull | _Warned):
                self._broken(connection)
            raise
        if len(self._idle) < IDLE and connection.breaks == self._breaks:
            self._idle.append(connection)
        else:
            connection.close()

    def _call(
        self, statement: str, arguments: Sequence[object] | Mapping[str, object],
        asked: float | None = None,
    ) -> Rows:  # fmt: skip
        """Return the rows of a statement that may be run again. Raises `StorageError`."""
        return self._reads.call(partial(self._once, partial(_rows, statement, arguments)), asked)

    def _write(
        self, statement: str, arguments: Sequence[object] | Mapping[str, object],
        asked: float | None = None,
    ) -> Rows:  # fmt: skip
        """Do the same with a statement of which the commit is waited for."""
        return self._writes.call(partial(self._once, partial(_rows, statement, arguments)), asked)

    def _once(self, run: Callable[[_Connection], RV], deadline: float) -> RV:
        try:
            with self._connection(deadline) as connection:
                rows = run(connection)
                if connection.warning:  # such as of a standby that was not waited for
                    raise _Warned(connection.warning)
                if connection.breaks != self._breaks:
                    raise psycopg.OperationalError("another connection has failed meanwhile")
                return rows
        except errors.DiskFull as error:
            if error.diag.severity_nonlocalized != "ERROR":  # the log of the server: what was
                raise Away(_said(error)) from error  # written last may be committed
            raise StorageFull(f"PostgreSQL: {_said(error)}") from error
        except _Warned as error:
            raise Unsafe(_said(error)) from error
        except _NoTime as error:
            raise TooLate(_said(error)) from error
        except AWAY as error:
            raise Away(_said(error)) from error
        except psycopg.Error as error:
            raise StorageError(f"PostgreSQL: {_said(error)}") from error

    def close(self) -> None:
        """Let go of all connections."""
        for connection in (*self._idle, *filter(None, [self._ears])):
            connection.close()
        self._idle.clear()
        self._ears = None

    # -- an engine -----------------------------------------------------------------------

    def head(self, name: str, known: Head, asked: float | None = None) -> Answer:
        rows = self._call(HEAD, (known.generation, known.end, known.nonce, name), asked)
        if not rows:
            return Answer(Head(), goes_on=not known.generation)
        *head, goes_on = rows[0]
        return Answer(Head(*head), goes_on)

    def append(self, name: str, known: Head, entry: Entry) -> Answer:
        began = time.monotonic()
        parameters = _parameters_of(name, known, entry)
        try:
            [[*values, goes_on, start]] = self._writes.call(
                partial(self._once, lambda connection: connection.run(APPEND, parameters)),
                entry.asked,
            )
        except (StorageFull, Untried):
            raise
        except StorageError as error:
            self.counts.unknown += 1
            raise error.with_text(f"{error.text}; {MAY_BE_STORED}") from error
        self.counts.appends += 1
        self.counts.seconds += time.monotonic() - began
        found = [value for value in values if value is not None]
        head = Head(*APPENDED.unpack(b"".join(found))) if found else Head()
        return Answer(
            head, goes_on == TRUE, None if start is None else int.from_bytes(start, "big")
        )

    def read(self, name: str, head: Head, offset: int, stop: int) -> tuple[int, bytes]:
        at = {
            "generation": head.generation, "end": head.end, "nonce": head.nonce,
            "offset": offset, "stop": stop,
        }  # fmt: skip
        found = self._call(READ, at) or self._call(READ_LONG, at)
        return (found[0][0] if found else offset), b"".join([rows for _, rows in found])

    def lines(
        self, name: str, head: Head, spans: Sequence[Span]
    ) -> Sequence[Sequence[tuple[int, bytes]]]:
        kinds, *numbers = zip(*spans, strict=True)
        of_each: list[object] = [[KINDS[kind] for kind in kinds], *map(list, numbers)]
        found: list[list[tuple[int, bytes]]] = [[] for _ in spans]
        for number, start, line in self._call(LINES, (*of_each, head.generation)):
            found[number - 1].append((start, line))
        return found

    def hashes(
        self, name: str, head: Head, wanted: Sequence[tuple[Part, int, int]]
    ) -> Sequence[bytes | None]:
        sizes, starts = zip(*(part for part, _, _ in wanted), strict=True)
        places = [place + 1 for _, place, _ in wanted]
        rows = self._call(
            HASHES,
            (
                list(sizes), list(starts), places, [size for _, _, size in wanted],
                head.generation, KINDS["ids"],
            ),
        )  # fmt: skip
        return [piece for (piece,) in rows]

    def learn(
        self, name: str, known: Head, kind: Kind, part: Part, line: bytes, hashes: bytes
    ) -> None:
        self._call(
            LEARN,
            (
                name, known.generation, known.end, known.nonce, known.erasures,
                KINDS[kind], *part, line, hashes or None,
            ),
        )  # fmt: skip

    def trim(self, name: str, rule: Rule) -> int:
        [(removed,)] = self._write(TRIM, (name, rule.age, rule.size))
        size: int = removed
        return size

    def trimmable(self, name: str, rule: Rule) -> int:
        start = at = self.head(name, Head()).head.start
        while (rows := self._call(CUT, (rule.age, rule.size, at, name))) and rows[0][0] is not None:
            [(at,)] = rows
        return at - start

    def create(self, name: str, start: int) -> None:
        self._write(CREATE + "RETURNING 1", (name, new_number(), start, start, start))

    def date(self, name: str, start: int, end: int, modified: float) -> None:
        self._write(DATE, {"name": name, "start": start, "end": end, "time": modified})

    def erase(self, name: str, offset: int, row: bytes, by: str, reason: str) -> None:
        about = {"by": by, "reason": reason, "id": tsv.id_of(row)}
        self._write(ERASE, {"name": name, "offset": offset, "row": row, **about})

    def remove(self, name: str) -> None:
        self._write(REMOVE, (name,))

    # -- logs ----------------------------------------------------------------------------

    def hold(self, waiting: Callable[[], None]) -> None:
        """Make the tables if they are not there. Several hubs hold one database."""
        try:
            deadline = time.monotonic() + self._seconds
            with self._connection(deadline) as connection, connection.transaction():
                _make(connection)
            problems = self.problems()
        except (psycopg.Error, StorageError) as error:
            said = _said(error) if isinstance(error, psycopg.Error) else error.text
            raise StartError(f"ESOURCE_STORE: {said}") from error
        if problems:
            raise StartError("ESOURCE_STORE: " + "; ".join(problems))

    def open(self, name: str) -> Log:
        rows = self._call(OPEN, (name,))
        *head, last = rows[0] if rows else (*Head(), None)
        rule = rule_of(self._rules, name)
        return BlockLog(name, self, self._cache, Head(*head), rule, last or b"")

    def names(self) -> list[str]:
        return [name for (name,) in self._call(NAMES, ())]

    def summaries(self, names: Sequence[str]) -> list[Summary]:
        return [Summary(*row) for row in self._call(SUMMARIES, (list(names),))]

    def kept(self) -> Iterator[Kept]:
        for row in self._call(KEPT, ()):
            yield Kept(*row)

    def due(self, now: float) -> list[str]:
        if not self._rules:
            return []
        return [
            name for name, size, age in self._call(OLDEST_BLOCKS, ())
            if (rule := rule_of(self._rules, name))
            and ((rule.age and age and age > rule.age) or (rule.size and size > rule.size))
        ]  # fmt: skip

    def problems(self) -> list[str]:
        try:
            self._settings = dict(self._call(SETTINGS, ()))
        except StorageError as error:
            return [error.text]
        return list(_refused(self._settings))

    # -- other hubs ----------------------------------------------------------------------

    def warm_up(self) -> None:
        """Have the server learn, on some connections, what it learns with a first read or append.

        Which takes several times as long as the next: of a channel that is not there.
        """
        at = {"generation": 0, "end": 0, "nonce": 0, "offset": 0, "stop": 0}
        calls: list[tuple[str, Sequence[object] | Mapping[str, object]]] = [
            (OPEN, ("",)), (HEAD, (0, 0, 0, "")), (READ, at), (LINES, ([""], [0], [0], [0], 0)),
            (HASHES, ([0], [0], [0], [0], 0, "")),
        ]  # fmt: skip
        nothing = _parameters_of("", Head(1), Entry([], None, b"", b"", b"", 0, 0))
        with suppress(psycopg.Error), ExitStack() as stack:
            deadline = time.monotonic() + self._seconds
            for _ in range(WARM):
                connection = stack.enter_context(self._connection(deadline))
                for statement, arguments in calls:
                    connection.execute(statement, arguments, binary=True).fetchall()
                connection.run(APPEND, nothing)

    def tell(self, logs: Sequence[Log]) -> None:
        texts = list(told(self._token, logs, NOTICE_BYTES))
        with suppress(StorageError):  # then they look for themselves
            news = [_array(TEXT, [text.encode() for text in texts])]
            self._reads.call(partial(self._once, lambda connection: connection.run(NOTIFY, news)))

    def listen(self, seconds: float) -> list[Notice] | None:
        try:
            if self._ears and self._ears_break != self._breaks:
                self._ears.close()  # its server may be another's standby by now
                self._ears = None
            if self._ears is None:
                self._ears_break = self._breaks
                self._ears = self._waiting.apart(self._connect, time.monotonic() + self._seconds)
                self._ears.deadline = time.monotonic() + self._seconds
                [(news,)] = self._ears.execute("SELECT news FROM esource.form").fetchall()
                self._ears.execute(f"LISTEN {news}")
                self.counts.gaps += 1
                return None  # of what came before nothing is known
            until = time.monotonic() + seconds
            self._ears.deadline = until + self._seconds
            notices: list[Notice] = []
            while not notices and (left := until - time.monotonic()) > 0:
                for text in self._ears.notifies(timeout=left, stop_after=1):
                    found = heard(self._token, text.payload)
                    notices += found
                    self.counts.notices += bool(found)
            return notices
        except psycopg.Error:
            if self._ears:
                self._ears.close()
            self._ears = None
            time.sleep(random.uniform(*PAUSE_SECONDS))
            return []

    def heed(self, log: Log, notices: Sequence[Notice]) -> bool:
        return heed(log, notices)

    def grown(self, logs: Sequence[Log]) -> list[Log]:
        heads = {name: Head(*head) for name, *head in self._call(HEADS, ([x.name for x in logs],))}
        return [
            log for log in logs
            if isinstance(log, BlockLog) and not log.is_at(heads.get(log.name, Head()))
        ]  # fmt: skip


def _rows(
    statement: str, arguments: Sequence[object] | Mapping[str, object], connection: _Connection
) -> Rows:
    """Return the rows of a statement."""
    return connection.execute(statement, arguments, binary=True).fetchall()


def _parameters_of(name: str, known: Head, entry: Entry) -> list[bytes | None]:
    """Return what `APPEND` takes."""
    return [
        name.encode(), *map(_bigint, (known.generation, known.end, known.nonce)),
        None if entry.expected is None else _bigint(entry.expected),
        entry.least, entry.greatest, entry.newest_id,
        *map(_bigint, (entry.begin, entry.nonce, new_number())), _array(BYTEA, entry.blocks),
    ]  # fmt: skip


def _parameters(url: str, seconds: float) -> dict[str, Any]:
    """Return what a connection takes; raises `StartError`."""
    try:
        parameters = conninfo_to_dict(url)
    except psycopg.Error as error:
        # libpq's own text may hold the URL, with a password.
        raise StartError(NO_URL) from error
    at = "".join(str(parameters.get(name, "")) for name in ("host", "hostaddr", "dbname"))
    ports = str(parameters.get("port", "0")).replace(",", "")
    if "@" in at or not ports.isdecimal():  # what is a password to a person
        raise StartError(NO_URL)
    milliseconds = round(seconds * 1000)
    own = (
        f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds} "
        f"-c idle_in_transaction_session_timeout={milliseconds}"
    )
    parameters["options"] = f"{parameters.get('options', '')} {own}".strip()
    return {**DEFAULTS, **parameters}


def _servers(parameters: Mapping[str, str]) -> list[_Server]:
    """Return the servers that a connection can be to, one or more."""
    named = {
        name: str(parameters[name]).split(",")
        for name in ("host", "hostaddr", "port") if parameters.get(name)
    }  # fmt: skip
    count = max(map(len, named.values()), default=1)
    return [
        {name: each[n] if len(each) == count else each[0] for name, each in named.items()}
        for n in range(count)
    ]


def _heed(connection: _Connection, notice: errors.Diagnostic) -> None:
    if notice.severity_nonlocalized == "WARNING":
        connection.warning = notice.message_primary or "a warning"


def _said(error: psycopg.Error) -> str:
    """Return what the server, or libpq, has said: one line."""
    return " ".join((error.diag.message_primary or str(error)).split())


def _make(connection: _Connection) -> None:
    """Make the tables, if no other hub has. Within a transaction."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtext('esource'))")
    [(table,)] = connection.execute("SELECT to_regclass('esource.form')").fetchall()
    if table is None:
        connection.execute(SCHEMA)
        connection.execute("INSERT INTO esource.form (form) VALUES (%s)", (FORM,))
    [(form,)] = connection.execute("SELECT form FROM esource.form").fetchall()
    if form != FORM:
        raise StorageError(f"the tables have form {form}, and this hub knows {FORM}")
    found = connection.execute(REVISED).fetchall()
    if not found or (found[0][0] or 0) < REVISION:
        with suppress(errors.InsufficientPrivilege), connection.transaction():
            connection.execute(APPENDING)  # else an older one will do: it does the same


def _refused(settings: Mapping[str, str]) -> Iterator[str]:
    """Yield why a server may lose what it has acknowledged, or cannot do."""
    if int(settings["server_version_num"]) < OLDEST:
        yield f"PostgreSQL {OLDEST // 10000} or later is needed"
    for name in ("fsync", "full_page_writes"):
        if settings.get(name) != "on":
            yield f"PostgreSQL has {name} = {settings.get(name)}, and may lose events"
    commit = settings.get("synchronous_commit")
    good = {"on", "remote_apply"}
    if not settings.get("synchronous_standby_names"):
        good |= {"local", "remote_write"}
    if commit not in good:
        yield f"PostgreSQL has synchronous_commit = {commit}, and may lose events"
