"""Idempotency keys: what a caller's key has made already, for 24 hours (the customary time; the design's).

A key is unique in its project, whatever it has made. Each kind of thing has a table of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from common.errors import Refusal
from common.ledger.database import Tx
from common.ledger.queries import load_queries

_SQL = load_queries("idempotency")


class Kind(StrEnum):
    """What a key makes."""

    IMPORT = "import"
    EXPORT = "export"
    PUSH = "push"


_NOTE = {Kind.IMPORT: _SQL["note_import"], Kind.EXPORT: _SQL["note_export"], Kind.PUSH: _SQL["note_push"]}
_DELETE_OLD = (_SQL["delete_old_import_keys"], _SQL["delete_old_export_keys"], _SQL["delete_old_push_keys"])


def find_made(tx: Tx, *, project_id: str, key: str, is_same: Callable[[bytes], bool]) -> str | None:
    """Return what the key has made, as it was noted; None where it has made nothing.

    Keeps others with the key waiting until the transaction ends, and blocks while one of them is under way. Raises
    Refusal ``idempotency_key_reused`` where that was another request, which ``is_same`` tells by the fingerprint that
    was noted: of a text that begins with what is to be made.
    """
    values = {"project_id": project_id, "key": key}
    tx.run(_SQL["hold_key"], **values)
    row = tx.one(_SQL["find_made"], **values)
    if row is None:
        return None
    if not is_same(bytes(row.fingerprint)):
        text = "This Idempotency-Key has made something else within the last 24 hours. Take a fresh one."
        raise Refusal("idempotency_key_reused", text, field="Idempotency-Key")
    return str(row.made)


def note_made(tx: Tx, kind: Kind, *, project_id: str, key: str, fingerprint: bytes, made: str) -> None:
    """Note what the key makes: an import or an export by its id, or the verdicts on a push's events as JSON.

    To be called after ``find_made``, in the transaction that makes it: what is refused must not be remembered.
    """
    values = {"project_id": project_id, "key": key, "fingerprint": fingerprint, "made": made}
    tx.run(_NOTE[kind], **values)


def forget_key_of_broken_upload(tx: Tx, import_id: str) -> None:
    """Free the key that made an import whose body never came to its end; does nothing for any other."""
    tx.run(_SQL["forget_key_of_broken_upload"], import_id=import_id)


def delete_old_keys(tx: Tx) -> int:
    """Delete keys past their day, and return how many there were."""
    return sum(map(tx.run, _DELETE_OLD))
