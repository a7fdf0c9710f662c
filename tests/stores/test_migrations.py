"""What a migration may do, and when."""

from __future__ import annotations

from pathlib import Path

from common.ledger.database import Database
from common.ledger.migrate import FOLDER, migrate
from deploy.local.servers import Servers


def test_what_old_code_could_not_live_with_waits_until_an_operator_says_it_is_gone(
    servers: Servers, tmp_path: Path
) -> None:
    """The web process migrates whenever it starts, in the middle of a rolling restart too."""
    (tmp_path / "9001_post_drop.sql").write_text("DROP TABLE events")
    (tmp_path / "9002_pre_add.sql").write_text("CREATE TABLE added ()")
    database = Database(servers.create_database("migrations"))

    assert migrate(database, (FOLDER, tmp_path))[-1] == "9002_pre_add.sql"
    with database.transaction() as tx:
        assert tx.one("SELECT to_regclass('events') AS events").events

    assert migrate(database, (FOLDER, tmp_path), post=True) == ["9001_post_drop.sql"]
    assert migrate(database, (FOLDER, tmp_path), post=True) == []
    database.close()


def test_whatever_goes_with_another_row_is_found_by_an_index(servers: Servers) -> None:
    """A cascade looks for its rows once for each row that is deleted."""
    database = Database(servers.create_database("cascades"))
    migrate(database)
    with database.transaction() as tx:
        found = tx.all(
            "SELECT conrelid::regclass::text AS child, (SELECT array_agg(attname::text ORDER BY place)"
            "   FROM unnest(conkey) WITH ORDINALITY AS c (number, place)"
            "   JOIN pg_attribute ON attrelid = conrelid AND attnum = number) AS columns, EXISTS (SELECT FROM pg_index"
            "   WHERE indrelid = conrelid AND (indkey::int2[])[0:cardinality(conkey) - 1] = conkey) AS indexed"
            " FROM pg_constraint WHERE contype = 'f' AND confdeltype = 'c' AND conparentid = 0"
        )
    database.close()

    assert found
    assert [(row.child, row.columns) for row in found if not row.indexed] == []
