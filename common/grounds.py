"""What lines are judged by that the database keeps: the same for an object's lines and for events that are pushed."""

from __future__ import annotations

from functools import cache

from common.ledger import registry
from common.ledger.database import Tx
from common.ledger.events import read_hash_key
from common.model.events import Identity
from common.model.things import MOST_THINGS
from common.ruling import Known
from common.runtime import Runtime


@cache
def identity_of(runtime: Runtime) -> Identity:
    """Return what makes the ids of this database's events: the same for ever, so it is read once a process."""
    with runtime.database.transaction() as tx:
        return Identity(read_hash_key(tx))


def known_to(tx: Tx, runtime: Runtime, project_id: str) -> Known:
    """Return what lines of the project may name, as it is now: for a mapping whose rules have references."""
    registered = registry.read_registered(tx, project_id)
    return Known(registered, most=MOST_THINGS if runtime.settings.register_unknown else 0)
