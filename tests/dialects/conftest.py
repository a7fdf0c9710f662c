"""The rooms over a Flask client: real Postgres and Redis behind them, no gunicorn, no workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from api.app import create_app
from api.callers import ALL_SCOPES, create_key
from common.live import failures
from common.settings import Settings
from tests.stage import Stage


@pytest.fixture
def client(stage: Stage, settings: Settings) -> Iterator[FlaskClient]:
    app = create_app(settings)
    app.extensions["penstock"].dispatch = stage.sent
    yield app.test_client()
    app.extensions["penstock"].database.close()


@pytest.fixture
def key(stage: Stage) -> str:
    """A key of all scopes for the stage's project."""
    with stage.runtime.database.transaction() as tx:
        return create_key(tx, stage.caller.project_id, ALL_SCOPES)


@pytest.fixture
def a_long_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count failures for an hour instead of a minute: on a busy machine a flood may take longer than that."""
    monkeypatch.setattr(failures, "_SECONDS", 3600)
