"""Suspects are looked up one by one, by their whole key, whatever the planner believes of the table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from common.ledger.queries import load_queries
from tests.stage import Stage, event, ndjson

SQL = load_queries("events")


def scans_of_events(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if plan.get("Relation Name") == "events" and "Scan" in plan["Node Type"]:
        yield plan
    for part in plan.get("Plans", []):
        yield from scans_of_events(part)


@pytest.mark.parametrize("replaces", [False, True], ids=["keeps", "replaces"])
@pytest.mark.parametrize("statement", ["place_suspects", "count_owners", "count_owners_and_measure"])
def test_a_collection_younger_than_the_statistics_is_looked_up_by_key(
    stage: Stage, statement: str, replaces: bool
) -> None:
    stage.run(ndjson(event("a")), collection="young")
    (young,) = stage.query(
        "SELECT collection_id AS id, number FROM imports WHERE project_id = %(id)s", id=stage.caller.project_id
    )
    with stage.runtime.database.transaction() as tx:
        fill = (
            "INSERT INTO events"
            " (collection_id, event_id, import_number, source_ordinal, byte_offset, time, odd, payload)"
            " SELECT %(collection)s, gen_random_uuid(), %(number)s, 0, n, now(), false, '{}'"
            " FROM generate_series(1, 20000) AS n"
        )
        tx.run(fill, collection=-1, number=-1)
        tx.run("ANALYZE events")
        tx.run(fill, collection=young.id, number=young.number)
        tx.run(SQL["create_suspects"])
        tx.run(
            "INSERT INTO suspects SELECT gen_random_uuid(), n, now(), false, 1, '{}' FROM generate_series(1, 5000) AS n"
        )
        tx.run(SQL["plan_by_key"])
        place = {"collection_id": young.id, "import_number": young.number, "source_ordinal": 0}
        (plan,) = tx.one(f"EXPLAIN (FORMAT JSON) {SQL[statement]}", **place, replaces=replaces)
        tx.run("DELETE FROM events WHERE collection_id IN (-1, %(collection)s)", collection=young.id)

    scans = list(scans_of_events(plan[0]["Plan"]))
    assert scans
    for scan in scans:
        assert "event_id" in scan.get("Index Cond", ""), scan
        assert "collection_id" in scan["Index Cond"]


def test_the_session_compiles_no_plans(stage: Stage) -> None:
    """Before Postgres 18 what forces look-ups by key makes every plan look worth compiling: 0.55 s each."""
    assert stage.query("SHOW jit")[0].jit == "off"
