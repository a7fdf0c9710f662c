"""Idempotency keys: what a caller's key has made already, for 24 hours (the customary time; the design's)."""

from __future__ import annotations

from typing import NamedTuple

from common.errors import Refusal
from common.ledger.database import Tx
from common.ledger.queries import load_queries
from common.ledger.rows import hex_id

_SQL = load_queries("idempotency")


class Made(NamedTuple):
    """What an earlier request with the same key asked for, and the import it made."""

    fingerprint: bytes
    import_id: str


def key_reused() -> Refusal:
    """Return the answer to a key that has made something else."""
    text = "This Idempotency-Key has made something else within the last 24 hours. Take a fresh one."
    return Refusal("idempotency_key_reused", text, field="Idempotency-Key")


def hold_key(tx: Tx, *, project_id: str, key: str) -> None:
    """Keep others with the key waiting until the transaction ends: what it makes may stand in either of two tables."""
    tx.run(_SQL["hold_key"], project_id=project_id, key=key)


def use_key(tx: Tx, *, project_id: str, key: str, fingerprint: bytes, import_id: str) -> Made | None:
    """Note that the key makes this import; or return what it has made before.

    To be followed, in the same transaction, by the import's row: a request that is refused must not be remembered.
    Blocks while another request with the key is under way. Raises Refusal ``idempotency_key_reused`` where it has made
    an export.
    """
    values = {"project_id": project_id, "key": key}
    hold_key(tx, **values)
    if tx.one(_SQL["has_made_export"], **values).made:
        raise key_reused()
    if tx.one(_SQL["insert_idempotency_key"], **values, fingerprint=fingerprint, import_id=import_id):
        return None
    row = tx.one(_SQL["read_idempotency_key"], **values)
    return Made(bytes(row.fingerprint), hex_id(row.import_id))


def forget_key_of_broken_upload(tx: Tx, import_id: str) -> None:
    """Free the key that made an import whose body never came to its end; does nothing for any other."""
    tx.run(_SQL["forget_key_of_broken_upload"], import_id=import_id)


def delete_old_keys(tx: Tx) -> int:
    """Delete keys past their day, and return how many there were."""
    return tx.run(_SQL["delete_old_idempotency_keys"])
