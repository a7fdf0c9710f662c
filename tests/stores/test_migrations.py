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
