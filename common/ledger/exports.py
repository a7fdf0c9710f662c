"""The rows of exports: admitted, claimed, written, ended, and told about; and the events that they are made of."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from common.errors import Refusal, Terminal
from common.ledger import collections
from common.ledger.database import Tx
from common.ledger.filtering import Selection, select_events
from common.ledger.leases import end_holder
from common.ledger.queries import load_queries
from common.ledger.rows import hex_id
from common.model.exports import (
    Attempt,
    Export,
    ExportSpec,
    ExportState,
    ExportStatus,
    Leftover,
    Totals,
    WrittenObject,
    too_many_events,
)
from common.model.imports import Failure
from common.model.query import EVERYTHING, Query
from common.model.roles import external_id

_SQL = load_queries("exports")

#: Seconds, from and to, after which a refused caller may try again.
_PLACE_RETRY_SECONDS = (12, 18)
#: Exports that a round of the sweep cleans up after.
_MOST_TO_CLEAN = 10
#: Rows fetched at a time: 50 MiB of the longest lines.
_FETCHED = 50
#: Odd events that are judged for an answer, each in some 5 us and more.
_MOST_ODD = 100_000


def admit_export(
    tx: Tx,
    *,
    export_id: str,
    project_id: str,
    collection_id: int,
    api_key_id: str | None,
    spec: ExportSpec,
    limit: int,
) -> None:
    """Insert the row of an export of a collection that the caller of this has locked against deletion.

    Raises Refusal ``too_many_active_exports``, with the limit and the active ids, where the project has as many.
    """
    tx.run(_SQL["lock_export_places"], project_id=project_id)
    active = [hex_id(row.id) for row in tx.all(_SQL["active_exports"], project_id=project_id)]
    if len(active) >= limit:
        raise Refusal(
            "too_many_active_exports",
            f"too many active exports: this project has {len(active)} of {limit}. Wait for one to end, or cancel one.",
            limit=limit,
            activeExports=active,
            # Spread: callers that were refused together would come back together.
            retryAfter=random.randint(*_PLACE_RETRY_SECONDS),  # noqa: S311  nothing to guess
        )
    tx.run(
        _SQL["insert_export"],
        id=export_id,
        project_id=project_id,
        collection_id=collection_id,
        api_key_id=api_key_id,
        spec=json.dumps(spec.as_json()),
    )


def keep_secret(tx: Tx, export_id: str, sealed: bytes, *, days: int) -> None:
    """Store the caller's sealed S3 keys beside the export, for so many days at most."""
    tx.run(_SQL["insert_export_secret"], export_id=export_id, sealed=sealed, days=days)


def read_secret(tx: Tx, export_id: str) -> bytes | None:
    """Return the sealed keys, or None where there were none or their days are over."""
    row = tx.one(_SQL["read_export_secret"], export_id=export_id)
    return bytes(row.sealed) if row else None


def claim_export(tx: Tx, export_id: str, *, lease_seconds: float) -> Attempt | None:
    """Lease the export for a fresh attempt, and end the backend of the former one; None where another has it."""
    row = tx.one(_SQL["claim_export"], export_id=export_id, lease_seconds=lease_seconds)
    if row is None:
        return None
    end_holder(tx, row.former_pid, row.former_started)
    return Attempt(_export(row), row.attempts, row.lease_token)


class Snapshot(NamedTuple):
    """What an attempt reads: a transaction that sees the same events whatever it asks."""

    #: Of the backend that holds it, for Postgres to be told to end its statement.
    pid: int
    started: datetime
    #: No later commit is seen.
    at: datetime


def begin_snapshot(tx: Tx) -> Snapshot:
    """Make the transaction, of which nothing was asked yet, one snapshot that only reads."""
    tx.run(_SQL["begin_snapshot"])
    row = tx.one(_SQL["read_snapshot"])
    return Snapshot(row.pid, row.started, row.at)


def count_events(tx: Tx, job: Export) -> tuple[Totals, int]:
    """Return how many events of the snapshot the export has and how many bytes they have as lines with its fill; and
    how many events are odd and not among them.

    The ledger has both of a whole collection, and no event is looked at. Otherwise this goes through it once (0.14 us
    an event, 0.35 with a fill), and blocks for as long. No operator of Postgres can look into odd ones, so they are
    left out where there is something to judge or to fill.
    """
    whole = None if job.spec.fill else _whole_collection(tx, job)
    if whole:
        return whole, 0
    selection, fill = _selection(job), job.spec.fill
    values: dict[str, Any] = {**selection.values, "whole": not (selection.judges_odd or fill)}
    statement = _SQL["count_exported"]
    if fill:
        statement = _SQL["count_filled"]
        # The bytes of a member, with the comma before it.
        values |= {"id_name": fill.id, "id_bytes": 1 + len(fill.id_member("0" * 36))}
        values |= {"time_name": fill.time, "time_bytes": 1 + len(fill.time_member("0" * 24))}
    row = tx.one(selection.put_into(statement), **values)
    return Totals(row.events, row.bytes), row.odd


def _whole_collection(tx: Tx, job: Export) -> Totals | None:
    """Return what the ledger says of the collection; None where less is asked for, or it does not know all of it.

    As of the snapshot: what is stored and what the ledger says of it are committed together.
    """
    if job.spec.query != EVERYTHING or job.spec.import_number is not None:
        return None
    found, _ = collections.list_collections(tx, job.project_id, names=[job.spec.collection], limit=1)
    return next((Totals(one.events, one.size) for one in found if one.size is not None), None)


def _selection(job: Export) -> Selection:
    return select_events(job.collection_id, job.spec.query, import_number=job.spec.import_number)


def copy_events(tx: Tx, job: Export, write: Callable[[bytes], None], *, odd_only: bool = False) -> None:
    """Have ``write`` called with each row of the snapshot's events, or of those that ``count_events`` leaves out.

    A row ends with a line feed. Its columns are parted by a byte 2: the payload as it was stored; if the query has
    conditions, or there is a fill, ``t`` where the event is odd and still to be judged; if there is a fill the event's
    id as a UUID, and its time in UTC to the millisecond.

    It is COPY's CSV form, with bytes 1 and 2 for its quote and its delimiter. No JSON holds those: nothing is ever
    escaped, and bytes 1, put around a payload with a carriage return between its tokens, may be taken out wherever they
    are. (COPY's text form doubles backslashes, its binary form would have to be cut row by row in Python.) May block
    for as long as ``write`` does. Raises what that raises.
    """
    selection = _selection(job)
    statement = _SQL["copy_payloads"]
    if job.spec.fill:
        statement = _SQL["copy_with_identity"]
    elif selection.judges_odd:
        statement = _SQL["copy_with_mark"]
    tx.copy_out(selection.put_into(statement), write, **selection.values, odd_only=odd_only)


def read_few(tx: Tx, collection_id: int, query: Query, *, most: int) -> Iterator[tuple[bytes, str, str]]:
    """Yield payload, id and time of the events that a query asks for, in the order of their times, some at a time.

    No more than one above ``most`` of them, as far as Postgres can tell: with odd ones, judged here, there may be more.
    Raises Refusal ``too_many_events`` where so many odd ones would have to be judged that it took seconds.
    """
    selection = select_events(collection_id, query)
    statement = _SQL["read_few_judged"] if selection.judges_odd else _SQL["read_few"]
    if selection.judges_odd and tx.one(selection.put_into(_SQL["has_many_odd"]), **selection.values, most=_MOST_ODD):
        raise too_many_events(most)
    tx.run(f"DECLARE few NO SCROLL CURSOR FOR {selection.put_into(statement)}", **selection.values, most=most)
    while rows := tx.all(f"FETCH {_FETCHED} FROM few"):
        for row in rows:
            payload = row.payload.encode()
            if not (selection.judges_odd and row.odd) or query.matches(payload):
                yield payload, row.event_id, row.iso_time


def note_snapshot(tx: Tx, attempt: Attempt, snapshot: Snapshot) -> bool:
    """Write down which backend the attempt depends on; False where the lease was lost or the export has ended."""
    return tx.one(_SQL["note_snapshot"], **_held(attempt), **snapshot._asdict()) is not None


def note_totals(tx: Tx, attempt: Attempt, totals: Totals) -> bool:
    """Write down what the snapshot holds; False as above."""
    return tx.one(_SQL["note_totals"], **_held(attempt), events=totals.events, bytes=totals.bytes) is not None


def renew_export(
    tx: Tx, attempt: Attempt, *, lease_seconds: float, events_done: int, bytes_done: int, moved: bool
) -> bool:
    """Write down how far the attempt is, and lengthen its lease if it gets on; False as above.

    It gets on where something has ``moved`` since the last time, or Postgres is at work for it.
    """
    values = {"lease_seconds": lease_seconds, "events": events_done, "bytes": bytes_done, "moved": moved}
    return tx.one(_SQL["renew_export"], **_held(attempt), **values) is not None


def cancel_statement(tx: Tx, snapshot: Snapshot) -> None:
    """End the statement that reads the snapshot, if it runs."""
    tx.run(_SQL["cancel_statement"], pid=snapshot.pid, started=snapshot.started)


def note_object(tx: Tx, attempt: Attempt, number: int, key: str) -> bool:
    """Write down an object that S3 is to be told of next; False where the lease was lost or the export has ended."""
    return tx.one(_SQL["insert_object"], **_held(attempt), number=number, key=key) is not None


def note_upload(tx: Tx, attempt: Attempt, number: int, upload_id: str) -> bool:
    """Write down how S3 calls the object's upload; False where somebody has cleaned up after the attempt already."""
    return tx.one(_SQL["note_upload"], **_held(attempt), number=number, upload_id=upload_id) is not None


def note_sealing(tx: Tx, attempt: Attempt, number: int) -> bool:
    """Write down that S3 is told next to make the object of its parts; False as with ``note_object``."""
    return tx.one(_SQL["note_sealing"], **_held(attempt), number=number) is not None


def note_written(tx: Tx, attempt: Attempt, number: int, written: WrittenObject) -> bool:
    """Write down what the object holds; False as with ``note_upload``."""
    values = {"events": written.events, "bytes": written.size, "sha256": written.sha256}
    return tx.one(_SQL["note_written"], **_held(attempt), number=number, **values) is not None


def complete_export(tx: Tx, attempt: Attempt, *, events: int, size: int) -> bool:
    """End the export well; False where the lease was lost or the export has ended: its objects must go then."""
    completed = tx.one(_SQL["complete_export"], **_held(attempt), events=events, bytes=size)
    _forget_secret(tx, attempt.job.id)
    return completed is not None


def is_completed(tx: Tx, attempt: Attempt) -> bool:
    """Return whether it was this attempt that completed the export."""
    return bool(tx.one(_SQL["is_completed"], **_held(attempt)).completed)


def fail_export(tx: Tx, export_id: str, error: Terminal, *, attempt: Attempt | None = None) -> bool:
    """End the export for a reason its caller is told; False where it had ended, or another than ``attempt`` has it."""
    values = {"code": error.code, "message": error.public, "lease_token": attempt.lease_token if attempt else None}
    tx.run(_SQL["lock_export"], export_id=export_id)
    failed = tx.one(_SQL["fail_export"], export_id=export_id, **values)
    _forget_secret(tx, export_id)
    return failed is not None


def cancel_export(tx: Tx, export_id: str, project_id: str) -> bool:
    """End the export at its caller's wish; False where it had ended or is not theirs."""
    tx.run(_SQL["lock_export"], export_id=export_id)
    cancelled = tx.one(_SQL["cancel_export"], export_id=export_id, project_id=project_id)
    if cancelled:
        _forget_secret(tx, export_id)
    return cancelled is not None


def has_ended(tx: Tx, export_id: str) -> bool:
    """Return whether the export has ended."""
    return tx.one(_SQL["has_export_ended"], export_id=export_id) is not None


def has_been_given_up(tx: Tx, export_id: str) -> bool:
    """Return whether the export was cancelled or has failed: nothing of it is to be in the bucket."""
    return tx.one(_SQL["has_been_given_up"], export_id=export_id) is not None


def release_export(tx: Tx, attempt: Attempt, *, delay_seconds: float, attempt_counts: bool = True) -> None:
    """Give the export back; it is due again after the delay, and begins again. Does nothing where it is another's."""
    tx.run(_SQL["release_export"], **_held(attempt), delay_seconds=delay_seconds, attempt_counts=attempt_counts)


def list_leftovers(tx: Tx, export_id: str) -> list[Leftover]:
    """Return what is in the bucket, or may be, and shall not be there."""
    rows = tx.all(_SQL["list_leftovers"], export_id=export_id, lease_token=None, number=None)
    return [_leftover(row) for row in rows]


def find_leftover(tx: Tx, export_id: str, listed: Leftover) -> Leftover | None:
    """Return one of them as it is now; None where it is none any more."""
    place = {"lease_token": listed.lease_token, "number": listed.number}
    row = tx.one(_SQL["list_leftovers"], export_id=export_id, **place)
    return _leftover(row) if row else None


def forget_leftover(tx: Tx, export_id: str, leftover: Leftover) -> None:
    """Note that nothing of it is in the bucket any more."""
    tx.run(_SQL["forget_leftover"], export_id=export_id, lease_token=leftover.lease_token, number=leftover.number)


def note_clean(tx: Tx, export_id: str) -> None:
    """Note that nothing of an ended export is left to be done, and delete its secret."""
    tx.run(_SQL["note_clean"], export_id=export_id)
    _forget_secret(tx, export_id)


def take_to_clean(tx: Tx, *, again_seconds: float) -> list[Export]:
    """Return ended exports of which something may be in the bucket; each is due again after so many seconds."""
    return [_export(row) for row in tx.all(_SQL["take_to_clean"], again_seconds=again_seconds, most=_MOST_TO_CLEAN)]


def clean_soon(tx: Tx, export_ids: list[str]) -> None:
    """Have exports that are not clean be due again at once: time was all that lacked."""
    tx.run(_SQL["clean_soon"], export_ids=export_ids)


def find_status(tx: Tx, export_id: str, project_id: str) -> ExportStatus | None:
    """Return an export of the project as its row tells it."""
    row = tx.one(_SQL["read_export_status"], export_id=export_id, project_id=project_id)
    return _status(row) if row else None


def list_exports(
    tx: Tx,
    project_id: str,
    *,
    before: int | None = None,
    states: Collection[ExportState] | None = None,
    collection: str | None = None,
    limit: int,
) -> tuple[list[str], int | None]:
    """Return the ids of a page, newest first, and the number to go on before, or None at the end."""
    if collection is not None and not collections.can_be_stored(collection):
        return [], None
    values = {"states": None if states is None else [*states], "before": before, "collection": collection}
    rows = tx.all(_SQL["list_exports"], project_id=project_id, limit=limit, **values)
    return [hex_id(row.id) for row in rows[:limit]], rows[limit - 1].number if len(rows) > limit else None


def is_export_waiting(tx: Tx) -> bool:
    """Return whether some export is due that nobody writes: work for whichever exporter hears of it first."""
    return bool(tx.one(_SQL["is_export_waiting"]).waiting)


def count_due(tx: Tx) -> int:
    """Return how many exports are due and written by nobody alive. Each should have a message in the queue."""
    return int(tx.one(_SQL["count_due_exports"]).due)


def is_export_in_work(tx: Tx) -> bool:
    """Return whether an exporter is at work on any export."""
    return bool(tx.one(_SQL["is_export_in_work"]).in_work)


def send_exports_again(tx: Tx, *, resend_seconds: float, room: int) -> list[str]:
    """Mark exports whose message or writer was lost as sent, and return their ids."""
    return [hex_id(row.id) for row in tx.all(_SQL["send_exports_again"], resend_seconds=resend_seconds, room=room)]


def end_expired_holders(tx: Tx) -> int:
    """End the backends of attempts that lost their lease, and return how many they were."""
    return len(tx.all(_SQL["end_expired_writers"]))


def expired_secrets(tx: Tx) -> list[str]:
    """Return active exports whose credentials are past their days."""
    return [hex_id(row.id) for row in tx.all(_SQL["expired_export_secrets"])]


def delete_stale_secrets(tx: Tx) -> int:
    """Delete the secrets that nothing needs any more, and return how many there were."""
    return tx.run(_SQL["delete_stale_export_secrets"])


def _forget_secret(tx: Tx, export_id: str) -> None:
    tx.run(_SQL["delete_needless_secret"], export_id=export_id)


def _held(attempt: Attempt) -> dict[str, Any]:
    return {"export_id": attempt.job.id, "lease_token": attempt.lease_token}


def _export(row: Any) -> Export:
    spec = ExportSpec.from_json(row.spec)
    return Export(hex_id(row.id), hex_id(row.project_id), row.collection_id, row.created_at, spec)


def _leftover(row: Any) -> Leftover:
    return Leftover(row.lease_token, row.number, row.key, row.upload_id, row.stands)


def _status(row: Any) -> ExportStatus:
    spec = ExportSpec.from_json(row.spec)
    objects = [(number, WrittenObject(*values)) for number, *values in row.objects or ()]
    return ExportStatus(
        id=hex_id(row.id),
        number=row.number,
        spec=spec,
        state=ExportState(row.state),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        read_at=row.read_at,
        attempt_started_at=row.attempt_started_at,
        snapshot_at=row.snapshot_at,
        events_total=row.events_total,
        bytes_total=row.bytes_total,
        events_done=row.events_done,
        bytes_done=row.bytes_done,
        error=Failure(row.error_code, row.error_message) if row.error_code else None,
        history=tuple((ExportState(state), datetime.fromisoformat(at)) for state, at in row.history),
        objects=tuple(written for number, written in objects if number),
        manifest=next((written.key for number, written in objects if not number), None),
        key_id=row.api_key_id,
        external_id=external_id(hex_id(row.project_id)) if spec.destination.role else None,
    )
