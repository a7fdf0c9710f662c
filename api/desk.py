"""What can be asked of the service, without HTTP and without a dialect: every room brings its wishes here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from api.callers import PUSH, QUERY, Caller
from common.errors import Refusal
from common.ledger import chunks, idempotency, imports
from common.ledger.database import Tx
from common.model.ids import new_id, parse_id, unknown_import
from common.model.imports import ImportSpec, ImportState, ImportStatus, Progress, sum_progress
from common.model.rejects import LineError
from common.runtime import Runtime
from common.telemetry import bind, get_logger

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Started:
    """What a request for an import came to."""

    #: As the import was admitted: a request that is repeated gets the very same answer.
    status: ImportStatus
    #: Whether its idempotency key had made the import before.
    replayed: bool


@dataclass(frozen=True, slots=True)
class ImportPage:
    """Some of a project's imports, newest first."""

    items: list[ImportStatus]
    #: What to ask for next, or None at the end.
    next_before: int | None


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

    def start_import(self, caller: Caller, spec: ImportSpec, *, idempotency_key: str | None = None) -> Started:
        """Admit an import and return it. Once this returns the import will run, whatever happens to the queue.

        A key that has made an import within 24 hours gets the first answer again, whatever became of the import since.
        Raises Refusal where the project has no free slot, the source needs credentials and has none, or the key has
        made something else. May block while another request with the key is under way.
        """
        caller.require(PUSH)
        if spec.credentials is None and not self._runtime.settings.may_read_own(spec.source.bucket):
            text = "The source needs accessKeyId and secretAccessKey."
            raise Refusal("credentials_required", text, field="source.accessKeyId")
        import_id = new_id()
        limit = caller.import_limit or self._runtime.settings.import_limit
        free = self._runtime.slots.take(caller.project_id, import_id, limit=limit)
        started: Started | None = None
        try:
            with self._runtime.database.transaction() as tx:
                made = self._made_before(tx, caller, spec, idempotency_key, import_id)
                status = made or self._admit(tx, caller, spec, import_id, free=free)
            started = Started(status, replayed=made is not None)
        finally:
            if free and (started is None or started.replayed):
                self._runtime.slots.give_back(caller.project_id, import_id)
        bind(import_id=started.status.id)
        if not started.replayed:
            log.info("import_accepted", collection=spec.collection)
            self._runtime.dispatch.plan_import(import_id)
        return started

    def _made_before(
        self, tx: Tx, caller: Caller, spec: ImportSpec, key: str | None, import_id: str
    ) -> ImportStatus | None:
        """Return what an earlier request with the key was told; else the key is this import's from now on."""
        if key is None:
            return None
        asked, sealer = spec.as_asked(), self._runtime.sealer
        made = idempotency.use_key(
            tx, project_id=caller.project_id, key=key, fingerprint=sealer.fingerprint(asked), import_id=import_id
        )
        if made is None:
            return None
        if not sealer.has_fingerprint(asked, made.fingerprint):
            text = "This Idempotency-Key has made another import within the last 24 hours. Take a fresh one."
            raise Refusal("idempotency_key_reused", text, field="Idempotency-Key")
        return imports.read_status(tx, made.import_id, caller.project_id).as_admitted()

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
        """Return the import's status. Raises Refusal ``not_found`` for another project's too."""
        caller.require(PUSH, QUERY)
        found = parse_id(import_id)
        if found is None:
            raise unknown_import(import_id)
        status = self._read(caller, found)
        # Not before: a stranger's requests do not stand among the lines of an import.
        bind(import_id=status.id)
        return status

    def _read(self, caller: Caller, import_id: str) -> ImportStatus:
        with self._runtime.database.transaction() as tx:
            status = imports.find_status(tx, import_id, caller.project_id)
        if status is None:
            raise unknown_import(import_id)
        if status.state in (ImportState.RUNNING, ImportState.PAUSED):
            return replace(status, progress=self._progress(status))
        return status

    def list_imports(
        self,
        caller: Caller,
        *,
        before: int | None = None,
        state: ImportState | None = None,
        collection: str | None = None,
        limit: int = 50,
    ) -> ImportPage:
        """Return a page of the project's imports."""
        caller.require(PUSH, QUERY)
        with self._runtime.database.transaction() as tx:
            ids, next_before = imports.list_imports(
                tx, caller.project_id, before=before, state=state, collection=collection, limit=limit
            )
        return ImportPage([self._read(caller, import_id) for import_id in ids], next_before)

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
        status = self.read_import(caller, import_id)
        if not status.progress.counts.rejected:
            return ErrorPage(status, [], None)
        with self._runtime.database.transaction() as tx:
            errors, more = imports.list_errors(tx, status.id, after=after, limit=limit)
        return ErrorPage(status, errors, errors[-1].position if more else None)

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
