"""The whole road on the real stack: one service for all journeys that do not need settings of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deploy.local.servers import Servers
from tests.failing_s3 import FailingS3
from tests.journeys.stack import BUCKET, S3Address, Stack, open_stack, s3_client


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test below this folder is a journey."""
    for item in items:
        if "journeys" in item.path.parts:
            item.add_marker(pytest.mark.journey)


@pytest.fixture(scope="session")
def localbucket(servers: Servers) -> Iterator[S3Address]:
    """An S3 for objects of some size; the ``servers``' own is moto."""
    server = servers.another_s3("localbucket")
    address = S3Address(server.endpoint, server.access_key_id, server.secret_access_key)
    with s3_client(address) as client:
        client.create_bucket(Bucket=BUCKET)
    yield address
    server.stop()


@pytest.fixture(scope="session")
def shared_stack(servers: Servers, localbucket: S3Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two workers and the API."""
    with open_stack(servers, localbucket, tmp_path_factory.mktemp("logs"), name="shared") as stack:
        yield stack
        stack.drain()
    stack.check_logs()


@pytest.fixture
def stack(shared_stack: Stack) -> Iterator[Stack]:
    """The shared stack, whole again after whatever the journey before did to it."""
    shared_stack.wait_ready()
    yield shared_stack
    shared_stack.cancel_all()


@pytest.fixture(scope="session")
def dripping(localbucket: S3Address) -> Iterator[FailingS3]:
    """An S3 whose bodies a test may slow down to a drip."""
    with FailingS3(localbucket.endpoint) as running:
        yield running


@pytest.fixture(scope="session")
def dripping_stack(servers: Servers, dripping: FailingS3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two workers that lose patience soon, with themselves and with chunks; their leases are those of a real one."""
    settings = {
        "PENSTOCK_LEASE_SECONDS": "30",
        "PENSTOCK_WATCHDOG_SECONDS": "2",
        "PENSTOCK_STOP_SECONDS": "2",
    }
    address = S3Address(dripping.endpoint, "any", "any")
    with open_stack(servers, address, tmp_path_factory.mktemp("logs"), name="dripping", settings=settings) as stack:
        yield stack
    stack.check_logs()


@pytest.fixture
def slow(dripping_stack: Stack, dripping: FailingS3) -> Iterator[Stack]:
    """The stack whose S3 drips when a test says so, whole again."""
    dripping_stack.wait_ready()
    yield dripping_stack
    dripping.flowing.set()
    dripping.calm()
    dripping_stack.cancel_all()
    dripping_stack.drain()
    dripping.flowing.clear()


@pytest.fixture
def collection(request: pytest.FixtureRequest) -> str:
    """A collection of the test's own."""
    return str(request.node.name)
