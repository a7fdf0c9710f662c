"""Whatever the lines, the size of chunks, the order of commits, and whenever Redis is emptied or a message doubled:
the table and the receipt are those of reading the file once, from its first line to its last (P1, P2, P3).
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.model.chunks import Counts
from common.model.imports import ImportState
from common.model.mapping import Mapping, OnDuplicate
from tests.stage import Stage
from workers.imports.load import load_chunk
from workers.imports.plan import plan_import

GOOD = st.builds(
    lambda id_, size, end: json.dumps({"$unique_id": id_, "filler": "ü" * size}).encode() + end,
    st.one_of(st.none(), st.integers(0, 6), st.sampled_from(["0", "1", "a", "A", "ü"])),
    st.integers(0, 30),
    st.sampled_from([b"", b"\r", b" "]),
)
BAD = st.sampled_from([b"{bad", b"[1]", b"\xff", b'{"$unique_id":""}', b"x" * 600])
BLANK = st.sampled_from([b"", b"\r", b" \t "])
FILES = st.builds(
    # A first line that is an object: a file of nothing but bad lines may be one of another kind.
    lambda lines, end: b"\n".join([b'{"n": 1}', *lines]) + end,
    st.lists(st.one_of(GOOD, GOOD, GOOD, BAD, BLANK), max_size=25),
    st.sampled_from([b"", b"\n"]),
)


def expected(body: bytes, rule: OnDuplicate = OnDuplicate.KEEP) -> tuple[list[tuple[int, bytes]], Counts]:
    """Return rows and receipt by reading the file as a person would."""
    rows: dict[str, tuple[int, bytes]] = {}
    events = 0
    for key, offset, payload in events_of(body):
        events += 1
        if key not in rows or rule is OnDuplicate.REPLACE:
            rows[key] = (offset, payload)
    lines = body.removesuffix(b"\n").split(b"\n")
    blank = sum(not line.strip(b" \t\r") for line in lines)
    rejected = len(lines) - blank - events
    return sorted(rows.values()), Counts(len(lines), len(rows), 0, events - len(rows), rejected, blank)


def events_of(body: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Yield key, offset and bytes of each line that is an event; those without an id have a key each."""
    at = 0
    for line in body.split(b"\n"):
        offset, at = at, at + len(line) + 1
        payload = line.removesuffix(b"\r")
        if payload.strip(b" \t\r") and (id_ := _id(payload)) is not BAD:
            yield (f"at {offset}" if id_ is None else repr(id_)), offset, payload


def _id(payload: bytes) -> Any:
    try:
        found = json.loads(payload).get("$unique_id")
    except (ValueError, AttributeError):
        return BAD
    return BAD if found == "" else found


@given(data=st.data(), body=FILES, chunk_bytes=st.integers(20, 400), rule=st.sampled_from(OnDuplicate))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_commits_ends_in_the_same_table(
    stage: Stage, data: st.DataObject, body: bytes, chunk_bytes: int, rule: OnDuplicate
) -> None:
    stage.runtime.settings = stage.worker(chunk_bytes=chunk_bytes, max_line_bytes=500, import_limit=10**6).settings
    collection = uuid.uuid4().hex  # not drawn: a replayed example must not meet its own rows
    import_id = stage.start(body, collection=collection, mapping=Mapping(on_duplicate=rule))
    plan_import(stage.runtime, import_id)
    chunk_ids = stage.chunk_ids(import_id)

    for chunk_id in data.draw(st.permutations(chunk_ids), label="order"):
        for fault in data.draw(st.lists(st.sampled_from(["flush", "again"]), max_size=2), label="faults"):
            if fault == "flush":
                stage.flush_redis()
            else:
                load_chunk(stage.runtime, chunk_id)
        load_chunk(stage.runtime, chunk_id)

    status = stage.status(import_id)
    rows, counts = expected(body, rule)
    assert status.state in (ImportState.COMPLETED, ImportState.COMPLETED_WITH_ERRORS)
    assert [(row.offset, row.payload) for row in stage.rows(collection)] == rows
    assert status.progress.counts == counts


@given(data=st.data(), bodies=st.lists(FILES, min_size=2, max_size=3), chunk_bytes=st.integers(40, 400))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_imports_side_by_side_store_each_id_once_and_their_receipts_add_up(
    stage: Stage, data: st.DataObject, bodies: list[bytes], chunk_bytes: int
) -> None:
    stage.runtime.settings = stage.worker(chunk_bytes=chunk_bytes, max_line_bytes=500, import_limit=10**6).settings
    collection = uuid.uuid4().hex  # not drawn: a replayed example must not meet its own rows
    import_ids = [stage.start(body, collection=collection) for body in bodies]
    for import_id in import_ids:
        plan_import(stage.runtime, import_id)
    chunk_ids = [chunk_id for import_id in import_ids for chunk_id in stage.chunk_ids(import_id)]

    for chunk_id in data.draw(st.permutations(chunk_ids), label="order"):
        if data.draw(st.booleans(), label="flush"):
            stage.flush_redis()
        load_chunk(stage.runtime, chunk_id)

    statuses = [stage.status(import_id) for import_id in import_ids]
    alone = [expected(body) for body in bodies]
    stored = stage.rows(collection)
    ids = {repr(_id(payload)) for rows, _ in alone for _, payload in rows if _id(payload) is not None}
    without = sum(1 for rows, _ in alone for _, payload in rows if _id(payload) is None)
    assert len(stored) == len(ids) + without == sum(status.progress.counts.imported for status in statuses)
    for status, (rows, counts) in zip(statuses, alone, strict=True):
        mine = stage.query(
            "SELECT byte_offset AS at, payload::text AS payload FROM events WHERE import_number = %(n)s",
            n=status.number,
        )
        # Within an import the first line of an id is kept, whichever import won the id.
        assert {(row.at, row.payload.encode()) for row in mine} <= set(rows)
        assert len(mine) == status.progress.counts.imported
        found = status.progress.counts
        assert (found.lines, found.rejected, found.blank) == (counts.lines, counts.rejected, counts.blank)
        assert found.imported + found.duplicates == counts.imported + counts.duplicates
        (owners,) = stage.query(
            "SELECT coalesce(sum(d.lines), 0)::int AS lines FROM chunk_duplicates AS d"
            " JOIN chunks AS c ON c.id = d.chunk_id WHERE c.import_id = %(id)s",
            id=status.id,
        )
        assert owners.lines <= found.duplicates


@given(data=st.data(), bodies=st.lists(FILES, min_size=2, max_size=3), chunk_bytes=st.integers(40, 400))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_imports_that_replace_end_the_same_in_any_order_and_their_receipts_add_up(
    stage: Stage, data: st.DataObject, bodies: list[bytes], chunk_bytes: int
) -> None:
    stage.runtime.settings = stage.worker(chunk_bytes=chunk_bytes, max_line_bytes=500, import_limit=10**6).settings
    collection = uuid.uuid4().hex  # not drawn: a replayed example must not meet its own rows
    mapping = Mapping(on_duplicate=OnDuplicate.REPLACE)
    import_ids = [stage.start(body, collection=collection, mapping=mapping) for body in bodies]
    for import_id in import_ids:
        plan_import(stage.runtime, import_id)
    chunks = [(place, chunk) for place, import_id in enumerate(import_ids) for chunk in chunks_of(stage, import_id)]

    table: dict[str, tuple[int, int]] = {}
    tallies = [Counter[str]() for _ in bodies]
    for place, chunk in data.draw(st.permutations(chunks), label="order"):
        for fault in data.draw(st.lists(st.sampled_from(["flush", "again"]), max_size=2), label="faults"):
            if fault == "flush":
                stage.flush_redis()
            else:
                load_chunk(stage.runtime, chunk.id)
        load_chunk(stage.runtime, chunk.id)

        tally = replaced_by_hand(table, place, bodies[place], chunk.start_offset, chunk.end_offset)
        tallies[place] += tally
        assert stage.query(
            "SELECT imported, replaced, duplicates, (SELECT coalesce(sum(d.lines), 0)::int FROM chunk_duplicates AS d"
            " WHERE d.chunk_id = c.id) AS others FROM chunks AS c WHERE id = %(id)s",
            id=chunk.id,
        ) == [(tally["imported"], tally["replaced"], tally["duplicates"], tally["others"])]

    # Whatever the order, each id's line of the largest import number and offset is there, and nothing else.
    last: dict[str, tuple[int, int]] = {}
    for place, body in enumerate(bodies):
        last |= {keyed(key, place): (place, offset) for key, offset, _ in events_of(body)}
    statuses = [stage.status(import_id) for import_id in import_ids]
    numbers = [status.number for status in statuses]
    stored = stage.query(
        "SELECT import_number AS number, byte_offset AS at, payload::text AS payload FROM events"
        " WHERE import_number = ANY(%(numbers)s)",
        numbers=numbers,
    )
    assert sorted((numbers.index(row.number), row.at) for row in stored) == sorted(last.values())
    for row in stored:
        assert bodies[numbers.index(row.number)][row.at :].startswith(row.payload.encode())
    for status, tally, body in zip(statuses, tallies, bodies, strict=True):
        _, alone = expected(body)
        found = status.progress.counts
        assert (found.lines, found.rejected, found.blank) == (alone.lines, alone.rejected, alone.blank)
        assert (found.imported, found.replaced, found.duplicates) == (
            tally["imported"],
            tally["replaced"],
            tally["duplicates"],
        )
    # Each id was new to the table once, and nobody takes a row from the import of the largest number.
    assert sum(tally["imported"] for tally in tallies) == len(last)
    final = statuses[-1].progress.counts
    assert final.imported + final.replaced == sum(row.number == numbers[-1] for row in stored)


def chunks_of(stage: Stage, import_id: str) -> list[Any]:
    return stage.query(
        "SELECT id, start_offset, end_offset FROM chunks WHERE import_id = %(id)s ORDER BY number", id=import_id
    )


def keyed(key: str, place: int) -> str:
    """Return the key of a line: one without an id is that of its import."""
    return f"{place} {key}" if key.startswith("at ") else key


def replaced_by_hand(table: dict[str, tuple[int, int]], place: int, body: bytes, start: int, end: int) -> Counter[str]:
    """Put a chunk's lines into the table as the rule says, one by one, and return its receipt."""
    mine: dict[str, list[int]] = {}
    for key, offset, _ in events_of(body):
        if start <= offset < end:
            mine.setdefault(keyed(key, place), []).append(offset)
    tally = Counter[str]()
    for key, offsets in mine.items():
        here, stored = (place, offsets[-1]), table.get(key)
        table[key] = max(here, stored or here)
        counts = stored is None or stored[0] < place
        tally["imported" if stored is None else "replaced"] += counts
        tally["duplicates"] += len(offsets) - counts
        tally["others"] += len(offsets) if stored and stored[0] > place else 0
    return tally
