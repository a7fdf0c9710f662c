"""What can be asked of exports, without HTTP and without a dialect."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import datetime
from tempfile import SpooledTemporaryFile
from typing import IO

from api.callers import FILTERED_QUERY, QUERY, Caller
from api.replies import Page, Started
from common.completing import Completer
from common.errors import Refusal
from common.ledger import collections, exports
from common.ledger.database import TooSlow, Tx
from common.ledger.idempotency import Kind, Once
from common.model.collections import unknown_collection
from common.model.exports import ExportSpec, ExportState, ExportStatus, Fill, too_many_events, unknown_export
from common.model.ids import new_id, parse_id
from common.model.query import Query
from common.runtime import Runtime
from common.telemetry import bind, get_logger

log = get_logger(__name__)


#: Events, and bytes, of an export that is an answer; and how many of these are kept in memory.
MOST_AT_ONCE, _MOST_BYTES_AT_ONCE, _IN_MEMORY = 10_000, 256 * 1024**2, 4 * 1024**2


class ExportDesk:
    """The use cases of exports. Raises Refusal for what is not taken, Transient while Postgres is away."""

    def __init__(self, runtime: Runtime) -> None:
        """Take the process's runtime."""
        self._runtime = runtime

    def read_clock(self) -> datetime:
        """Return the database's time: what a relative timeframe is relative to."""
        with self._runtime.database.transaction() as tx:
            return collections.read_clock(tx)

    def start_export(
        self, caller: Caller, spec: ExportSpec, *, idempotency_key: str | None = None
    ) -> Started[ExportStatus]:
        """Admit an export and return it. Once this returns the export will be written, whatever happens to the queue.

        A key that has made an export within 24 hours gets the first answer again. Raises Refusal ``not_found`` where
        the project has no such collection, ``too_many_active_exports``, ``credentials_required``, and where the key has
        made something else. May block while another request with the key is under way.
        """
        spec = replace(spec, query=caller.narrow(spec.query))
        own = self._runtime.settings.may_write_own(spec.destination.bucket)
        if spec.credentials is None and spec.destination.role is None and not own:
            text = "The destination needs accessKeyId and secretAccessKey, or a roleArn."
            raise Refusal("credentials_required", text, field="destination.accessKeyId")
        # The same words of a caller who sees fewer events ask for something else.
        within = json.dumps(Query(caller.conditions).as_json()) if caller.conditions else ""
        asked, export_id = f"{spec.as_asked()}{within}", new_id()
        once = Once(Kind.EXPORT, caller.project_id, idempotency_key, asked, self._runtime.sealer)
        with self._runtime.database.transaction() as tx:
            made = self._made_before(tx, once, export_id)
            status = made or self._admit(tx, caller, spec, export_id)
        bind(export_id=status.id)
        if made is None:
            log.info("export_accepted", collection=spec.collection)
            self._runtime.dispatch.write_export(export_id)
        return Started(status, replayed=made is not None)

    def _made_before(self, tx: Tx, once: Once, export_id: str) -> ExportStatus | None:
        """Return what an earlier request with the key was told; else the key is this export's from now on."""
        made = once.find_made(tx)
        if made is None:
            once.note_made(tx, export_id)
            return None
        status = exports.find_status(tx, made, once.project_id)
        return status.as_admitted() if status else None

    def _admit(self, tx: Tx, caller: Caller, spec: ExportSpec, export_id: str) -> ExportStatus:
        settings = self._runtime.settings
        collection = collections.find(tx, caller.project_id, spec.collection)
        if collection is None:
            raise unknown_collection(spec.collection)
        exports.admit_export(
            tx,
            export_id=export_id,
            project_id=caller.project_id,
            collection_id=collection.id,
            api_key_id=caller.key_id,
            spec=spec,
            limit=settings.export_limit,
        )
        if spec.credentials:
            sealed = self._runtime.sealer.seal(export_id, spec.credentials)
            exports.keep_secret(tx, export_id, sealed, days=settings.secret_days)
        status = exports.find_status(tx, export_id, caller.project_id)
        assert status, "it was inserted in this transaction"
        return status

    def small_export(
        self, caller: Caller, collection: str, query: Query, *, fill: Fill, most: int = MOST_AT_ONCE
    ) -> Iterator[bytes]:
        """Return events of a collection in the order of their times, each as the bytes that came in with its fill.

        They are all there before the first is given, beyond some MiB in a temporary file: a failure is an answer of
        its own, not half an export, and a slow reader keeps no snapshot open. Raises Refusal ``not_found``, and
        ``too_many_events`` where there are more than ``most``, or more than 256 MiB, and ``too_slow``.
        """
        query = caller.narrow(query)
        file = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  it lives as long as the answer
        try:
            self._gather(caller, collection, query, Completer(fill), most, file)
        except TooSlow:
            file.close()
            # No "come again": the same request would take as long.
            text = "It takes too long to find these events for an answer. Ask for a shorter timeframe, or export to S3."
            raise Refusal("too_slow", text) from None
        except BaseException:
            file.close()
            raise
        return _lines_of(file)

    def _gather(
        self, caller: Caller, collection: str, query: Query, completer: Completer, most: int, file: IO[bytes]
    ) -> None:
        with self._runtime.database.transaction() as tx:
            found = collections.find(tx, caller.project_id, collection, hold=False)
            if found is None:
                raise unknown_collection(collection)
            few = exports.read_few(tx, found.id, query, most=most)
            for count, (payload, event_id, time) in enumerate(few, 1):
                (line,) = completer.complete([payload], [event_id], [time])
                file.write(line + b"\n")
                if count > most or file.tell() > _MOST_BYTES_AT_ONCE:
                    raise too_many_events(most)

    def read_export(self, caller: Caller, export_id: str, *, collection: str | None = None) -> ExportStatus:
        """Return the export's status. Raises Refusal ``not_found`` for another project's too, and for one of another
        collection where one is named.

        It holds no event, so whoever knows the id may read it, whatever events they may see.
        """
        caller.require(QUERY, FILTERED_QUERY)
        found, status = parse_id(export_id), None
        if found is not None:
            with self._runtime.database.transaction() as tx:
                status = exports.find_status(tx, found, caller.project_id)
        if status is None or collection not in (None, status.spec.collection):
            raise unknown_export(export_id)
        bind(export_id=status.id)
        return status

    def list_exports(
        self,
        caller: Caller,
        *,
        before: int | None = None,
        states: Collection[ExportState] | None = None,
        collection: str | None = None,
        limit: int = 50,
    ) -> Page[ExportStatus]:
        """Return a page of the project's exports: those in one of the states, where any are named."""
        caller.require(QUERY)
        with self._runtime.database.transaction() as tx:
            ids, next_before = exports.list_exports(
                tx, caller.project_id, before=before, states=states, collection=collection, limit=limit
            )
            found = [exports.find_status(tx, export_id, caller.project_id) for export_id in ids]
        return Page([status for status in found if status], next_before)

    def cancel_export(self, caller: Caller, export_id: str) -> ExportStatus:
        """End the export. None of its objects is made after this returns; one that was made just before it is deleted.

        Cancelling a cancelled export changes nothing. Raises Refusal ``export_ended`` where it had ended otherwise.
        """
        caller.require(QUERY)
        status = self.read_export(caller, export_id)
        with self._runtime.database.transaction() as tx:
            cancelled = exports.cancel_export(tx, status.id, caller.project_id)
        if cancelled:
            log.info("export_cancelled", export_id=status.id)
        status = self.read_export(caller, export_id)
        if status.state is not ExportState.CANCELLED:
            raise Refusal("export_ended", f"The export has ended already: it is {status.state.value}.")
        return status


def _lines_of(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        file.seek(0)
        for line in file:
            yield line[:-1]
