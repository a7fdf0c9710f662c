"""Find an import's end and write it."""

from __future__ import annotations

from collections.abc import Callable

from common.errors import Terminal
from common.ledger import imports, segments
from common.ledger.database import TooSlow, Tx
from common.runtime import Runtime
from common.telemetry import get_logger

log = get_logger(__name__)

#: How long an import's end waits until its segment is counted: some 4 million events.
_COUNTING_SECONDS = 5.0


def too_many_rejects() -> Terminal:
    """Return the reason, fresh each time: an error raised again keeps the frames of both, a chunk's lines in them."""
    text = "More lines were rejected than the import may have. What had been imported stays."
    return Terminal("too_many_rejects", text)


def settle_import(runtime: Runtime, import_id: str) -> bool:
    """Complete the import if its last chunk is done; return whether this call did it.

    Anybody may call it at any time: whoever commits the last chunk sees all others done, and if it dies before it
    can ask, the sweep asks again. Its segment is counted in the same transaction, so that nobody sees the one without
    the other; one that is too large for that the sweep counts.
    """
    try:
        project_id = _settle(runtime, import_id, counts=True)
    except (TooSlow, Terminal) as error:
        # What keeps it from being counted does not keep its import from its end.
        project_id = _settle(runtime, import_id, counts=False)
        log.warning("settled_without_counting", import_id=import_id, error=str(error))
    if project_id:
        log.info("import_settled", import_id=import_id)
        _forget(runtime, project_id, import_id)
    return project_id is not None


def _settle(runtime: Runtime, import_id: str, *, counts: bool) -> str | None:
    with runtime.database.transaction() as tx:
        project_id = imports.settle_import(tx, import_id, too_many_rejects=too_many_rejects())
        if project_id and counts:
            segments.count_segment(tx, import_id, seconds=_COUNTING_SECONDS)
    return project_id


def fail_import(
    runtime: Runtime, import_id: str, error: Terminal, *, held_by: Callable[[Tx], bool] = lambda _: True
) -> None:
    """End the import for a reason that its caller is told. Does nothing where it has ended.

    ``held_by`` tells whether who found the reason still holds its lease: a zombie's view of S3 may be an old one.
    """
    with runtime.database.transaction() as tx:
        project_id = imports.fail_import(tx, import_id, error) if held_by(tx) else None
    if project_id:
        log.warning("import_failed", import_id=import_id, code=error.code, reason=str(error))
        _forget(runtime, project_id, import_id)


def _forget(runtime: Runtime, project_id: str, import_id: str) -> None:
    runtime.slots.give_back(project_id, import_id)
    runtime.progress.forget(import_id)
    runtime.forget_objects_of(import_id)
