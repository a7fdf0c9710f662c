"""``python -m common.ledger.migrate``: bring the schema up to date. Safe to run twice, and from several hosts at once.

Own code, about fifty lines, and no library: alembic brings SQLAlchemy and its models, of which nothing else here
has any use; the files are plain SQL, numbered, named ``NNNN_pre_what.sql`` (before the new code starts; the old code
must keep working) or ``NNNN_post_what.sql`` (after the old code is gone).
"""

from __future__ import annotations

import hashlib
import time
from functools import cache
from importlib.resources import files

from common.errors import Transient
from common.ledger.database import Database, Tx
from common.settings import Settings
from common.telemetry import configure_logs, get_logger

log = get_logger(__name__)

#: Any number that no other advisory lock in this database uses.
_LOCK = 0x50656E73746F636B


def migrate(database: Database) -> list[str]:
    """Apply what is missing, each file in a transaction of its own, and return the names of those applied.

    Raises RuntimeError where a file that was applied has changed since, Transient where a lock does not come
    within four seconds: a migration that waits for a table makes everybody behind it wait too.
    """
    applied = []
    with database.transaction() as tx:
        # Even IF NOT EXISTS fails when two hosts create the same table at the same instant.
        tx.run("SELECT pg_advisory_xact_lock(%(lock)s)", lock=_LOCK)
        tx.run(
            "CREATE TABLE IF NOT EXISTS migrations"
            " (name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
    for name, text in read_migrations():
        with database.transaction() as tx:
            if _apply(tx, name, text):
                applied.append(name)
    return applied


def read_migrations() -> list[tuple[str, str]]:
    """Return name and text of every migration, in order."""
    folder = files("common.ledger") / "migrations"
    paths = sorted((path for path in folder.iterdir() if path.name.endswith(".sql")), key=lambda path: path.name)
    return [(path.name, path.read_text()) for path in paths]


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
    return [name for name, _ in read_migrations() if name.split("_")[1] == "pre"]


def _apply(tx: Tx, name: str, text: str) -> bool:
    tx.run("SELECT pg_advisory_xact_lock(%(lock)s)", lock=_LOCK)
    found = tx.one("SELECT sha256 FROM migrations WHERE name = %(name)s", name=name)
    digest = hashlib.sha256(text.encode()).hexdigest()
    if found and found.sha256 != digest:
        message = f"{name} was applied in another version; write a new migration instead of changing it"
        raise RuntimeError(message)
    if found:
        return False
    tx.run("SET LOCAL lock_timeout = '4s'")
    tx.run(text)
    tx.run("INSERT INTO migrations (name, sha256) VALUES (%(name)s, %(sha256)s)", name=name, sha256=digest)
    return True


def main() -> None:
    """Migrate the database of the settings and log each file applied."""
    settings = Settings.from_environment()
    configure_logs(settings.log_level, settings.log_format)
    for name in migrate(Database(settings.database_url, application_name="penstock-migrate")):
        log.info("migration_applied", name=name)


if __name__ == "__main__":
    main()
