"""The rows of segments: defined with the import that brings their events, counted as it ends."""

from __future__ import annotations

from typing import Any

from common.ledger.database import Tx
from common.ledger.queries import load_queries
from common.ledger.rows import hex_id
from common.model.ids import new_id, parse_id
from common.model.segments import Segment, SegmentSpec, unknown_segment

_SQL = load_queries("segments")


def define_segment(tx: Tx, project_id: str, import_id: str, spec: SegmentSpec) -> str:
    """Make a segment, or the next version of one, of what an import will bring; return the segment's id.

    To be called in the transaction that admits the import. Blocks while another version of the segment is made. Raises
    Refusal ``not_found`` for a segment that is not the project's.
    """
    if spec.id is None:
        segment_id = new_id()
        tx.run(_SQL["insert_segment"], id=segment_id, project_id=project_id)
    else:
        segment_id = parse_id(spec.id) or ""
        if not segment_id or not tx.one(_SQL["lock_segment"], id=segment_id, project_id=project_id):
            raise unknown_segment(spec.id)
    tx.run(_SQL["insert_version"], id=segment_id, import_id=import_id, name=spec.name, counted_by=spec.counted_by)
    return segment_id


def count_segment(tx: Tx, import_id: str, *, seconds: float) -> None:
    """Count the segment of an import that has ended, if it has one that is not counted: 1.1 us an event of 160 bytes.

    A later import may take the place of its events: so it is counted at the end, and once. Bounds each statement that
    follows in the transaction, too. Safe to run twice. Raises TooSlow where it takes longer than so many seconds.
    """
    tx.run(_SQL["bound_counting"], milliseconds=round(seconds * 1000))
    tx.run(_SQL["count_members"], import_id=import_id)


def leave_uncounted(tx: Tx, import_id: str) -> None:
    """Note that nobody is to count the segment of an import by its member. How many events it has is known."""
    tx.run(_SQL["leave_uncounted"], import_id=import_id)


def uncounted_imports(tx: Tx) -> list[str]:
    """Return the imports that have ended and whose segments are not counted, the oldest first."""
    return [hex_id(row.id) for row in tx.all(_SQL["uncounted_imports"])]


def find_segment(tx: Tx, project_id: str, segment_id: str, *, version: int | None = None) -> Segment | None:
    """Return a segment of the project as of its latest version, or of another; None where there is none."""
    rows = tx.all(_SQL["read_segments"], **_asked(project_id, segment_id=segment_id, version=version))
    return _segment(rows[0]) if rows else None


def list_segments(
    tx: Tx, project_id: str, *, before: int | None = None, limit: int
) -> tuple[list[Segment], int | None]:
    """Return a page of a project's segments, newest first, and the number to go on before, or None at the end."""
    rows = tx.all(_SQL["read_segments"], **_asked(project_id, before=before, limit=limit))
    found = [_segment(row) for row in rows[:limit]]
    return found, found[-1].number if len(rows) > limit else None


def imports_of_segment(
    tx: Tx, project_id: str, segment_id: str, *, before: int | None = None, limit: int
) -> tuple[list[str], int | None]:
    """Return the ids of the imports that defined versions of a segment, as ``list_imports`` does."""
    rows = tx.all(_SQL["imports_of_segment"], id=segment_id, project_id=project_id, before=before, limit=limit)
    return [hex_id(row.id) for row in rows[:limit]], rows[limit - 1].number if len(rows) > limit else None


def _asked(
    project_id: str,
    *,
    segment_id: str | None = None,
    version: int | None = None,
    before: int | None = None,
    limit: int = 1,
) -> dict[str, Any]:
    return {"project_id": project_id, "id": segment_id, "version": version, "before": before, "limit": limit}


def _segment(row: Any) -> Segment:
    return Segment(
        id=hex_id(row.id),
        number=row.number,
        version=row.version,
        name=row.name,
        created_at=row.created_at,
        modified_at=row.modified_at,
        import_id=hex_id(row.import_id),
        members=row.members,
        by_member=row.by_member or {},
    )
