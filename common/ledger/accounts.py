"""Accounts: a project, and those that were made with its key pairs. No table of their own: a project is its account.

Whoever signs for a project sees it and all that it owns. What these own in turn is not looked at: a key pair of one of
them is another account.
"""

from __future__ import annotations

from typing import Any

from common.errors import Refusal
from common.ledger.database import Tx
from common.ledger.queries import load_queries
from common.ledger.rows import hex_id
from common.model.accounts import Owned
from common.model.ids import new_id, parse_id

_SQL = load_queries("accounts")

#: Projects that an account may make: nobody who may call for one can fill the table.
MOST_OWNED = 100


def create_owned(tx: Tx, owner_id: str, title: str) -> str:
    """Make a project of that title, which others may have too, and return its id. Raises Refusal ``too_many_projects``.

    Its view of events is made with the first grant: the door's role of Postgres need not be one that makes views.
    """
    tx.run(_SQL["lock_owner"], owner_id=owner_id)
    if tx.one(_SQL["count_owned"], owner_id=owner_id).owned >= MOST_OWNED:
        raise Refusal("too_many_projects", f"This account has made {MOST_OWNED} projects, which is as many as it may.")
    made = new_id()
    tx.run(_SQL["insert_owned"], id=made, name=f"{title} ({made[:12]})", title=title, owner_id=owner_id)
    return made


def find_owned(tx: Tx, owner_id: str, project_id: str) -> Owned | None:
    """Return a project of the account, by its id; None for another's, and for what is no id."""
    found = parse_id(project_id)
    row = found and tx.one(_SQL["find_owned"], id=found, owner_id=owner_id)
    return _owned(row) if row else None


def list_owned(tx: Tx, owner_id: str) -> list[Owned]:
    """Return the projects of the account, itself among them, the oldest first."""
    return [_owned(row) for row in tx.all(_SQL["list_owned"], owner_id=owner_id)]


def _owned(row: Any) -> Owned:
    return Owned(hex_id(row.id), row.name, row.title, row.import_limit, row.created_at)
