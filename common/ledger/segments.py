"""The rows of segments: defined with the import that brings their events, counted once it has ended."""

from __future__ import annotations

import json
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
    tx.run(_SQL["insert_version"], id=segment_id, import_id=import_id, name=spec.name)
    return segment_id


def find_segment(
    tx: Tx, project_id: str, segment_id: str, *, counted_by: str, version: int | None = None
) -> Segment | None:
    """Return a segment of the project as of its latest version, or of another; None where there is none.

    ``counted_by`` is the member that its events are counted by. The first who asks once the import has ended counts
    (0.6 us an event) and notes it.
    """
    rows = tx.all(_SQL["read_segments"], **_asked(project_id, segment_id=segment_id, version=version))
    return _segment(tx, rows[0], counted_by) if rows else None


def list_segments(
    tx: Tx, project_id: str, *, counted_by: str, before: int | None = None, limit: int
) -> tuple[list[Segment], int | None]:
    """Return a page of a project's segments, newest first, and the number to go on before, or None at the end."""
    rows = tx.all(_SQL["read_segments"], **_asked(project_id, before=before, limit=limit))
    found = [_segment(tx, row, counted_by) for row in rows[:limit]]
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


def _segment(tx: Tx, row: Any, counted_by: str) -> Segment:
    members, by_member = row.members, row.by_member or {}
    if row.countable:
        counted = tx.one(_SQL["count_members"], import_id=row.import_id, member=counted_by)
        members, by_member = counted.members, counted.by_member or {}
        noted = {"members": members, "by_member": json.dumps(by_member)}
        tx.run(_SQL["note_members"], id=row.id, version=row.version, **noted)
    return Segment(
        id=hex_id(row.id),
        number=row.number,
        version=row.version,
        name=row.name,
        created_at=row.created_at,
        modified_at=row.modified_at,
        import_id=hex_id(row.import_id),
        members=members,
        by_member=by_member,
    )
