"""The whole road on the real stack: one service for all journeys that do not need settings of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from deploy.local.servers import Servers
from tests.failing_s3 import FailingS3
from tests.journeys.stack import BUCKET, S3Address, Stack, checked_stack, s3_client

#: The stacks that several files share, in the order in which they are used.
SHARED = ("shared_stack", "dripping_stack")
#: Files in which nothing is killed or stopped while something else is under way.
UNHURRIED = {"test_corpus", "test_refused_objects", "test_same_result", "test_wires"}
#: What ends those of them that run: the last journey that uses one. A stack that idles takes a quarter of a core for
#: its sweeps, and three at a time left the journeys little more than one of two.
_ends: dict[str, ExitStack] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test below this folder is a journey; those of a shared stack are run one after the other."""
    for item in items:
        if "journeys" in item.path.parts:
            item.add_marker(pytest.mark.journey)
            if item.path.stem not in UNHURRIED:
                item.add_marker(pytest.mark.alone)
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """Return the place of an item's stack in the order of stacks; those of files' own come last."""
    if "journeys" not in item.path.parts:
        return -1
    return next((turn for turn, name in enumerate(SHARED) if name in _fixtures_of(item)), len(SHARED))


def _fixtures_of(item: pytest.Item | None) -> list[str]:
    return getattr(item, "fixturenames", [])


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """End the shared stacks that the next journey does not use; none after it does."""
    for name in [name for name in _ends if name not in _fixtures_of(nextitem)]:
        _ends.pop(name).close()


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
    with ExitStack() as end:
        logs = tmp_path_factory.mktemp("logs")
        stack = end.enter_context(checked_stack(servers, localbucket, logs, name="shared", stops_gently=True))
        end.callback(stack.drain)
        _ends["shared_stack"] = end
        yield stack


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
        # Each worker hears of waiting work from its own sweep alone.
        "PENSTOCK_SWEEP_SECONDS": "0.3",
        "PENSTOCK_WATCHDOG_SECONDS": "2",
        "PENSTOCK_STOP_SECONDS": "2",
    }
    address = S3Address(dripping.endpoint, "any", "any")
    logs = tmp_path_factory.mktemp("logs")
    with ExitStack() as end:
        _ends["dripping_stack"] = end
        yield end.enter_context(checked_stack(servers, address, logs, name="dripping", settings=settings))


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
