"""What can be asked of segments, without HTTP and without a dialect."""

from __future__ import annotations

from api.callers import PUSH, QUERY, Caller
from api.replies import Page
from common.ledger import segments
from common.model.ids import parse_id
from common.model.segments import Segment, unknown_segment
from common.runtime import Runtime


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

    def list_segments(self, caller: Caller, *, before: int | None = None, limit: int = 50) -> Page[Segment]:
        """Return a page of the project's segments, each as of its latest version."""
        caller.require(PUSH, QUERY)
        with self._runtime.database.transaction() as tx:
            items, next_before = segments.list_segments(tx, caller.project_id, before=before, limit=limit)
        return Page(items, next_before)

    def list_imports(self, caller: Caller, segment_id: str, *, before: int | None = None, limit: int = 50) -> Page[str]:
        """Return a page of the ids of imports that defined versions of a segment. Raises Refusal ``not_found``."""
        segment = self.read_segment(caller, segment_id)
        with self._runtime.database.transaction() as tx:
            ids, next_before = segments.imports_of_segment(
                tx, caller.project_id, segment.id, before=before, limit=limit
            )
        return Page(ids, next_before)
