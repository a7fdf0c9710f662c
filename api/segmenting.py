"""What can be asked of segments, without HTTP and without a dialect."""

from __future__ import annotations

from dataclasses import dataclass

from api.callers import PUSH, QUERY, Caller
from common.ledger import segments
from common.model.ids import parse_id
from common.model.segments import Segment, unknown_segment
from common.runtime import Runtime


@dataclass(frozen=True, slots=True)
class SegmentPage:
    """Some of a project's segments, newest first."""

    items: list[Segment]
    #: What to ask for next, or None at the end.
    next_before: int | None


@dataclass(frozen=True, slots=True)
class ImportIds:
    """Some of the imports that defined a segment's versions, newest first."""

    ids: list[str]
    #: What to ask for next, or None at the end.
    next_before: int | None


class SegmentDesk:
    """The use cases of segments. Raises Refusal for what is not taken, Transient while Postgres is away."""

    def __init__(self, runtime: Runtime) -> None:
        """Take the process's runtime."""
        self._runtime = runtime

    def read_segment(self, caller: Caller, segment_id: str, *, version: int | None = None) -> Segment:
        """Return a segment as of its latest version, or of another. Raises Refusal ``not_found``."""
        caller.require(PUSH, QUERY)
        asked, found = parse_id(segment_id), None
        if asked is not None:
            with self._runtime.database.transaction() as tx:
                found = segments.find_segment(tx, caller.project_id, asked, version=version)
        if found is None:
            raise unknown_segment(segment_id)
        return found

    def list_segments(self, caller: Caller, *, before: int | None = None, limit: int = 50) -> SegmentPage:
        """Return a page of the project's segments, each as of its latest version."""
        caller.require(PUSH, QUERY)
        with self._runtime.database.transaction() as tx:
            items, next_before = segments.list_segments(tx, caller.project_id, before=before, limit=limit)
        return SegmentPage(items, next_before)

    def list_imports(self, caller: Caller, segment_id: str, *, before: int | None = None, limit: int = 50) -> ImportIds:
        """Return a page of the imports that defined versions of a segment. Raises Refusal ``not_found``."""
        segment = self.read_segment(caller, segment_id)
        with self._runtime.database.transaction() as tx:
            ids, next_before = segments.imports_of_segment(
                tx, caller.project_id, segment.id, before=before, limit=limit
            )
        return ImportIds(ids, next_before)
