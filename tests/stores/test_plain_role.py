"""A role that owns its database and is no superuser, as a hosted Postgres gives it, is all that is needed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from common.ledger.database import Database
from common.ledger.migrate import migrate
from common.settings import Settings
from deploy.local.servers import Servers
from tests.stage import Hand, Stage, event, ndjson
from workers.imports import load


@pytest.fixture
def plain(settings: Settings, servers: Servers) -> Iterator[Stage]:
    """The stage of a plain role."""
    url = servers.create_database("plain")
    owner = Database(url)
    with owner.transaction() as tx:
        tx.run("CREATE ROLE plain LOGIN PASSWORD 'plain'")
        tx.run("ALTER DATABASE plain OWNER TO plain; ALTER SCHEMA public OWNER TO plain")
    owner.close()
    theirs = f"postgresql://plain:plain@{url.split('@')[1]}"
    migrate(Database(theirs))
    built = Stage(replace(settings, database_url=theirs), "stage")
    built.flush_redis()
    yield built
    built.close()


def test_a_plain_role_migrates_imports_and_takes_over(plain: Stage) -> None:
    status = plain.run(ndjson(event("a"), event("a"), event("b"), b"{bad"))
    assert (status.progress.counts.imported, status.progress.counts.duplicates) == (2, 1)

    (chunk_id,) = plain.planned(ndjson(event("c")))
    zombie = Hand.takes(plain.worker(), chunk_id)
    with zombie.work.runtime.database.transaction() as tx:
        pid = tx.one("SELECT pg_backend_pid() AS pid").pid
    plain.expire_lease(chunk_id)
    load.load_chunk(plain.runtime, chunk_id)
    assert len(plain.rows()) == 3
    deadline = time.monotonic() + 10
    while plain.query("SELECT pid FROM pg_stat_activity WHERE pid = %(pid)s", pid=pid):
        assert time.monotonic() < deadline, "a holder's backend is ended, which takes its own role or a superuser"
        time.sleep(0.01)


def test_a_superuser_keeps_rows_out_of_the_servers_log(stage: Stage) -> None:
    assert stage.query("SHOW log_min_error_statement")[0].log_min_error_statement == "panic"
