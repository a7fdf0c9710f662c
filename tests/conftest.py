"""What every tier may ask for. A test that asks for no server starts none."""

from __future__ import annotations

from collections.abc import Iterator

import boto3
import pytest

from common.ledger.database import Database
from common.ledger.migrate import migrate
from common.settings import Settings
from deploy.local.servers import Servers
from tests.stage import Stage

BUCKET, SPOOL = "stage", "spool"


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


@pytest.fixture(scope="session")
def database_url(servers: Servers) -> str:
    """A migrated database."""
    url = servers.create_database("stores")
    assert migrate(Database(url)), "nothing was migrated"
    return url


@pytest.fixture(scope="session")
def settings(servers: Servers, database_url: str) -> Settings:
    """Small chunks, so that a few lines make several."""
    client = boto3.client(
        "s3",
        endpoint_url=servers.s3_endpoint,
        aws_access_key_id=servers.s3_access_key_id,
        aws_secret_access_key=servers.s3_secret_access_key,
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=BUCKET)
    client.create_bucket(Bucket=SPOOL)
    client.close()
    return Settings(
        database_url=database_url,
        redis_url=servers.redis_url,
        s3_endpoint_url=servers.s3_endpoint,
        sealing_keys="AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        chunk_bytes=256,
        max_line_bytes=2000,
        window=3,
        s3_access_key_id="own-key",
        s3_secret_access_key="own-secret",
        spool_bucket=SPOOL,
    )


@pytest.fixture
def stage(settings: Settings, servers: Servers) -> Iterator[Stage]:
    """A project of its own, an empty Redis, and as many workers as a test asks for."""
    built = Stage(settings, BUCKET)
    built.flush_redis()
    yield built
    built.close()
