"""Idempotency keys: what a caller's key has made already, for 24 hours (the customary time; the design's).

A key is unique in its project, whatever it has made. Each kind of thing has a table of its own.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from common.errors import Refusal
from common.ledger.database import Tx
from common.ledger.queries import load_queries
from common.sealing import Sealer

_SQL = load_queries("idempotency")


class Kind(StrEnum):
    """What a key makes."""

    IMPORT = "import"
    EXPORT = "export"
    PUSH = "push"


_NOTE = {Kind.IMPORT: _SQL["note_import"], Kind.EXPORT: _SQL["note_export"], Kind.PUSH: _SQL["note_push"]}
_DELETE_OLD = (_SQL["delete_old_import_keys"], _SQL["delete_old_export_keys"], _SQL["delete_old_push_keys"])


class Once(NamedTuple):
    """A request that is to be done once: by its key, and by what it asks for."""

    kind: Kind
    project_id: str
    #: None: the request has no key, so nothing is found and nothing is noted.
    key: str | None
    #: In one form, which begins with what is to be made: equal texts ask for the same.
    asked: str
    sealer: Sealer

    def find_made(self, tx: Tx) -> str | None:
        """Return what the key has made, as it was noted; None where it has made nothing.

        Keeps others with the key waiting until the transaction ends, and blocks while one of them is under way. Raises
        Refusal ``idempotency_key_reused`` where that was another request.
        """
        if self.key is None:
            return None
        values = {"project_id": self.project_id, "key": self.key}
        tx.run(_SQL["hold_key"], **values)
        row = tx.one(_SQL["find_made"], **values)
        if row is None:
            return None
        if not self.sealer.has_fingerprint(self.asked, bytes(row.fingerprint)):
            text = "This Idempotency-Key has made something else within the last 24 hours. Take a fresh one."
            raise Refusal("idempotency_key_reused", text, field="Idempotency-Key")
        return str(row.made)

    def note_made(self, tx: Tx, made: str) -> None:
        """Note what the key makes: an import or an export by its id, or the verdicts on a push's events as JSON.

        To be called after ``find_made``, in the transaction that makes it: what is refused must not be remembered.
        """
        if self.key is not None:
            values = {"project_id": self.project_id, "key": self.key, "made": made}
            tx.run(_NOTE[self.kind], **values, fingerprint=self.sealer.fingerprint(self.asked))


def forget_key_of_broken_upload(tx: Tx, import_id: str) -> None:
    """Free the key that made an import whose body never came to its end; does nothing for any other."""
    tx.run(_SQL["forget_key_of_broken_upload"], import_id=import_id)


def delete_old_keys(tx: Tx) -> int:
    """Delete keys past their day, and return how many there were."""
    return sum(map(tx.run, _DELETE_OLD))
