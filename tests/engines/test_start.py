"""A hub on an engine starts, or says in one line why it does not; and keeps secrets."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from esource.config import Config
from esource.errors import StartError
from esource.log.engines import logs_of
from tests.harness import Hub, free_port
from tests.harness.engine import data_of, engine_hub, engine_hubs, rows_at
from tests.harness.postgres import Postgres, postgres
from tests.harness.waiting import PATIENCE_SECONDS

SECRET = "pass/word"
TABLES = """
    GRANT USAGE ON SCHEMA esource TO fewrights;
    GRANT SELECT ON esource.form TO fewrights;
    GRANT SELECT, INSERT, UPDATE ON esource.channel TO fewrights;
    GRANT SELECT, INSERT ON esource.block TO fewrights;
"""


def refusal(hub: Hub) -> str:
    """Start a hub that must not start; return the one line that says why not."""
    done = subprocess.run(
        hub.command(), env=hub.environ, cwd=hub.home, capture_output=True, text=True, check=False,
        timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    assert done.returncode == 1, done
    assert not done.stdout
    [line] = [line for line in done.stderr.splitlines() if "[INFO]" not in line]
    return line


@pytest.fixture(scope="module")
def guarded() -> Iterator[Postgres]:
    """A server that asks for passwords, which has a role `fewrights`."""
    with postgres() as guarded:
        guarded.do(f"CREATE ROLE fewrights LOGIN PASSWORD '{SECRET}'")
        rules = guarded.folder / "pg_hba.conf"
        rules.write_text(
            "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        )
        guarded.do("SELECT pg_reload_conf()")
        yield guarded


def url_of(server: Postgres, database: str, password: str = "pass%2Fword") -> str:
    """Return the address of a database for the role with few rights."""
    return f"postgresql://fewrights:{password}@127.0.0.1:{server.port}/{database}"


def said(environ: dict[str, str]) -> str:
    """Return why a hub with these settings does not start; empty if it does."""
    try:
        config = Config.from_env({"ESOURCE_STORE_TIMEOUT": "2", **environ})
        with closing(logs_of(config.store, config.store_timeout)) as logs:
            logs.hold(lambda: None)
    except StartError as error:
        return str(error)
    return ""


def test_a_server_that_may_lose_what_it_acknowledges_is_refused(server: Postgres) -> None:
    for setting in ("synchronous_commit = off", "synchronous_commit = local"):
        url = server.database(setting)
        if setting.endswith("local"):  # without a standby that is as good as any
            assert not said({"ESOURCE_STORE": url})
        else:
            assert setting in said({"ESOURCE_STORE": url})
    with postgres("fsync=off", "full_page_writes=off") as unsafe:
        line = said({"ESOURCE_STORE": unsafe.url()})
        assert "fsync = off" in line
        assert "full_page_writes = off" in line


def test_each_start_that_cannot_work_is_refused_in_one_line_without_a_secret(
    server: Postgres, guarded: Postgres
) -> None:
    old = server.database()
    assert not said({"ESOURCE_STORE": old})
    server.do("UPDATE esource.form SET form = 0", database=old.rpartition("/")[2])
    at = f"127.0.0.1:{guarded.port}"
    for url, why, more in (
        (url_of(guarded, "postgres", "s3cr3t"), "password authentication failed", {}),
        (server.url("nowhere"), 'database "nowhere" does not exist', {}),
        (url_of(guarded, "postgres"), "permission denied", {}),
        (f"postgresql://x:s3cr3t@127.0.0.1:{free_port()}/postgres", "refused", {}),
        (old, "the tables have form 0", {}),
        (server.url(), "ESOURCE_DIR", {"ESOURCE_DIR": "events"}),
        (server.url(), "ESOURCE_FSYNC", {"ESOURCE_FSYNC": "never"}),
        (f"postgresql://x:s3cr%t@{at}/postgres", "%40", {}),
        (f"postgresql://x:s3cr3t/word@{at}/postgres", "%40", {}),
        (f"postgresql://x:12345/s3cr3t@{at}/postgres", "%40", {}),
        (f"postgresql://x:word@s3cr3t@{at}/postgres", "%40", {}),
        (f"postgresql://x:s3cr3t@{at}/postgres?sslmde=x", "ESOURCE_STORE", {}),
        (f"mysql://x:s3cr3t@{at}/postgres", "ESOURCE_STORE", {}),
    ):
        line = said({"ESOURCE_STORE": url, **more})
        assert why in line, url
        assert "\n" not in line
        assert not any(secret in line for secret in ("s3cr", "12345", "word@", "pass/word"))


def test_a_refusal_is_one_line_and_an_exit_code(tmp_path: Path, guarded: Postgres) -> None:
    line = refusal(engine_hub(tmp_path / "hub", url_of(guarded, "postgres", "s3cr3t")))
    assert "password authentication failed" in line
    assert "s3cr3t" not in line


def test_without_the_client_library_the_line_says_what_to_install(
    tmp_path: Path, server: Postgres
) -> None:
    hidden = tmp_path / "hidden" / "psycopg"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('it is hidden')\n")
    paths = [str(hidden.parent), os.environ.get("PYTHONPATH", "")]
    hub = engine_hub(
        tmp_path / "hub", server.url(), PYTHONPATH=os.pathsep.join(filter(None, paths))
    )
    assert "pip install 'esource[postgresql]'" in refusal(hub)


@contextmanager
def hub_with_few_rights(home: Path, server: Postgres, database: str) -> Iterator[Hub]:
    """Have a hub whose role has few rights."""
    with engine_hubs(home, url_of(server, database), 1, ESOURCE_STORE_TIMEOUT="2") as [hub]:
        yield hub


def test_a_role_needs_few_rights_and_its_password_is_shown_nowhere(
    tmp_path: Path, guarded: Postgres
) -> None:
    guarded.do("CREATE DATABASE owned")
    (tmp_path / "owner").mkdir()
    with engine_hubs(tmp_path / "owner", guarded.url("owned"), 1) as [owner]:
        owner.publish("/rights", "by the owner")
    guarded.do(*filter(str.strip, TABLES.split(";")), database="owned")
    with hub_with_few_rights(tmp_path, guarded, "owned") as hub:
        hub.publish("/rights", "by another")
        hub.publish("/new-one", "x")
        assert data_of(rows_at(hub, "rights")) == [b"by the owner", b"by another"]
        shown = [
            hub.get(path).text
            for path in ("/-/health", "/-/metrics", "/-/channels", "/-/openapi.json", "/")
        ]
        assert shown[0] == "ok\n"
        guarded.do("ALTER ROLE fewrights PASSWORD 'another'")
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'fewrights'"
        guarded.do(cut)
        answer = hub.post("/rights", "x")
        assert answer.status == 503
        shown += [answer.text, hub.get("/rights").text, hub.get("/-/health").text, hub.log]
        for text in shown:
            assert "pass/word" not in text
            assert "pass%2F" not in text
        assert not any("fewrights" in text for text in shown[:-1])
