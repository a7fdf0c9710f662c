"""P3: the same table and the same counts, however many workers there are and wherever the object is cut."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deploy.local.servers import Servers
from tests.journeys.audit import audit_complete, whole_counts
from tests.journeys.oracle import make_object
from tests.journeys.stack import S3Address, Stack, open_stack


@pytest.fixture(scope="module")
def one_worker(servers: Servers, localbucket: S3Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Chunks that hold a handful of lines, some of them none."""
    settings = {"PENSTOCK_CHUNK_BYTES": "1000"}
    with open_stack(
        servers, localbucket, tmp_path_factory.mktemp("logs"), name="one", workers=1, long_work=False, settings=settings
    ) as stack:
        yield stack


@pytest.fixture(scope="module")
def three_workers(
    servers: Servers, localbucket: S3Address, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    settings = {"PENSTOCK_CHUNK_BYTES": "12345"}
    with open_stack(
        servers,
        localbucket,
        tmp_path_factory.mktemp("logs"),
        name="three",
        workers=3,
        long_work=False,
        settings=settings,
    ) as stack:
        yield stack


SMALL = {"repeated": 0.3, "bad": 0.03, "longest": 4_000}


def test_one_worker_with_chunks_of_a_few_lines(one_worker: Stack, collection: str) -> None:
    source = make_object(131, 300, **SMALL)
    import_id = one_worker.start(one_worker.put(source.content), collection)
    one_worker.follow(import_id)

    found = audit_complete(one_worker, collection, import_id, source)
    assert len(found.chunks) > 75
    assert any(chunk.lines == 0 for chunk in found.chunks), "no chunk lies within one line"


def test_two_workers_with_chunks_of_64_kib(stack: Stack, collection: str) -> None:
    source = make_object(131, 300, **SMALL)
    import_id = stack.start(stack.put(source.content), collection)
    stack.follow(import_id)

    assert len(audit_complete(stack, collection, import_id, source).chunks) < 10


@pytest.mark.parametrize(("seed", "events"), [(131, 300), (132, 5_000), (133, 5_000)])
def test_three_workers_with_chunks_of_12_kib(three_workers: Stack, collection: str, seed: int, events: int) -> None:
    source = make_object(seed, events, **SMALL)
    import_id = three_workers.start(three_workers.put(source.content), collection)
    three_workers.follow(import_id)

    audit_complete(three_workers, collection, import_id, source)


def test_the_native_wire_gives_what_connects_gives(stack: Stack, collection: str) -> None:
    source = make_object(132, 5_000, **SMALL)
    import_id = stack.start_native(stack.put(source.content), collection)
    stack.follow(import_id)

    found = audit_complete(stack, collection, import_id, source)
    assert found.counts == whole_counts(source)
