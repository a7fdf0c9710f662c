"""A caller of this wire."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from tests.dialects.nexosis.asking import Asking
from tests.stage import Stage


@pytest.fixture
def ask(client: FlaskClient, stage: Stage, key: str) -> Asking:
    """Requests of the stage's project."""
    return Asking(client, stage, key)
