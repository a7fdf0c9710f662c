"""Look at an import's source, pin it, and cut it into chunks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice

from common.errors import PenstockError, Terminal, Transient
from common.ledger import chunks, imports
from common.model.chunks import MOST_LINES
from common.model.imports import Plan
from common.model.sources import Source
from common.objects import Objects
from common.runtime import Runtime
from common.telemetry import bind, get_logger
from workers.imports.retrying import delay_after
from workers.imports.settle import fail_import, settle_import
from workers.imports.shape import SAMPLE_BYTES, check_shape

log = get_logger(__name__)

#: A plan has the time of so many leases at once: it moves no bytes that could renew it, and looks at S3 twice, five
#: tries of up to 15 s each.
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
        for number, chunk_id in enumerate(_commit_plan(runtime, plan, *_look_at(runtime, plan))):
            runtime.dispatch.load_chunk(chunk_id, first=number == 0)
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


def _look_at(runtime: Runtime, plan: Plan) -> tuple[Source, int]:
    """Pin the object, refuse one of the wrong shape before anything is loaded, and choose the size of its chunks."""
    objects = runtime.objects_of(plan.job)
    source = objects.pin(plan.job.source)
    sample = _sample(objects, source)
    check_shape(sample)
    return source, chunk_bytes(sample, most=runtime.settings.chunk_bytes)


def _sample(objects: Objects, source: Source) -> bytes:
    pieces = objects.read_from(source, 0, min(SAMPLE_BYTES, source.size))
    return b"".join(islice(pieces, 1))[:SAMPLE_BYTES]


def chunk_bytes(sample: bytes, *, most: int) -> int:
    """Return the bytes of a chunk, given the object's first ones: fewer than ``most`` where lines are very short."""
    mean = len(sample) / (sample.count(b"\n") + 1)
    return max(min(most, round(mean * MOST_LINES)), 1)


def _commit_plan(runtime: Runtime, plan: Plan, source: Source, size: int) -> list[int]:
    """Write source, chunks and the step to running at once; return the chunks to send."""
    settings, job = runtime.settings, plan.job
    with runtime.database.transaction() as tx:
        imports.pin_source(tx, job.id, 0, source)
        count = chunks.insert_chunks(tx, job.id, 0, size=source.size, chunk_bytes=size, window=settings.window)
        if not imports.start_import(tx, plan, bytes_total=source.size, chunks_total=count):
            raise _LeaseLostError
        return chunks.first_window(tx, job.id)


class _LeaseLostError(Exception):
    """Another planner has the import, or it ended: what was written here is rolled back."""


def _worn_out(attempt: int) -> Terminal:
    return Terminal("plan_failed", f"The object could not be looked at in {attempt - 1} attempts.")
