"""A process that answers requests: what it leaves behind when it gives up waiting."""

from __future__ import annotations

import multiprocessing

from common.errors import Transient
from common.ledger.database import Database, bound_answers


def _gives_up(url: str) -> None:
    bound_answers(0.5)
    database = Database(url, application_name="gives-up")
    try:
        with database.transaction() as tx:
            tx.run("SELECT pg_sleep(30)")
    except Transient:
        raise SystemExit(7) from None


def test_a_statement_that_nobody_waits_for_any_more_is_ended(database_url: str) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_gives_up, args=(database_url,))
    process.start()
    process.join(20)

    assert process.exitcode == 7
    with Database(database_url).transaction() as tx:
        at_work = "SELECT FROM pg_stat_activity WHERE application_name = 'gives-up' AND state = 'active'"
        tx.run("SELECT pg_sleep(0.3)")
        assert not tx.all(at_work)
