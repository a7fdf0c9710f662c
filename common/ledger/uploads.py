"""The rows of bodies that are sent to us: awaited, there, broken off, and gone from the spool bucket."""

from __future__ import annotations

from common.ledger import idempotency
from common.ledger.database import Tx
from common.ledger.queries import load_queries
from common.ledger.rows import hex_id
from common.model.sources import SourceRef
from common.model.uploads import Upload

_SQL = load_queries("uploads")

#: A body of which nothing was heard for so many times as long as makes it a broken one is nobody's any more.
_OLD = 10
#: Rows to delete in one round.
_MOST = 100


def await_body(tx: Tx, import_id: str, source: SourceRef) -> None:
    """Note, beside the import that was just admitted, that its body is still to come: until then nobody plans it."""
    tx.run(_SQL["insert_upload"], import_id=import_id, bucket=source.bucket, key=source.key)


def note_upload_id(tx: Tx, import_id: str, upload_id: str) -> bool:
    """Write down how S3 calls the upload; False where nobody remembers the body any more: break it off then."""
    return tx.one(_SQL["note_upload_id"], import_id=import_id, upload_id=upload_id) is not None


def touch_upload(tx: Tx, import_id: str) -> bool:
    """Note that bytes have come; False where the import has ended meanwhile."""
    return tx.one(_SQL["touch_upload"], import_id=import_id) is not None


def note_body_done(tx: Tx, import_id: str) -> bool:
    """Let the import begin: all of its body is in the bucket. False where it has ended meanwhile: roll back then."""
    done = tx.one(_SQL["note_upload_done"], import_id=import_id)
    return bool(done and tx.one(_SQL["stop_waiting"], import_id=import_id))


def is_body_awaited(tx: Tx, import_id: str) -> bool:
    """Return whether the import has a body that has not come to its end."""
    row = tx.one(_SQL["find_upload"], import_id=import_id)
    return bool(row and not row.done)


def is_body_done(tx: Tx, import_id: str) -> bool:
    """Return whether all of the import's body is in the bucket, or was until it ended."""
    row = tx.one(_SQL["find_upload"], import_id=import_id)
    return bool(row and row.done)


def silent_uploads(tx: Tx, *, silent_seconds: float) -> list[str]:
    """Return imports that wait for a body of which nothing came for so long."""
    return [hex_id(row.import_id) for row in tx.all(_SQL["silent_uploads"], silent_seconds=silent_seconds)]


def give_up_body(tx: Tx, import_id: str, *, silent_seconds: float = 0) -> bool:
    """Return whether the body is still awaited, and was silent for so long; then nobody can complete it before this
    transaction ends, which is to fail the import, and its idempotency key is free again.
    """
    if not tx.one(_SQL["lock_awaited_upload"], import_id=import_id, silent_seconds=silent_seconds):
        return False
    idempotency.forget_key_of_broken_upload(tx, import_id)
    return True


def take_ended_uploads(tx: Tx, *, again_seconds: float) -> list[Upload]:
    """Return what lies in the bucket for imports that have ended; what is not deleted comes again after so long."""
    rows = tx.all(_SQL["take_ended_uploads"], again_seconds=again_seconds, old_seconds=_OLD * again_seconds, most=_MOST)
    return [Upload(hex_id(row.import_id), row.bucket, row.key, row.upload_id, row.done, row.old) for row in rows]


def delete_upload(tx: Tx, import_id: str) -> None:
    """Forget a body of which nothing is left."""
    idempotency.forget_key_of_broken_upload(tx, import_id)
    tx.run(_SQL["delete_upload"], import_id=import_id)
