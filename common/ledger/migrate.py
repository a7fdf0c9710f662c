"""``python -m common.ledger.migrate``: bring the schema up to date. Safe to run twice, and from several hosts at once.

Own code and no library: alembic brings SQLAlchemy and its models, of which nothing else here
has any use; the files are plain SQL, numbered, named ``NNNN_pre_what.sql`` (before the new code starts; the old code
must keep working, so it only adds) or ``NNNN_post_what.sql`` (after the old code is gone, which an operator knows:
``penstock admin migrate --post``).

A file whose first line is ``-- Outside a transaction.`` holds nothing but ``CREATE INDEX CONCURRENTLY IF NOT EXISTS``:
to index a large table takes minutes, in which nobody could write to it otherwise.

Imports may run meanwhile. A migration waits four seconds for a lock, in which all who come after it wait too; then it
lets them pass, and tries again later.
"""

from __future__ import annotations

import hashlib
import random
import re
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.resources import files
from importlib.resources.abc import Traversable

from common.errors import Transient
from common.ledger.database import Database, Tx
from common.ledger.indexes import build_index
from common.settings import Settings
from common.telemetry import configure_logs, get_logger

log = get_logger(__name__)

#: Any number that no other advisory lock in this database uses.
_LOCK = 0x50656E73746F636B
#: About four minutes, of which half are everybody else's. A chunk's transaction is over in a second or two, so the
#: first try mostly succeeds; what takes longer than all of them is somebody's forgotten session.
_TRIES = 30
_LOCK_SECONDS = 4
_PAUSE_SECONDS = (2.0, 6.0)

_OUTSIDE = "-- Outside a transaction."

FOLDER = files("common.ledger") / "migrations"


def migrate(database: Database, folders: Sequence[Traversable] = (FOLDER,), *, post: bool = False) -> list[str]:
    """Apply what is missing, each file in a transaction of its own; log each and return the names of those applied.

    With ``post`` also what the old code could not live with. Blocks for up to four minutes a file while its locks do
    not come, and as long as an index takes to build. Raises Transient after that, or where the database is away, and
    RuntimeError where a file that was applied has changed since. What came before stays applied.
    """
    _patiently("migrations", partial(_in_transaction, database, _create_table))
    applied = []
    for name, text in read_migrations(folders):
        if (post or _is_pre(name)) and _patiently(name, partial(_bring, database, name, text)):
            log.info("migration_applied", name=name)
            applied.append(name)
    return applied


def read_migrations(folders: Sequence[Traversable] = (FOLDER,)) -> list[tuple[str, str]]:
    """Return name and text of every migration, in order."""
    paths = [path for folder in folders for path in folder.iterdir() if path.name.endswith(".sql")]
    return [(path.name, path.read_text()) for path in sorted(paths, key=lambda path: path.name)]


def missing_migrations(tx: Tx) -> list[str]:
    """Return the migrations that this code needs and the database has not had; those marked ``post`` may come later."""
    known = tx.one("SELECT to_regclass('migrations') AS name").name
    applied = {row.name for row in tx.all("SELECT name FROM migrations")} if known else set()
    return [name for name in _needed() if name not in applied]


def wait_until_migrated(database: Database, *, pause: float = 1.0) -> None:
    """Return once the database has all that this code needs. Blocks until then, and says once what it waits for."""
    reason = None
    while True:
        before = reason
        try:
            with database.aside() as tx:
                reason = ", ".join(missing_migrations(tx))
        except Transient as error:
            reason = str(error)
        if not reason:
            return
        if reason != before:
            log.warning("waiting_for_database", reason=reason)
        time.sleep(pause)  # noqa: TID251  before the pool is there: nobody has work yet


@cache
def _needed() -> list[str]:
    return [name for name, _ in read_migrations() if _is_pre(name)]


def _is_pre(name: str) -> bool:
    return name.split("_")[1] == "pre"


def _patiently(name: str, work: Callable[[], bool]) -> bool:
    """Do the work again and again while the database answers that it is too busy for it."""
    for number in range(1, _TRIES):
        try:
            return work()
        except Transient as error:
            if not getattr(error.__cause__, "pgcode", None):
                raise  # nobody answered: a wrong address or password is not mended by waiting
            pause = random.uniform(*_PAUSE_SECONDS)  # noqa: S311  jitter, no secret
            log.warning("migration_waits", name=name, attempt=number, pause=round(pause, 1), error=str(error))
            time.sleep(pause)  # noqa: TID251  a command of its own: it holds up nobody
    return work()


def _in_transaction(database: Database, work: Callable[[Tx], bool]) -> bool:
    with database.transaction() as tx:
        return work(tx)


def _bring(database: Database, name: str, text: str) -> bool:
    """Apply a file; return False where it was applied before."""
    if text.startswith(_OUTSIDE):
        with database.transaction() as tx:
            if _is_applied(tx, name, text):
                return False
        for statement in filter(str.strip, re.sub("--[^\n]*", "", text).split(";")):
            build_index(database, statement.strip())
    return _in_transaction(database, partial(_apply, name=name, text=text))


def _create_table(tx: Tx) -> bool:
    # Even IF NOT EXISTS fails when two hosts create the same table at the same instant.
    tx.run("SELECT pg_advisory_xact_lock(%(lock)s)", lock=_LOCK)
    tx.run(
        "CREATE TABLE IF NOT EXISTS migrations"
        " (name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    return True


def _apply(tx: Tx, *, name: str, text: str) -> bool:
    tx.run("SELECT pg_advisory_xact_lock(%(lock)s)", lock=_LOCK)
    if _is_applied(tx, name, text):
        return False
    if not text.startswith(_OUTSIDE):
        tx.run(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'")
        tx.run(text)
    tx.run("INSERT INTO migrations (name, sha256) VALUES (%(name)s, %(sha256)s)", name=name, sha256=_digest(text))
    return True


def _is_applied(tx: Tx, name: str, text: str) -> bool:
    found = tx.one("SELECT sha256 FROM migrations WHERE name = %(name)s", name=name)
    if found and found.sha256 != _digest(text):
        message = f"{name} was applied in another version; write a new migration instead of changing it"
        raise RuntimeError(message)
    return found is not None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> None:
    """Migrate the database of the settings and end with 1 and a sentence where a file cannot be applied."""
    settings = Settings.from_environment()
    configure_logs(settings.log_level, settings.log_format)
    try:
        migrate(Database(settings.database_url, application_name="penstock-migrate"))
    except Transient as error:
        sys.exit(f"Not migrated: {str(error).strip()}. Run this again when the database is there and less busy.")


if __name__ == "__main__":
    main()
