"""What every tier may ask for. A test that asks for no server starts none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deploy.local.servers import Servers


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """
    Real Postgres, Redis and S3, started when the first test asks.

    S3 is moto: the most faithful about conditional requests (localbucket ignores If-Match). It reads the
    whole object for each range, so a test of size takes ``servers.another_s3("localbucket")``.
    """
    with Servers.start(s3="moto") as started:
        yield started


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs servers by what it asks for, so that ``-m "not services"`` cannot be wrong."""
    for item in items:
        if "servers" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.services)
