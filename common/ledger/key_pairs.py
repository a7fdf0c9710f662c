"""Key pairs: keys whose secret signs requests and is never sent, so that it has to be known here, sealed.

Each is a key of its project like any other: listed, revoked, expired and noted as used by the functions of
``projects``, and named by what it makes.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from common.ledger import projects
from common.ledger.database import Tx
from common.ledger.queries import load_queries

_SQL = load_queries("key_pairs")


class KeyPair(NamedTuple):
    """A live key pair as stored."""

    key: projects.Key
    sealed: bytes
    #: The time, by the clock of the database.
    read_at: datetime


def create_key_pair(
    tx: Tx,
    *,
    access_key_id: str,
    project_id: str,
    sealed: bytes,
    scopes: list[str],
    expires: datetime | timedelta | None = None,
) -> None:
    """Insert a key pair. Raises Refusal ``too_many_keys`` where the project has two live ones, ``already_expired``."""
    projects.create_key(
        tx,
        key_id=access_key_id,
        project_id=project_id,
        secret_sha256=b"",
        scopes=scopes,
        expires=expires,
        kind=projects.PAIR,
    )
    tx.run(_SQL["insert_key_pair"], id=access_key_id, sealed=sealed)


def find_key_pair(tx: Tx, access_key_id: str) -> KeyPair | None:
    """Return the live key pair of that id: neither revoked nor expired, by the database's clock."""
    row = tx.one(_SQL["find_key_pair"], id=access_key_id)
    return None if row is None else KeyPair(projects.key_of(row), bytes(row.sealed), row.at)
