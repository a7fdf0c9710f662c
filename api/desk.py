"""What can be asked of the service, without HTTP and without a dialect: every room brings its wishes here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from api.callers import FILTERED_QUERY, PUSH, QUERY, Caller
from api.replies import NumberedPage, Page, Started
from api.uploads import Body, check_size, take_in
from common.errors import Refusal
from common.ledger import chunks, imports, uploads
from common.ledger.database import Tx
from common.ledger.idempotency import Kind, Once
from common.model.ids import new_id, parse_id, unknown_import
from common.model.imports import ImportSpec, ImportState, ImportStatus, Listing, Progress, sum_progress
from common.model.rejects import KEPT_BYTES, LineError
from common.model.uploads import spooled
from common.runtime import Runtime
from common.telemetry import bind, get_logger

log = get_logger(__name__)


#: Bytes of rejected lines that are read at a time, give or take one line.
_AT_ONCE = 1024 * 1024
#: Seconds after which a caller may try again.
_UNDER_WAY_RETRY_SECONDS, _PLACE_RETRY_SECONDS = 5, 10


@dataclass(frozen=True, slots=True)
class ErrorPage:
    """Some of an import's rejected lines, in the order of the file, and the import."""

    status: ImportStatus
    items: list[LineError]
    #: Position to go on after, or None at the end of what is known so far.
    next_after: tuple[int, int] | None


class Desk:
    """The use cases. Raises Refusal for what is not taken, Transient while Postgres is away."""

    def __init__(self, runtime: Runtime) -> None:
        """Take the process's runtime."""
        self._runtime = runtime

    def start_import(
        self, caller: Caller, spec: ImportSpec, *, idempotency_key: str | None = None
    ) -> Started[ImportStatus]:
        """Admit an import and return it. Once this returns the import will run, whatever happens to the queue.

        A key that has made an import within 24 hours gets the first answer again, whatever became of the import since.
        Raises Refusal where the project has no free slot, the source needs credentials and has none, or the key has
        made something else. May block while another request with the key is under way.
        """
        caller.require(PUSH)
        source = spec.source
        own = self._runtime.settings.may_read_own(source.bucket)
        if spec.credentials is None and source.role is None and not (own or source.anonymous):
            text = "The source needs accessKeyId and secretAccessKey, or a roleArn."
            raise Refusal("credentials_required", text, field="source.accessKeyId")
        started = self._start(caller, spec, new_id(), asked=spec.as_asked(), idempotency_key=idempotency_key)
        if not started.replayed:
            self._runtime.dispatch.plan_import(started.status.id)
        return started

    def start_upload(
        self, caller: Caller, spec: ImportSpec, body: Body, *, request: str, idempotency_key: str | None = None
    ) -> Started[ImportStatus]:
        """Admit an import whose source is ``BODY``, read the body, and return the import: then it will run.

        Whatever refuses the import does so before the first byte of the body is read; so does a key that made one
        already, which is compared by ``request``, the request's method, path and query, alone. Blocks for as long as
        the body comes. Raises Refusal as ``start_import`` does, ``uploads_unavailable``, ``too_many_uploads``,
        ``request_under_way`` where a body with the same key is still coming, and as ``take_in`` does; Transient.
        """
        caller.require(PUSH)
        settings, import_id = self._runtime.settings, new_id()
        if not settings.spool_bucket:
            text = (
                "This service takes no bodies, only objects in S3: its operator has not set PENSTOCK_SPOOL_BUCKET yet."
            )
            raise Refusal("uploads_unavailable", text)
        check_size(body.length, settings.max_body_bytes)
        spec = replace(spec, source=spooled(settings.spool_bucket, import_id, region=settings.spool_region))
        has_place = self._runtime.body_places.acquire(blocking=False)
        try:
            started = self._start(
                caller,
                spec,
                import_id,
                asked=f"upload {request}",
                idempotency_key=idempotency_key,
                beside=partial(_await_body, spec=spec, has_place=has_place),
            )
            if not started.replayed:
                take_in(self._runtime, import_id, caller.project_id, spec.source, body)
                self._runtime.dispatch.plan_import(import_id)
        finally:
            if has_place:
                self._runtime.body_places.release()
        return started

    def _start(
        self,
        caller: Caller,
        spec: ImportSpec,
        import_id: str,
        *,
        asked: str,
        idempotency_key: str | None,
        beside: Callable[[Tx, str], None] = lambda *_: None,
    ) -> Started[ImportStatus]:
        """Admit the import, unless its key has made one; ``beside`` writes, or refuses, in the same transaction."""
        once = Once(Kind.IMPORT, caller.project_id, idempotency_key, asked, self._runtime.sealer)
        limit = caller.import_limit or self._runtime.settings.import_limit
        free = self._runtime.slots.take(caller.project_id, import_id, limit=limit)
        started: Started[ImportStatus] | None = None
        try:
            with self._runtime.database.transaction() as tx:
                made = self._made_before(tx, once, import_id)
                status = made or self._admit(tx, caller, spec, import_id, free=free)
                if made is None:
                    beside(tx, import_id)
            started = Started(status, replayed=made is not None)
        finally:
            if free and (started is None or started.replayed):
                self._runtime.slots.give_back(caller.project_id, import_id)
        bind(import_id=started.status.id)
        if not started.replayed:
            log.info("import_accepted", collection=spec.collection)
        return started

    def _made_before(self, tx: Tx, once: Once, import_id: str) -> ImportStatus | None:
        """Return what an earlier request with the key was told; else the key is this import's from now on."""
        made = once.find_made(tx)
        if made is None:
            once.note_made(tx, import_id)
            return None
        if uploads.is_body_awaited(tx, made):
            # The first one may yet break off, and then there is no answer to give again.
            text = "A request with this Idempotency-Key is under way: its body is still coming. Ask again later."
            raise Refusal("request_under_way", text, retryAfter=_UNDER_WAY_RETRY_SECONDS)
        return imports.read_status(tx, made, once.project_id).as_admitted()

    def _admit(self, tx: Tx, caller: Caller, spec: ImportSpec, import_id: str, *, free: bool) -> ImportStatus:
        settings = self._runtime.settings
        if not free:
            # Confirmed without the lock that admissions wait for: a crowd before a full house is answered at once.
            imports.check_slots(tx, caller.project_id, default_limit=settings.import_limit)
        imports.admit_import(
            tx,
            import_id=import_id,
            project_id=caller.project_id,
            api_key_id=caller.key_id,
            spec=spec,
            default_limit=settings.import_limit,
            most_rejects=settings.max_rejects,
        )
        if spec.credentials:
            sealed = self._runtime.sealer.seal(import_id, spec.credentials)
            imports.keep_secret(tx, import_id, sealed, days=settings.secret_days)
        return imports.read_status(tx, import_id, caller.project_id)

    def read_import(self, caller: Caller, import_id: str) -> ImportStatus:
        """Return the import's status. Raises Refusal ``not_found`` for another project's too.

        It holds no event, so whoever knows the id may read it, whatever events they may see.
        """
        caller.require(PUSH, QUERY, FILTERED_QUERY)
        status = self._read(caller, import_id)
        # Not before: a stranger's requests do not stand among the lines of an import.
        bind(import_id=status.id)
        return self._with_progress(status)

    def number_of(self, caller: Caller, import_id: str) -> int:
        """Return the import's place in the list, to go on before it. Raises Refusal as ``read_import`` does."""
        caller.require(PUSH, QUERY)
        return self._read(caller, import_id).number

    def _read(self, caller: Caller, import_id: str) -> ImportStatus:
        found = parse_id(import_id)
        status = None
        if found is not None:
            with self._runtime.database.transaction() as tx:
                status = imports.find_status(tx, found, caller.project_id)
        if status is None:
            raise unknown_import(import_id)
        return status

    def _with_progress(self, status: ImportStatus) -> ImportStatus:
        if status.state in (ImportState.RUNNING, ImportState.PAUSED):
            return replace(status, progress=self._progress(status))
        return status

    def list_imports(
        self,
        caller: Caller,
        *,
        before: int | None = None,
        states: Collection[ImportState] | None = None,
        collection: str | None = None,
        limit: int = 50,
    ) -> Page[ImportStatus]:
        """Return a page of the project's imports: those in one of the states, where any are named."""
        caller.require(PUSH, QUERY)
        with self._runtime.database.transaction() as tx:
            ids, next_before = imports.list_imports(
                tx, caller.project_id, before=before, states=states, collection=collection, limit=limit
            )
            found = imports.read_statuses(tx, ids, caller.project_id)
        return Page([self._with_progress(status) for status in found], next_before)

    def page_imports(self, caller: Caller, listing: Listing, *, page: int, size: int) -> NumberedPage[ImportStatus]:
        """Return a page of the project's imports by its number, from 0."""
        caller.require(PUSH, QUERY)
        with self._runtime.database.transaction() as tx:
            ids, total = imports.page_imports(tx, caller.project_id, listing, page=page, size=size)
            found = imports.read_statuses(tx, ids, caller.project_id)
        return NumberedPage([self._with_progress(status) for status in found], total)

    def cancel_import(self, caller: Caller, import_id: str) -> ImportStatus:
        """End the import. When this returns, no further row of it can commit (P7); what is committed stays.

        Cancelling a cancelled import changes nothing. Raises Refusal ``import_ended`` where it had ended otherwise.
        """
        caller.require(PUSH)
        status = self.read_import(caller, import_id)
        with self._runtime.database.transaction() as tx:
            cancelled = imports.cancel_import(tx, status.id, caller.project_id)
        if cancelled:
            log.info("import_cancelled", import_id=status.id)
            self._runtime.progress.forget(status.id)
            self._runtime.slots.give_back(caller.project_id, status.id)
        status = self.read_import(caller, import_id)
        if status.state is not ImportState.CANCELLED:
            raise Refusal("import_ended", f"The import has ended already: it is {status.state.value}.")
        return status

    def list_errors(
        self, caller: Caller, import_id: str, *, after: tuple[int, int] = (-1, -1), limit: int = 1000
    ) -> ErrorPage:
        """Return rejected lines from a position on. A line is listed once its index in the file is known."""
        return self._errors(self.read_import(caller, import_id), after=after, limit=limit)

    def first_errors(self, status: ImportStatus, *, limit: int) -> ErrorPage:
        """Return the first rejected lines of an import that the caller was told of."""
        return self._errors(status, after=(-1, -1), limit=limit)

    def _errors(self, status: ImportStatus, *, after: tuple[int, int], limit: int) -> ErrorPage:
        if not status.progress.counts.rejected:
            return ErrorPage(status, [], None)
        with self._runtime.database.transaction() as tx:
            errors, more = imports.list_errors(tx, status.id, after=after, limit=limit)
        return ErrorPage(status, errors, errors[-1].position if more else None)

    def read_rejected(
        self, status: ImportStatus, errors: Iterable[LineError]
    ) -> Iterator[tuple[tuple[int, int], bytes]]:
        """Yield the positions of rejected lines and what is kept of each, some MiB at a time.

        ``status`` is that of their import, which the caller was told of.
        """
        for some in _by_size(errors):
            with self._runtime.database.transaction() as tx:
                found = imports.read_rejected(tx, status.id, [error.position for error in some])
            yield from found

    def _progress(self, status: ImportStatus) -> Progress:
        """Return progress from Redis, or from the ledger where Redis has lost it, and put it back there."""
        now_ms = round(status.read_at.timestamp() * 1000)
        done = status.progress.chunks_done
        progress = self._runtime.progress.read(status.id, chunks_done=done, now_ms=now_ms)
        if progress is None:
            with self._runtime.database.transaction() as tx:
                entries = chunks.read_entries(tx, status.id)
            self._runtime.progress.build(status.id, entries)
            progress = sum_progress(entries, now_ms=now_ms)
        return progress


def _by_size(errors: Iterable[LineError]) -> Iterator[list[LineError]]:
    """Yield lines together as long as what is kept of them is small."""
    some: list[LineError] = []
    size = 0
    for error in errors:
        some.append(error)
        size += min(error.length, KEPT_BYTES)
        if size >= _AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some


def _await_body(tx: Tx, import_id: str, *, spec: ImportSpec, has_place: bool) -> None:
    """Make the import wait for its body. Asked last: a key that has made an import needs no place."""
    if not has_place:
        text = "The service is reading as many bodies as it can at a time. Send this one again shortly."
        raise Refusal("too_many_uploads", text, retryAfter=_PLACE_RETRY_SECONDS)
    uploads.await_body(tx, import_id, spec.source)
