"""Find an import's objects, pin them, and cut the one, or say that each of many is to be looked at.

An import of a table agrees with it on its columns here, before anything is loaded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from common.errors import PenstockError, SourceFailed, Terminal, Transient
from common.ledger import chunks, imports, tables
from common.ledger.database import Tx
from common.model.chunks import MOST_SOURCES
from common.model.columns import ColumnsFault, check_named, lay_over, rules_of
from common.model.formats import Layout
from common.model.imports import IfSeen, Plan
from common.model.sources import Source
from common.runtime import Runtime
from common.telemetry import bind, get_logger
from workers.imports.finding import find_sources
from workers.imports.first_rows import SAMPLE_BYTES, Told, read_first_rows
from workers.imports.header import check_mapped
from workers.imports.look import look_at, sample_of
from workers.imports.sending import send
from workers.imports.settle import fail_import, settle_import
from workers.imports.work import Cut, decoder_of
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
        told = _ask_columns(runtime, plan, sources, look)
        following, long = _commit_plan(runtime, plan, sources, look, told)
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
    with _noted_piece(runtime, plan, sources):
        return look_at(objects, sources[0], plan.job, chunk_bytes=most)


def _ask_columns(runtime: Runtime, plan: Plan, sources: list[Source], look: Cut | None) -> Told | None:
    """Return what the request, the one object of a table's import and its first rows tell of columns.

    None of an import into no table. Raises Terminal ``invalid_columns`` where what the object declares cannot be.
    """
    job = plan.job
    if job.columns is None:
        return None
    if look is None or look.layout is None:
        raise Terminal("source_not_one_object", "An import of a table takes one object, and the source is several.")
    with _noted_piece(runtime, plan, sources), _columns_checked():
        sample, whole, _ = sample_of(runtime.objects_of(job), sources[0], job, SAMPLE_BYTES)
        decoder = decoder_of(runtime, job, look.layout, ordinal=0)
        longest = runtime.settings.max_line_bytes + 1
        told = read_first_rows(sample, look.layout, job.mapping, decoder, whole=whole, longest=longest)
    return told._replace(declared=lay_over(job.columns, told.declared))


@contextmanager
def _noted_piece(runtime: Runtime, plan: Plan, sources: list[Source]) -> Iterator[None]:
    try:
        yield
    except SourceFailed as error:
        _note_piece(runtime, plan, sources, error)
        raise


@contextmanager
def _columns_checked() -> Iterator[None]:
    try:
        yield
    except ColumnsFault as fault:
        raise Terminal("invalid_columns", str(fault)) from fault


def _note_piece(runtime: Runtime, plan: Plan, sources: list[Source], error: SourceFailed) -> None:
    """Write down the one piece that has failed: the import's end, which follows, says it of the import alone."""
    with runtime.database.transaction() as tx:
        if imports.holds_plan(tx, plan):
            imports.pin_sources(tx, plan.job.id, sources)
            imports.fail_source(tx, plan.job.id, 0, error)


def _commit_plan(
    runtime: Runtime, plan: Plan, sources: list[Source], look: Cut | None, told: Told | None
) -> tuple[list[int], list[int]]:
    """Write sources, chunks and the step to running at once; return the chunks to send, and the long ones.

    An import of one object has been looked at: one of the wrong shape has failed by now. Of many objects each is looked
    at by a chunk of its own, side by side, and one of the wrong shape does not keep the others out.
    """
    settings, job = runtime.settings, plan.job
    with _noted_piece(runtime, plan, sources), runtime.database.transaction() as tx:
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
        if told and look and look.layout:
            _agree(tx, plan, look.layout, told)
        if not imports.start_import(tx, plan, bytes_total=size, chunks_total=count):
            raise _LeaseLostError
        return following, long


def _agree(tx: Tx, plan: Plan, layout: Layout, told: Told) -> None:
    """Have the table and the import agree on its columns, and on what names its rows.

    Of two imports of a new table the first commit decides: the second waits for the collection's row, and finds it so.
    Nobody waits in a circle. This transaction holds nothing but rows of its own import while it waits for the
    collection's, for which a plan, a push and a deletion wait too; of these none waits for a row of an import, but for
    a plan its own. Whoever ends an import waits for its row, and holds no collection. Who admits one shares the
    collection with this, and chunks commit without it.
    Raises Terminal ``invalid_columns``, also where the file has nothing that names its rows: each would be rejected,
    and a new table would have its name from a slip of the pen. ``no_first_rows`` where none could be looked at: those
    behind them would be stored without a name. SourceFailed ``invalid_header`` where what names them is there twice.
    """
    job = plan.job
    with _columns_checked():
        columns, agreed = tables.agree_columns(tx, job.collection_id, declared=told.declared, found=told.found)
        rules = rules_of(columns)
        check_named(rules, layout.header or [column.name for column in told.found])
    if not columns and not told.whole:
        raise _nothing_told()
    mapping = replace(
        job.mapping,
        id_names=agreed.id_names,
        time_names=agreed.time_names,
        id_is_time=agreed.id_is_time,
        rules=rules,
    )
    check_mapped(layout.header, mapping)
    imports.set_mapping(tx, plan, mapping)


class _LeaseLostError(Exception):
    """Another planner has the import, or it ended: what was written here is rolled back."""


def _nothing_told() -> Terminal:
    text = (
        f"No row that ends in the first {SAMPLE_BYTES:,} bytes can be taken, so that nothing is known of the columns. "
        "Mend these rows, or declare the columns; nothing was imported."
    )
    return Terminal("no_first_rows", text)


def _too_large(size: int, most: int) -> Terminal:
    text = f"The source has {size} bytes, and an import of this kind takes {most}. Import it in parts."
    return Terminal("source_too_large", text)


def _imported_before(import_id: str) -> Terminal:
    text = f"Import {import_id} has taken this very object already, and completed. Nothing was imported."
    return Terminal("already_imported", text)


def _worn_out(attempt: int) -> Terminal:
    return Terminal("plan_failed", f"The object could not be looked at in {attempt - 1} attempts.")
