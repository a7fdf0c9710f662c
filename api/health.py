"""``/healthz``: the process answers. ``/readyz``: and its database does, with all tables that this code needs.

Redis is not asked: nothing depends on it.
"""

from __future__ import annotations

import threading
import time
from typing import cast

from flask import Blueprint, Flask, current_app
from flask.typing import ResponseReturnValue

from common.errors import PenstockError
from common.ledger.database import Database
from common.ledger.migrate import missing_migrations

blueprint = Blueprint("health", __name__)

#: Seconds that a look is good for. Anybody may ask, and each look is a connection to Postgres.
_FRESH_SECONDS = 1.0


class Readiness:
    """Whether requests can be served, as of a moment ago."""

    def __init__(self, database: Database) -> None:
        """Take the database. Looks at nothing yet."""
        self._database = database
        self._looking = threading.Lock()
        self._looked = float("-inf")
        self._status = "starting"

    def status(self) -> str:
        """Return ``ok``, ``starting``, ``database_away`` or ``migrations_missing``. May block for seven seconds.

        One thread looks at a time; whoever asks meanwhile gets what was seen last, so that a Postgres that hangs
        costs one thread.
        """
        if self._looking.acquire(blocking=False):
            try:
                if time.monotonic() - self._looked > _FRESH_SECONDS:
                    self._status = self._look()
                    self._looked = time.monotonic()
            finally:
                self._looking.release()
        return self._status

    def _look(self) -> str:
        """Look by a fresh connection, given up after five seconds: on one that stands an answer may never come."""
        try:
            with self._database.aside() as tx:
                tx.run("SET LOCAL statement_timeout = '2s'")
                return "migrations_missing" if missing_migrations(tx) else "ok"
        except PenstockError:
            return "database_away"


def register(app: Flask, database: Database) -> None:
    """Mount both."""
    app.extensions["readiness"] = Readiness(database)
    app.register_blueprint(blueprint)


@blueprint.get("/healthz")
def healthz() -> ResponseReturnValue:
    """Answer."""
    return {"status": "ok"}


@blueprint.get("/readyz")
def readyz() -> ResponseReturnValue:
    """Answer 200 once requests can be served, 503 before."""
    status = cast(Readiness, current_app.extensions["readiness"]).status()
    return ({"status": status}, 200) if status == "ok" else ({"status": status}, 503, {"Retry-After": "2"})
