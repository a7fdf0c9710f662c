"""The auditor: what is in the tables against what the objects come to, row for row. Run after every journey."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tests.journeys.oracle import Line, Object, canonical, first_of_each
from tests.journeys.stack import Stack

_MOVES = {
    "pending": {"planning", "cancelled", "failed"},
    "planning": {"running", "cancelled", "failed"},
    "running": {"completed", "completed_with_errors", "failed", "cancelled"},
}
_ENDED = {"completed", "completed_with_errors", "failed", "cancelled"}
_COUNTS = ("lines", "imported", "replaced", "duplicates", "rejected", "blank")


class Row(NamedTuple):
    """A stored event, as far as an oracle can know it."""

    offset: int
    payload: bytes
    time: int


class Audited(NamedTuple):
    """An import that passed."""

    state: str
    counts: dict[str, int]
    chunks: list[Any]


def audit(stack: Stack, collection: str, *imports: tuple[str, Object]) -> list[Audited]:
    """Hold a collection to the objects of all imports that went into it, once the workers are quiet.

    Of an import that completed every line is accounted for; of one that was ended before, every line of the
    chunks that are done, and not one more.
    """
    stack.drain()
    table = _read_table(stack, collection)
    numbers = {_number(stack, import_id): (import_id, source) for import_id, source in imports}
    assert set(table) <= set(numbers), f"rows of imports {set(table) - set(numbers)} that are none of this journey's"
    owner_of = _owners(table, numbers)
    secrets = "SELECT import_id FROM import_secrets WHERE import_id = ANY (%(ids)s::uuid[])"
    assert stack.rows(secrets, ids=[import_id for import_id, _ in imports]) == [], "secrets outlived their imports"
    return [_audit_import(stack, number, *numbers[number], table, owner_of) for number in numbers]


def audit_complete(stack: Stack, collection: str, import_id: str, source: Object) -> Audited:
    """Hold an import into an empty collection to the oracle: state, table, receipt, errors, Connect's status."""
    (found,) = audit(stack, collection, (import_id, source))
    assert found.state == ("completed_with_errors" if source.rejects else "completed"), found.state
    assert found.counts == whole_counts(source), source.name
    seen = stack.request("GET", f"/event-import/{import_id}").body
    assert seen["status"] == "complete"
    assert seen["percentComplete"] == 100
    assert seen["importedEvents"] == len(source.firsts)
    assert seen["duplicateEvents"] == len(source.events) - len(source.firsts)
    assert [error["index"] for error in seen["eventErrors"]] == [line.index for line in source.rejects][:1000]
    return found


def whole_counts(source: Object) -> dict[str, int]:
    """Return the receipt of an object that goes into an empty collection."""
    stored, events, rejected = len(source.firsts), len(source.events), len(source.rejects)
    return {
        "lines": len(source.lines),
        "imported": stored,
        "replaced": 0,
        "duplicates": events - stored,
        "rejected": rejected,
        "blank": len(source.lines) - events - rejected,
    }


def _read_table(stack: Stack, collection: str) -> dict[int, dict[int, tuple[Row, str]]]:
    """Return the collection's rows by import number and offset, each with its stored id."""
    table: dict[int, dict[int, tuple[Row, str]]] = {}
    for number, ordinal, offset, time, event_id, payload in stack.rows(
        "SELECT import_number, source_ordinal, byte_offset, (extract(epoch FROM time) * 1000000)::bigint, event_id,"
        " payload::text FROM events"
        " WHERE collection_id = (SELECT id FROM collections WHERE name = %(name)s)",
        name=collection,
    ):
        rows = table.setdefault(number, {})
        assert offset not in rows, f"two rows of import {number} are of the line at byte {offset}"
        assert ordinal == 0
        rows[offset] = Row(offset, payload.encode(), time), event_id
    return table


def _number(stack: Stack, import_id: str) -> int:
    return int(stack.value("SELECT number FROM imports WHERE id = %(id)s", id=import_id))


def _owners(table: dict[int, dict[int, tuple[Row, str]]], numbers: dict[int, tuple[str, Object]]) -> dict[str, int]:
    """Return which import's row each id is stored as."""
    owner_of: dict[str, int] = {}
    for number, (_, source) in numbers.items():
        rows = table.get(number, {})
        for line in source.events:
            if line.key is not None and line.offset in rows:
                assert line.key not in owner_of, f"two rows have the id {line.key!r}; {source.name}"
                owner_of[line.key] = number
    return owner_of


def _audit_import(
    stack: Stack,
    number: int,
    import_id: str,
    source: Object,
    table: dict[int, dict[int, tuple[Row, str]]],
    owner_of: dict[str, int],
) -> Audited:
    (job,) = stack.rows(
        "SELECT *, (extract(epoch FROM created_at) * 1000000)::bigint AS created FROM imports WHERE id = %(id)s",
        id=import_id,
    )
    assert job.state in _ENDED, f"import {import_id} is {job.state}"
    _check_history(stack, import_id, job.state)
    chunks = stack.rows("SELECT * FROM chunks WHERE import_id = %(id)s ORDER BY number", id=import_id)
    _check_cuts(chunks, source, job)
    done = [chunk for chunk in chunks if _is_loaded(chunk)]
    if job.state.startswith("completed"):
        assert len(done) == len(chunks) == job.chunks_total
    lines_of = {chunk.id: source.owned(chunk.start_offset, chunk.end_offset) for chunk in done}
    _check_rows(
        table.get(number, {}), [line for lines in lines_of.values() for line in lines], number, owner_of, job, source
    )
    for chunk in done:
        _check_receipt(chunk, lines_of[chunk.id], source)
    _check_rejects(stack, import_id, lines_of, source)
    _check_owners(stack, import_id, number, lines_of, owner_of, source)
    _check_errors(stack, import_id, chunks, source)
    counts = {name: getattr(job, name) for name in _COUNTS}
    assert counts == {name: sum(getattr(chunk, name) for chunk in done) for name in _COUNTS}, "receipt and chunks"
    assert counts["imported"] == len(table.get(number, {})), "receipt and table"
    assert job.bytes_done == sum(chunk.end_offset - chunk.start_offset for chunk in done)
    shown = stack.status(import_id)
    assert shown["status"] == job.state
    assert shown["counts"] == counts
    return Audited(job.state, counts, chunks)


def _is_loaded(chunk: Any) -> bool:
    """Tell a chunk that was loaded from an open one, and from one that was closed with an object that broke."""
    return chunk.state == "done" and chunk.lease_token is not None


def _check_history(stack: Stack, import_id: str, state: str) -> None:
    states = [
        row.state
        for row in stack.rows("SELECT state FROM import_history WHERE import_id = %(id)s ORDER BY number", id=import_id)
    ]
    assert states[0] == "pending"
    assert states[-1] == state
    for before, after in itertools.pairwise(states):
        assert after in _MOVES[before], f"the history of {import_id} is {states}"


def _check_cuts(chunks: Sequence[Any], source: Object, job: Any) -> None:
    if not chunks:
        assert job.started_at is None or not source.content, "no chunk was cut"
        return
    cuts = [chunk.start_offset for chunk in chunks] + [chunks[-1].end_offset]
    assert [chunk.end_offset for chunk in chunks] == cuts[1:]
    assert (cuts[0], cuts[-1]) == (0, len(source.content) if job.bytes_total is None else job.bytes_total)
    assert job.bytes_total == len(source.content), source.name


def _check_rows(
    stored: dict[int, tuple[Row, str]],
    lines: list[Line],
    number: int,
    owner_of: dict[str, int],
    job: Any,
    source: Object,
) -> None:
    """The rows are the first lines of all ids that no other import has, byte for byte."""
    kept = [
        line
        for line in first_of_each([line for line in lines if not line.code])
        if line.key is None or owner_of.get(line.key, number) == number
    ]
    wanted = {
        line.offset: Row(line.offset, line.payload, job.created if line.time is None else line.time) for line in kept
    }
    _assert_same(
        wanted, {offset: row for offset, (row, _) in stored.items()}, f"rows of import {number}; {source.name}"
    )
    for line in kept:
        known = canonical(line.key)
        assert known is None or stored[line.offset][1] == known


def _check_receipt(chunk: Any, lines: list[Line], source: Object) -> None:
    where = f"chunk {chunk.number} of {source.name}"
    kinds = Counter("event" if not line.code else "blank" if line.code == "blank" else "bad" for line in lines)
    assert chunk.lines == len(lines), where
    assert (chunk.imported + chunk.replaced + chunk.duplicates, chunk.rejected, chunk.blank) == (
        kinds["event"],
        kinds["bad"],
        kinds["blank"],
    ), where


def _check_rejects(stack: Stack, import_id: str, lines_of: dict[int, list[Line]], source: Object) -> None:
    wanted = {
        (chunk_id, at): (line.offset, len(line.payload), line.code, line.payload)
        for chunk_id, lines in lines_of.items()
        for at, line in enumerate(lines)
        if line.code not in ("", "blank")
    }
    found = {
        (row.chunk_id, row.line): (row.byte_offset, row.length, row.code, bytes(row.body))
        for row in stack.rows(
            "SELECT r.* FROM rejects AS r JOIN chunks AS c ON c.id = r.chunk_id WHERE c.import_id = %(id)s",
            id=import_id,
        )
    }
    _assert_same(wanted, found, f"rejects of {source.name}")


def _check_owners(
    stack: Stack,
    import_id: str,
    number: int,
    lines_of: dict[int, list[Line]],
    owner_of: dict[str, int],
    source: Object,
) -> None:
    """For each chunk and each other import: how many of its lines were dropped for that import's rows."""
    wanted: Counter[tuple[int, int]] = Counter()
    for chunk_id, lines in lines_of.items():
        owners = (owner_of.get(line.key) for line in lines if not line.code and line.key is not None)
        wanted.update((chunk_id, owner) for owner in owners if owner not in (None, number))
    found = {
        (row.chunk_id, row.owner_number): row.lines
        for row in stack.rows(
            "SELECT d.* FROM chunk_duplicates AS d JOIN chunks AS c ON c.id = d.chunk_id WHERE c.import_id = %(id)s",
            id=import_id,
        )
    }
    _assert_same(dict(wanted), found, f"duplicates by owner of {source.name}")


def _check_errors(stack: Stack, import_id: str, chunks: Sequence[Any], source: Object) -> None:
    """Listed is exactly what lies before the first chunk that is not loaded, with its index in the whole file."""
    known = min((chunk.start_offset for chunk in chunks if not _is_loaded(chunk)), default=len(source.content))
    listed = source.rejects if chunks else []
    wanted = [(line.index, line.offset, len(line.payload), line.code) for line in listed if line.offset < known]
    found = [
        (error["index"], error["byteOffset"], error["length"], error["code"]) for error in stack.list_errors(import_id)
    ]
    assert found == wanted, f"errors of {source.name}: {_first_difference(wanted, found)}"


def _assert_same(wanted: dict[Any, Any], found: dict[Any, Any], what: str) -> None:
    """Compare without a diff of megabytes."""
    if wanted == found:
        return
    missing = [wanted[key] for key in wanted.keys() - found.keys()]
    unwanted = [found[key] for key in found.keys() - wanted.keys()]
    other = [(wanted[key], found[key]) for key in wanted.keys() & found.keys() if wanted[key] != found[key]]
    raise AssertionError(
        f"{what}: {len(missing)} missing, {len(unwanted)} too many, {len(other)} different\n"
        f"  missing: {_short(missing)}\n  too many: {_short(unwanted)}\n  different (wanted, found): {_short(other)}"
    )


def _short(rows: list[Any]) -> str:
    return ", ".join(repr(row)[:300] for row in rows[:3])


def _first_difference(wanted: Iterable[Any], found: Iterable[Any]) -> Any:
    pairs = itertools.zip_longest(wanted, found)
    return next((pair for pair in pairs if pair[0] != pair[1]), None)
