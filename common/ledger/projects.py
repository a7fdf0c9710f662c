"""Projects and the keys that open them."""

from __future__ import annotations

from typing import NamedTuple

from common.ledger.database import Tx
from common.ledger.queries import load_queries
from common.model.ids import new_id

_SQL = load_queries("projects")


class Key(NamedTuple):
    """A live key as stored: never the secret, only its SHA-256."""

    id: str
    project_id: str
    project_name: str
    #: None: the service's own.
    import_limit: int | None
    secret_sha256: bytes
    scopes: frozenset[str]


def create_project(tx: Tx, name: str) -> str:
    """Insert a project and return its id. Raises the driver's UniqueViolation where the name is taken."""
    project_id = new_id()
    tx.run(_SQL["insert_project"], id=project_id, name=name)
    return project_id


def find_project(tx: Tx, name: str) -> str | None:
    """Return the id of the project of that name."""
    row = tx.one(_SQL["find_project"], name=name)
    return row.id.replace("-", "") if row else None


def create_key(tx: Tx, *, key_id: str, project_id: str, secret_sha256: bytes, scopes: list[str]) -> None:
    """Insert a key. The secret itself is for the caller to show, once."""
    tx.run(_SQL["insert_key"], id=key_id, project_id=project_id, secret_sha256=secret_sha256, scopes=scopes)


def find_key(tx: Tx, key_id: str) -> Key | None:
    """Return the live key of that id: neither revoked nor expired, by the database's clock."""
    row = tx.one(_SQL["find_key"], id=key_id)
    if row is None:
        return None
    return Key(
        row.id,
        row.project_id.replace("-", ""),
        row.project_name,
        row.import_limit,
        bytes(row.secret_sha256),
        frozenset(row.scopes),
    )
