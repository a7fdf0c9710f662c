"""The rows of imports: admitted, planned, ended, and told about."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from common.errors import Refusal, Terminal
from common.ledger import collections
from common.ledger.database import Tx
from common.ledger.leases import end_holder
from common.ledger.queries import load_queries
from common.ledger.rows import (
    check_page,
    columns_json,
    columns_of,
    counts_of,
    hex_id,
    mapping_json,
    mapping_of,
    remembered_json,
)
from common.ledger.segments import define_segment
from common.model.formats import Compression, Format, Layout
from common.model.imports import (
    AUTO,
    NO_TERMS,
    SHOWN_OBJECTS,
    Failure,
    IfSeen,
    Import,
    ImportSpec,
    ImportState,
    ImportStatus,
    Listing,
    ObjectStatus,
    Pieces,
    PieceState,
    Plan,
    Progress,
    Terms,
)
from common.model.mapping import Mapping
from common.model.rejects import LineError, RejectCode
from common.model.roles import external_id
from common.model.sources import Source, SourceKind, SourceRef

_SQL = load_queries("imports")

#: Seconds, from and to, after which a refused caller may try again; what a slot's end takes is not known.
SLOT_RETRY_SECONDS = (12, 18)
#: A place behind every import.
_FAR = 2**62


def check_slots(tx: Tx, project_id: str, *, default_limit: int, terms: Terms = NO_TERMS) -> None:
    """Raise Refusal ``too_many_active_imports``, with the limit and the ids that hold slots, where none is free.

    A door may have a limit of its own inside the project's: then those count that came through it.
    """
    row = tx.one(_SQL["import_limit"], project_id=project_id)
    active = tx.all(_SQL["active_imports"], project_id=project_id)
    _check_limit(active, row.import_limit if row and row.import_limit else default_limit)
    if terms.limit is not None:
        _check_limit([one for one in active if one.door == terms.door], terms.limit)


def _check_limit(active: Sequence[Any], limit: int) -> None:
    if len(active) >= limit:
        raise Refusal(
            "too_many_active_imports",
            f"too many active imports: {len(active)} of {limit} slots of this project are in use. "
            "Wait for one to end, or cancel one.",
            limit=limit,
            activeImports=[hex_id(one.id) for one in active],
            # Spread: callers that were refused together would come back together.
            retryAfter=random.randint(*SLOT_RETRY_SECONDS),  # noqa: S311  nothing to guess
        )


def slots_in_use(tx: Tx) -> dict[str, list[str]]:
    """Return the imports that hold slots, by project; none of a project that has none."""
    return {hex_id(row.project_id): list(map(hex_id, row.imports)) for row in tx.all(_SQL["slots_in_use"])}


def admit_import(
    tx: Tx,
    *,
    import_id: str,
    project_id: str,
    api_key_id: str | None,
    spec: ImportSpec,
    default_limit: int,
    most_rejects: int,
) -> None:
    """Insert the row of an import, if the project has a slot for it.

    What the request leaves out of its mapping is the collection's, which is that of its first import. Admissions of
    one project wait for each other, so that the limit holds under any race (P8). Raises Refusal as ``check_slots``
    does, and ``mapping_conflict`` where the collection has another rule for stored ids.
    """
    tx.run(_SQL["lock_slots"], project_id=project_id)
    check_slots(tx, project_id, default_limit=default_limit, terms=spec.terms)
    collection = collections.ensure(tx, project_id, spec.collection, remembered_json(spec.mapping))
    tx.run(
        _SQL["insert_import"],
        id=import_id,
        project_id=project_id,
        collection_id=collection.id,
        api_key_id=api_key_id,
        mapping=mapping_json(_agreed(spec, mapping_of(collection.mapping))),
        # Who sent keys is never answered as everybody is, not even once these are deleted.
        source=json.dumps(asdict(replace(spec.source, anonymous=spec.source.anonymous and spec.credentials is None))),
        format=spec.format or AUTO,
        compression=spec.compression or AUTO,
        if_seen=spec.if_seen,
        door=spec.terms.door or None,
        most_bytes=spec.terms.most_bytes,
        asked=json.dumps(spec.terms.asked) if spec.terms.asked else None,
        columns=columns_json(spec.columns),
        max_rejects=most_rejects if spec.max_rejects is None else min(spec.max_rejects, most_rejects),
    )
    if spec.segment:
        define_segment(tx, project_id, import_id, spec.segment)


def _agreed(spec: ImportSpec, collections: Mapping) -> Mapping:
    """Return the mapping that the import has in a collection with this one."""
    mapping, rule = spec.mapping_within(collections), collections.on_duplicate
    if mapping.on_duplicate is not rule:
        raise Refusal(
            "mapping_conflict",
            f'Imports into this collection have onDuplicate "{rule}", as its first one had, and this one asks for '
            f'"{mapping.on_duplicate}". Leave it out of the mapping, or name another collection.',
            field="mapping.onDuplicate",
            onDuplicate=rule.value,
        )
    return mapping


def keep_secret(tx: Tx, import_id: str, sealed: bytes, *, days: int) -> None:
    """Store the caller's sealed S3 keys beside the import, for so many days at most."""
    tx.run(_SQL["insert_secret"], import_id=import_id, sealed=sealed, days=days)


def read_secret(tx: Tx, import_id: str) -> bytes | None:
    """Return the sealed keys, or None where there were none or their days are over."""
    row = tx.one(_SQL["read_secret"], import_id=import_id)
    return bytes(row.sealed) if row else None


def read_import(tx: Tx, import_id: str) -> Import:
    """Return the row of an import that is known to exist."""
    return _import(tx.one(_SQL["read_import"], import_id=import_id))


def claim_plan(tx: Tx, import_id: str, *, lease_seconds: float) -> tuple[Plan, int] | None:
    """Lease the import's plan and return it with the number of this attempt; None where another has it."""
    row = tx.one(_SQL["claim_plan"], import_id=import_id, lease_seconds=lease_seconds)
    if row is None:
        return None
    end_holder(tx, row.former_pid, row.former_started)
    return Plan(_import(row), row.lease_token), row.attempts


def release_plan(tx: Tx, plan: Plan, *, delay_seconds: float) -> None:
    """Give the plan back after a failure that passes; it is due again after the delay."""
    tx.run(_SQL["release_plan"], import_id=plan.job.id, lease_token=plan.lease_token, delay_seconds=delay_seconds)


def pin_sources(tx: Tx, import_id: str, sources: Sequence[Source]) -> None:
    """Write what the plan saw of the sources, in order: every later read has to match it."""
    tx.run(
        _SQL["insert_sources"],
        import_id=import_id,
        buckets=[source.bucket for source in sources],
        keys=[source.key for source in sources],
        regions=[source.region for source in sources],
        sizes=[source.size for source in sources],
        etags=[source.etag for source in sources],
    )


def read_source(tx: Tx, import_id: str, ordinal: int) -> Source:
    """Return a pinned source, with what is known of its inside."""
    row = tx.one(_SQL["read_source"], import_id=import_id, ordinal=ordinal)
    layout = _layout(row.layout) if row.layout else None
    return Source(row.bucket, row.key, row.region, row.size, row.etag, layout, row.decoded_size)


def describe_source(
    tx: Tx, import_id: str, ordinal: int, *, layout: Layout | None = None, decoded_size: int | None = None
) -> None:
    """Write what was found out about a source's inside: how it is laid out, how many bytes are in it."""
    text = json.dumps(asdict(layout)) if layout else None
    tx.run(_SQL["describe_source"], import_id=import_id, ordinal=ordinal, layout=text, decoded_size=decoded_size)


def keep_indexes(tx: Tx, import_id: str, ordinal: int, indexes: Iterable[tuple[int, bytes]]) -> None:
    """Keep what a gzip can be entered by until the import ends: for each stretch of its text where it begins."""
    # One by one: the driver writes them as hexadecimal digits, and all of them as one text were 50 MB.
    for start, content in indexes:
        tx.run(_SQL["insert_index"], import_id=import_id, ordinal=ordinal, start=start, content=content)


def read_index(tx: Tx, import_id: str, ordinal: int, offset: int) -> bytes | None:
    """Return what a gzip can be entered by at an offset of its text; None where it has none, or none any more."""
    row = tx.one(_SQL["read_index"], import_id=import_id, ordinal=ordinal, offset=offset)
    return bytes(row.content) if row else None


def fail_source(tx: Tx, import_id: str, ordinal: int, error: Terminal) -> bool:
    """Note why a source cannot be read (further); False where that is noted already.

    The import fails with it once the other sources are through. The caller closes the source's chunks.
    """
    values = {"import_id": import_id, "ordinal": ordinal, "code": error.code, "message": error.public}
    return tx.one(_SQL["fail_source"], **values) is not None


def note_previous(tx: Tx, import_id: str, sources: Sequence[Source]) -> str | None:
    """Find the latest completed import of the collection that took one of the same objects; note and return it."""
    row = tx.one(
        _SQL["note_previous"],
        import_id=import_id,
        buckets=[source.bucket for source in sources],
        keys=[source.key for source in sources],
        etags=[source.etag for source in sources],
    )
    return hex_id(row.previous_import) if row.previous_import else None


def renew_plan(tx: Tx, plan: Plan, *, lease_seconds: float) -> bool:
    """Lengthen the planner's lease; False where it is another's by now."""
    values = {"import_id": plan.job.id, "lease_token": plan.lease_token, "lease_seconds": lease_seconds}
    return tx.one(_SQL["renew_plan"], **values) is not None


def set_mapping(tx: Tx, plan: Plan, mapping: Mapping) -> None:
    """Give the import the mapping that its table has agreed on. Does nothing where the plan is another's by now."""
    text = mapping_json(mapping)
    tx.run(_SQL["set_mapping"], import_id=plan.job.id, lease_token=plan.lease_token, mapping=text)


def start_import(tx: Tx, plan: Plan, *, bytes_total: int, chunks_total: int) -> bool:
    """Move the import to running; False where the lease was lost or the import ended: roll back then."""
    return (
        tx.one(
            _SQL["start_import"],
            import_id=plan.job.id,
            lease_token=plan.lease_token,
            bytes_total=bytes_total,
            chunks_total=chunks_total,
        )
        is not None
    )


def settle_import(tx: Tx, import_id: str, *, too_many_rejects: Terminal) -> str | None:
    """End the import if its last chunk is done; return the project whose slot that frees. Safe to run twice.

    It has completed, or failed with ``too_many_rejects`` where there are more than it may have.
    """
    error = too_many_rejects
    ended = tx.one(_SQL["settle_import"], import_id=import_id, code=error.code, message=error.public)
    return _close(tx, import_id, ended)


def cancel_import(tx: Tx, import_id: str, project_id: str) -> str | None:
    """End the import at its caller's wish; return as settle_import does: None where it had ended or is not theirs."""
    return _close(tx, import_id, tx.one(_SQL["cancel_import"], import_id=import_id, project_id=project_id))


def fail_import(tx: Tx, import_id: str, error: Terminal) -> str | None:
    """End the import for a reason its caller is told; return as settle_import does: None where it had ended."""
    ended = tx.one(_SQL["fail_import"], import_id=import_id, code=error.code, message=error.public)
    return _close(tx, import_id, ended)


def _close(tx: Tx, import_id: str, ended: Any) -> str | None:
    if ended is None:
        return None
    tx.run(_SQL["copy_totals"], import_id=import_id)
    tx.run(_SQL["delete_secret"], import_id=import_id)
    tx.run(_SQL["delete_indexes"], import_id=import_id)
    return hex_id(ended.project_id)


def holds_plan(tx: Tx, plan: Plan) -> bool:
    """Return whether the plan is still the holder's of this token."""
    return tx.one(_SQL["holds_plan"], import_id=plan.job.id, lease_token=plan.lease_token) is not None


def has_too_many_rejects(tx: Tx, import_id: str) -> bool:
    """Return whether the committed chunks hold more rejects than the import may have."""
    row = tx.one(_SQL["too_many_rejects"], import_id=import_id)
    return bool(row and row.too_many)


def find_status(tx: Tx, import_id: str, project_id: str) -> ImportStatus | None:
    """Return an import of the project as its row tells it; while it runs, its progress is still to be filled in."""
    return next(iter(read_statuses(tx, [import_id], project_id)), None)


def read_status(tx: Tx, import_id: str, project_id: str) -> ImportStatus:
    """Return the same of an import that is known to exist."""
    (status,) = read_statuses(tx, [import_id], project_id)
    return status


def read_statuses(tx: Tx, ids: Sequence[str], project_id: str) -> list[ImportStatus]:
    """Return the same of many imports, in the order of their ids here: four statements, however many they are.

    Raises Refusal ``page_too_large`` where what they declare of columns is too much to be told at once.
    """
    if len(ids) > 1:
        check_page(tx.one(_SQL["size_of_columns"], ids=[*ids], project_id=project_id).bytes)
    rows = {hex_id(row.id): row for row in tx.all(_SQL["read_statuses"], ids=[*ids], project_id=project_id)}
    pieces = _pieces(tx, [*rows])
    return [_status(rows[one], pieces.get(one, Pieces())) for one in ids if one in rows]


def list_imports(
    tx: Tx,
    project_id: str,
    *,
    before: int | None = None,
    states: Collection[ImportState] | None = None,
    collection: str | None = None,
    limit: int,
) -> tuple[list[str], int | None]:
    """Return the ids of a page, newest first, and the number to go on before, or None at the end."""
    if collection is not None and not collections.can_be_stored(collection):
        return [], None
    values = {"states": None if states is None else [*states], "before": before, "collection": collection}
    rows = tx.all(_SQL["list_imports"], project_id=project_id, limit=limit, **values)
    return [hex_id(row.id) for row in rows[:limit]], rows[limit - 1].number if len(rows) > limit else None


def page_imports(tx: Tx, project_id: str, listing: Listing, *, page: int, size: int) -> tuple[list[str], int]:
    """Return the ids of a numbered page, and how many imports there are on all pages."""
    if listing.collection is not None and not collections.can_be_stored(listing.collection):
        return [], 0
    row = tx.one(
        _SQL["page_imports"],
        project_id=project_id,
        **asdict(listing),
        # What is beyond every page is there too, and Postgres has no larger numbers.
        offset=min(page * size, _FAR),
        size=size,
    )
    return list(map(hex_id, row.ids)), row.total


def list_errors(
    tx: Tx, import_id: str, *, after: tuple[int, int] = (-1, -1), limit: int
) -> tuple[list[LineError], bool]:
    """Return rejected lines in the order of the file from a position on, and whether there are more."""
    rows = tx.all(_SQL["list_errors"], import_id=import_id, after_chunk=after[0], after_line=after[1], limit=limit)
    errors = [
        LineError((row.chunk, row.line), row.key, row.index, row.byte_offset, row.length, RejectCode(row.code))
        for row in rows[:limit]
    ]
    return errors, len(rows) > limit


def read_rejected(tx: Tx, import_id: str, positions: Sequence[tuple[int, int]]) -> list[tuple[tuple[int, int], bytes]]:
    """Return what is kept of an import's rejected lines, with their positions, in no order."""
    places = {"chunks": [chunk for chunk, _ in positions], "lines": [line for _, line in positions]}
    rows = tx.all(_SQL["read_rejected"], import_id=import_id, **places)
    return [((row.chunk, row.line), bytes(row.body)) for row in rows]


def send_plans_again(tx: Tx, *, resend_seconds: float, room: int) -> list[str]:
    """Mark plans whose message or planner was lost as sent, and return their ids."""
    return [hex_id(row.id) for row in tx.all(_SQL["send_plans_again"], resend_seconds=resend_seconds, room=room)]


def unsettled_imports(tx: Tx) -> list[str]:
    """Return running imports all of whose chunks are done."""
    return [hex_id(row.id) for row in tx.all(_SQL["unsettled_imports"])]


def running_imports(tx: Tx) -> list[tuple[str, int]]:
    """Return the ids of running imports, each with the number of its done chunks."""
    return [(hex_id(row.id), row.chunks_done) for row in tx.all(_SQL["running_imports"])]


def expired_secrets(tx: Tx) -> list[str]:
    """Return active imports whose credentials are past their days."""
    return [hex_id(row.id) for row in tx.all(_SQL["expired_secrets"])]


def delete_stale_secrets(tx: Tx) -> int:
    """Delete the secrets of imports that have ended, and return how many there were."""
    return tx.run(_SQL["delete_stale_secrets"])


def _layout(value: dict[str, Any]) -> Layout:
    kind, compression = Format(value["format"]), Compression(value["compression"])
    return Layout(kind, compression, tuple(value["header"]), value["wrapped"])


def _source(value: dict[str, Any]) -> SourceRef:
    """Read a reference; an older row has three members, of one object."""
    kind, keys = SourceKind(value.get("kind", SourceKind.OBJECT)), tuple(value.get("keys", ()))
    return SourceRef(
        value["bucket"], value["key"], value["region"], kind, keys, value.get("role"), value.get("anonymous", False)
    )


def _import(row: Any) -> Import:
    return Import(
        hex_id(row.id),
        row.number,
        hex_id(row.project_id),
        row.collection_id,
        ImportState(row.state),
        row.created_at,
        _source(row.source),
        mapping_of(row.mapping),
        row.max_rejects,
        Format(row.format) if row.format != AUTO else None,
        Compression(row.compression) if row.compression != AUTO else None,
        IfSeen(row.if_seen),
        row.most_bytes,
        columns_of(row.columns),
    )


def _pieces(tx: Tx, ids: Sequence[str]) -> dict[str, Pieces]:
    """Return the objects of imports, of those that have any."""
    objects = defaultdict(list)
    for row in tx.all(_SQL["read_objects"], ids=[*ids], limit=SHOWN_OBJECTS):
        objects[row.import_id].append(_object(row))
    return {
        hex_id(row.import_id): Pieces(
            row.total,
            row.completed,
            row.failed,
            tuple(map(Format, row.formats or ())),
            tuple(map(Compression, row.compressions or ())),
            tuple(objects[row.import_id]),
        )
        for row in tx.all(_SQL["count_pieces"], ids=[*ids])
    }


def _object(row: Any) -> ObjectStatus:
    error = Failure(row.error_code, row.error_message) if row.error_code else None
    state = PieceState.FAILED if error else PieceState.UNFINISHED if row.open else PieceState.COMPLETED
    return ObjectStatus(row.key, row.size, _layout(row.layout) if row.layout else None, state, error)


def _status(row: Any, pieces: Pieces) -> ImportStatus:
    source = _source(row.source)
    progress = Progress(chunks_done=row.chunks_done)
    if row.finished_at:
        progress = Progress(counts_of(row), row.bytes_done, row.chunks_done)
    return ImportStatus(
        id=hex_id(row.id),
        number=row.number,
        collection=row.collection,
        state=ImportState(row.state),
        source=source,
        mapping=mapping_of(row.mapping),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        read_at=row.read_at,
        bytes_total=row.bytes_total,
        chunks_total=row.chunks_total,
        chunks_running=row.chunks_running,
        progress=progress,
        error=Failure(row.error_code, row.error_message) if row.error_code else None,
        history=tuple((ImportState(state), datetime.fromisoformat(at)) for state, at in row.history),
        key_id=row.api_key_id,
        previous_id=hex_id(row.previous_import) if row.previous_import else None,
        pieces=pieces,
        format=row.format,
        compression=row.compression,
        external_id=external_id(hex_id(row.project_id)) if source.role else None,
        asked=row.asked or {},
        segment_id=hex_id(row.segment_id) if row.segment_id else None,
        columns=columns_of(row.columns),
    )
