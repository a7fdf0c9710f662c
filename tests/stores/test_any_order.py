"""Whatever the lines, the size of chunks, the order of commits, and whenever Redis is emptied or a message doubled:
the table and the receipt are those of reading the file once, from its first line to its last (P1, P2, P3).
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.model.chunks import Counts
from common.model.imports import ImportState
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


def expected(body: bytes) -> tuple[list[tuple[int, bytes]], Counts]:
    """Return rows and receipt by reading the file as a person would."""
    lines = body.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    rows, seen, at = [], set(), 0
    duplicates = rejected = blank = 0
    for line in lines:
        offset, at = at, at + len(line) + 1
        payload = line.removesuffix(b"\r")
        if not payload.strip(b" \t\r"):
            blank += 1
        elif (id_ := _id(payload)) is BAD:
            rejected += 1
        elif id_ is not None and repr(id_) in seen:
            duplicates += 1
        else:
            seen.add(repr(id_))
            rows.append((offset, payload))
    return rows, Counts(len(lines), len(rows), 0, duplicates, rejected, blank)


def _id(payload: bytes) -> Any:
    try:
        found = json.loads(payload).get("$unique_id")
    except (ValueError, AttributeError):
        return BAD
    return BAD if found == "" else found


@given(data=st.data(), body=FILES, chunk_bytes=st.integers(20, 400))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_commits_ends_in_the_same_table(
    stage: Stage, data: st.DataObject, body: bytes, chunk_bytes: int
) -> None:
    stage.runtime.settings = stage.worker(chunk_bytes=chunk_bytes, max_line_bytes=500, import_limit=10**6).settings
    collection = uuid.uuid4().hex  # not drawn: a replayed example must not meet its own rows
    import_id = stage.start(body, collection=collection)
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
    rows, counts = expected(body)
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
