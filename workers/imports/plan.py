"""Find an import's objects, pin them, and cut the one, or say that each of many is to be looked at."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from common.errors import PenstockError, SourceFailed, Terminal, Transient
from common.ledger import chunks, imports
from common.model.chunks import MOST_SOURCES
from common.model.imports import IfSeen, Plan
from common.model.sources import Source
from common.runtime import Runtime
from common.telemetry import bind, get_logger
from workers.imports.finding import find_sources
from workers.imports.look import look_at
from workers.imports.sending import send
from workers.imports.settle import fail_import, settle_import
from workers.imports.work import Cut
from workers.retrying import delay_after

log = get_logger(__name__)

#: A plan has the time of so many leases at once: one look at S3 is up to five tries of 15 s each.
LEASES = 6


def plan_import(runtime: Runtime, import_id: str) -> None:
    """Claim the import's plan, make it, commit it, and send the first window of chunks.

    Safe to run twice, and by several at once: the claim decides, and a planner that lost its lease cannot commit.
    Whatever goes wrong ends in the row: failed with a reason, or due again.
    """
    with runtime.database.transaction() as tx:
        claimed = imports.claim_plan(tx, import_id, lease_seconds=LEASES * runtime.settings.lease_seconds)
    if claimed is None:
        return
    plan, attempt = claimed
    bind(import_id=import_id, attempt=attempt)
    with _outcome_in_row(runtime, plan, attempt):
        if attempt > runtime.settings.chunk_attempts:
            raise _worn_out(attempt)
        sources = _pin_sources(runtime, plan)
        look = _look(runtime, plan, sources)
        following, long = _commit_plan(runtime, plan, sources, look)
        send(runtime, following, long, first=True)
        settle_import(runtime, import_id)  # an empty object has no chunk that could ask for it


@contextmanager
def _outcome_in_row(runtime: Runtime, plan: Plan, attempt: int) -> Iterator[None]:
    try:
        yield
    except _LeaseLostError:
        log.info("plan_overtaken")
    except Terminal as error:
        _fail(runtime, plan, error)
    except Transient as error:
        log.warning("plan_postponed", error=str(error))
        _release(runtime, plan, attempt)
    except Exception:
        _release(runtime, plan, attempt)  # a mistake of ours: tried again, and given up after so many attempts
        raise


def _fail(runtime: Runtime, plan: Plan, error: Terminal) -> None:
    try:
        fail_import(runtime, plan.job.id, error, held_by=partial(imports.holds_plan, plan=plan))
    except PenstockError as failure:
        log.warning("import_not_failed", error=str(failure))  # whoever plans it next finds the same


def _release(runtime: Runtime, plan: Plan, attempt: int) -> None:
    try:
        with runtime.database.transaction() as tx:
            imports.release_plan(tx, plan, delay_seconds=delay_after(attempt))
    except PenstockError as error:
        log.warning("plan_not_released", error=str(error))  # its lease ends by itself


class _Lease:
    """The claim on a plan, lengthened as pages of a listing come in."""

    def __init__(self, runtime: Runtime, plan: Plan) -> None:
        self._runtime, self._plan = runtime, plan
        self._seconds = LEASES * runtime.settings.lease_seconds
        self._renew_at = time.monotonic() + self._seconds / LEASES

    def advance(self) -> None:
        if time.monotonic() < self._renew_at:
            return
        with self._runtime.database.transaction() as tx:
            if not imports.renew_plan(tx, self._plan, lease_seconds=self._seconds):
                raise _LeaseLostError
        self._renew_at = time.monotonic() + self._seconds / LEASES


def _pin_sources(runtime: Runtime, plan: Plan) -> list[Source]:
    """Find the import's objects, and refuse them where they are too many bytes, or were imported before."""
    job, lease = plan.job, _Lease(runtime, plan)
    sources = find_sources(
        runtime.objects_of(job),
        job.source,
        declared=job.format,
        most=min(runtime.settings.max_objects, MOST_SOURCES),
        advance=lease.advance,
    )
    size = sum(source.size for source in sources)
    if job.most_bytes is not None and size > job.most_bytes:
        raise _too_large(size, job.most_bytes)
    with runtime.database.transaction() as tx:
        previous = imports.note_previous(tx, job.id, sources)
    if previous and job.if_seen is IfSeen.REFUSE:
        raise _imported_before(previous)
    return sources


def _look(runtime: Runtime, plan: Plan, sources: list[Source]) -> Cut | None:
    """Look at the one object of an import: one of the wrong shape is refused before anything is loaded."""
    if len(sources) > 1:
        return None
    objects, most = runtime.objects_of(plan.job), runtime.settings.chunk_bytes
    try:
        return look_at(objects, sources[0], plan.job, chunk_bytes=most)
    except SourceFailed as error:
        _note_piece(runtime, plan, sources, error)
        raise


def _note_piece(runtime: Runtime, plan: Plan, sources: list[Source], error: SourceFailed) -> None:
    """Write down the one piece that has failed: the import's end, which follows, says it of the import alone."""
    with runtime.database.transaction() as tx:
        if imports.holds_plan(tx, plan):
            imports.pin_sources(tx, plan.job.id, sources)
            imports.fail_source(tx, plan.job.id, 0, error)


def _commit_plan(runtime: Runtime, plan: Plan, sources: list[Source], look: Cut | None) -> tuple[list[int], list[int]]:
    """Write sources, chunks and the step to running at once; return the chunks to send, and the long ones.

    An import of one object has been looked at: one of the wrong shape has failed by now. Of many objects each is looked
    at by a chunk of its own, side by side, and one of the wrong shape does not keep the others out.
    """
    settings, job = runtime.settings, plan.job
    with runtime.database.transaction() as tx:
        imports.pin_sources(tx, job.id, sources)
        if look:
            imports.describe_source(tx, job.id, 0, layout=look.layout)
            count = chunks.insert_cut(tx, job.id, 0, look.cut, number=0, size=sources[0].size)
        else:
            count = len(sources)
            chunks.insert_looks(tx, job.id, count)
        size = sum(source.size for source in sources)
        following = chunks.send_window(tx, job.id, window=settings.window, least=1)
        long = chunks.long_steps(tx, job.id, 0)
        if not imports.start_import(tx, plan, bytes_total=size, chunks_total=count):
            raise _LeaseLostError
        return following, long


class _LeaseLostError(Exception):
    """Another planner has the import, or it ended: what was written here is rolled back."""


def _too_large(size: int, most: int) -> Terminal:
    text = f"The source has {size} bytes, and an import of this kind takes {most}. Import it in parts."
    return Terminal("source_too_large", text)


def _imported_before(import_id: str) -> Terminal:
    text = f"Import {import_id} has taken this very object already, and completed. Nothing was imported."
    return Terminal("already_imported", text)


def _worn_out(attempt: int) -> Terminal:
    return Terminal("plan_failed", f"The object could not be looked at in {attempt - 1} attempts.")
