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
#: Seconds after which nobody waits for a look, or believes the one before: above what connecting and asking may take.
_LONGEST_SECONDS = 7.0


class Readiness:
    """Whether requests can be served, as of a moment ago."""

    def __init__(self, database: Database) -> None:
        """Take the database. Looks at nothing yet."""
        self._database = database
        self._starting = threading.Lock()
        self._looker = threading.Thread()
        self._begun = self._seen = float("-inf")
        self._status = "starting"

    def status(self) -> str:
        """Return ``ok``, ``database_away`` or ``migrations_missing``, never older than seven seconds.

        One thread looks at a time, and none of those that answer requests: a server that takes the connection and
        then stands still would keep it for ever. Whoever asks meanwhile gets what was seen last, or, where that was
        long ago, waits with the others: seven seconds after the look began at most.
        """
        with self._starting:
            mine = self._age() > _FRESH_SECONDS and not self._looker.is_alive()
            if mine:
                self._begun = time.monotonic()
                self._looker = threading.Thread(target=self._note_look, name="readiness", daemon=True)
                self._looker.start()
            looker = self._looker
        if mine or self._age() > _LONGEST_SECONDS:
            looker.join(max(self._begun + _LONGEST_SECONDS - time.monotonic(), 0.0))
        return self._status if self._age() <= _LONGEST_SECONDS else "database_away"

    def _age(self) -> float:
        return time.monotonic() - self._seen

    def _note_look(self) -> None:
        self._status = self._look()
        self._seen = time.monotonic()

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
