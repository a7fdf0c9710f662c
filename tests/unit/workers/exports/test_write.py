"""The manifest says what the export is, and which objects it has."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from common.ledger.exports import Snapshot
from common.model.exports import Destination, Export, ExportSpec, WrittenObject
from common.model.formats import Compression, Format
from common.model.imports import Credentials
from common.model.query import parse_query
from workers.exports.write import manifest

NOW = datetime(2024, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


def job(asked: dict[str, object]) -> Export:
    spec = ExportSpec(
        "orders",
        Destination("bucket", "out/"),
        query=parse_query(asked, now=NOW),
        asked=asked,
        credentials=Credentials("key", "hidden"),
        format=Format.CSV,
        compression=Compression.GZIP,
        part_bytes=1024**2,
    )
    return Export("e" * 32, "p" * 32, 1, NOW, spec)


def test_a_manifest_tells_of_every_object_and_of_their_sums() -> None:
    objects = [WrittenObject(f"out/part-{number:05}", number, 100 * number, f"{number:064x}") for number in (1, 2, 3)]

    told = json.loads(manifest(job({}), Snapshot(1, NOW, NOW), objects))

    assert told["objects"] == [
        {"key": one.key, "events": one.events, "bytes": one.size, "sha256": one.sha256} for one in objects
    ]
    assert (told["events"], told["bytes"]) == (6, 600)
    assert (told["export"], told["collection"]) == ("e" * 32, "orders")
    assert (told["format"], told["compression"]) == ("csv", "gzip")
    assert datetime.fromisoformat(told["snapshotAt"]) == NOW


def test_a_manifest_has_the_callers_words_and_the_instants_that_they_meant() -> None:
    asked: dict[str, object] = {"filter": {"é": 25.5}, "timeframe": "yesterday"}

    told = json.loads(manifest(job(asked), Snapshot(1, NOW, NOW), []))

    assert told["query"] == asked
    assert [datetime.fromisoformat(told["timeframe"][bound]) for bound in ("start", "end")] == [
        datetime(2024, 1, 1, tzinfo=UTC),
        datetime(2024, 1, 2, tzinfo=UTC),
    ]
    assert (told["events"], told["bytes"], told["objects"]) == (0, 0, [])


def test_a_manifest_holds_no_credentials() -> None:
    assert b"hidden" not in manifest(job({}), Snapshot(1, NOW, NOW), [])
