"""Indexes of tables that are written to: built and dropped while everybody goes on.

CONCURRENTLY bears no transaction around it. It waits for those under way and makes nobody wait; whoever dies, or is
ended, in its middle leaves an index behind that is written to and never read.
"""

from __future__ import annotations

import re
import time

from common.ledger.database import Database, Tx
from common.ledger.queries import load_queries
from common.telemetry import get_logger

log = get_logger(__name__)

_SQL = load_queries("indexes")

#: Any number that no other advisory lock in this database uses.
_LOCK = 0x496E6465786573
_PAUSE_SECONDS = 0.5
_NAME = re.compile(r"INDEX CONCURRENTLY IF (?:NOT )?EXISTS ([\w%()]+)")


def build_index(database: Database, statement: str, **values: int) -> None:
    """Run ``CREATE INDEX CONCURRENTLY IF NOT EXISTS ..``; one that was left unfinished is dropped first.

    Safe to run twice, and from several hosts at once. Goes through the table, and blocks until every transaction has
    ended that was under way: an export, too. Raises Transient; what is left behind then is dropped the next time.
    """
    name = _NAME.search(statement)
    if name is None:
        message = "an index that is built beside writers is created CONCURRENTLY IF NOT EXISTS"
        raise ValueError(message)
    with database.unbound() as tx:
        _wait_for_turn(tx)
        tx.run("SET lock_timeout = 0")
        if tx.one(_SQL["is_broken"], name=name[1] % values).broken:
            log.info("index_dropped", name=name[1] % values, reason="it was never finished")
            tx.run(f"DROP INDEX CONCURRENTLY IF EXISTS {name[1]}", **values)
        tx.run(statement, **values)


def drop_index(database: Database, statement: str, *, patience: float, **values: int) -> None:
    """Run ``DROP INDEX CONCURRENTLY IF EXISTS ..``. Safe to run twice.

    Blocks for up to ``patience`` seconds, 0 for any time, for each transaction under way that uses the table. Raises
    Transient after that: the index is not read any more then, and to be dropped another time.
    """
    with database.unbound() as tx:
        tx.run(f"SET lock_timeout = {round(patience * 1000)}")
        tx.run(statement, **values)


def _wait_for_turn(tx: Tx) -> None:
    """Return once nobody else builds. Asked again and again: whoever waited in a statement would be waited for by him
    who builds, and Postgres would end one of them.
    """
    while not tx.one(_SQL["try_turn"], lock=_LOCK).mine:
        time.sleep(_PAUSE_SECONDS)  # noqa: TID251  a command of its own: it holds up nobody
