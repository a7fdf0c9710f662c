"""The things of a project that lines may name, so that a line which names another one is a reject."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from common.errors import Refusal, Transient
from common.ledger.database import Tx
from common.ledger.queries import load_queries
from common.model.things import MOST_THINGS, Thing, read_thing, thing_id

_SQL = load_queries("registry")


class Registered(NamedTuple):
    """A thing that lines may name."""

    kind: str
    id: str
    created_at: datetime


def register(tx: Tx, project_id: str, kind: str, id: str) -> bool:
    """Register a thing; return whether it is new. A UUID is the same in letters of any case. Safe to run twice.

    Raises Refusal ``invalid_thing``, and ``too_many_registered`` where the project has ``MOST_THINGS`` others. May
    block while another transaction registers something of the project; nobody else can until this one ends.
    """
    added, fits = _insert(tx, project_id, [read_thing(kind, id)])
    if not fits:
        raise Refusal(
            "too_many_registered",
            f"The project has {MOST_THINGS} things registered, and may have no more. Unregister some first.",
            limit=MOST_THINGS,
        )
    return bool(added)


def register_named(tx: Tx, project_id: str, things: Collection[Thing]) -> None:
    """Register what lines named that was not registered. To be called behind all that locks keys of events.

    Whoever holds the registry waits for no key then, so that nobody can wait for him in a circle. May block as
    ``register`` does. Raises Transient where others have taken the room meanwhile: the lines are to be judged again.
    """
    if not things:
        return
    _, fits = _insert(tx, project_id, things)
    if not fits:
        text = "Others have registered things of the project at the same moment; there is no room for these."
        raise Transient(text)


def _insert(tx: Tx, project_id: str, things: Collection[Thing]) -> tuple[int, bool]:
    """Return how many of them are new, and whether the project has not too many now."""
    tx.run(_SQL["lock_registry"], project_id=project_id)
    kinds, ids = ([*part] for part in zip(*things, strict=True))
    added = tx.run(_SQL["insert_things"], project_id=project_id, kinds=kinds, ids=ids)
    return added, tx.one(_SQL["count_things"], project_id=project_id).count <= MOST_THINGS


def is_registered(tx: Tx, project_id: str, kind: str, id: str) -> bool:
    """Tell whether lines may name a thing. A UUID is the same in letters of any case."""
    try:
        kind, id = read_thing(kind, id)
    except Refusal:
        return False  # not every text can be asked for, and none of these was ever registered
    return tx.one(_SQL["find_thing"], project_id=project_id, kind=kind, id=id) is not None


def read_registered(tx: Tx, project_id: str) -> frozenset[Thing]:
    """Return all things of a project, as kinds and ids."""
    return frozenset((row.kind, row.id) for row in tx.all(_SQL["read_things"], project_id=project_id))


def list_registered(tx: Tx, project_id: str, kind: str | None = None) -> list[Registered]:
    """Return the things of a project, of one kind or all, by kind and in the order in which they were registered."""
    rows = tx.all(_SQL["list_things"], project_id=project_id, kind=kind)
    return [Registered(row.kind, row.id, row.created_at) for row in rows]


def unregister(tx: Tx, project_id: str, kind: str, id: str) -> bool:
    """Unregister a thing; return whether it was registered. What is stored stays; lines that name it are rejects now.

    But for those that a worker is reading at this moment.
    """
    return bool(tx.run(_SQL["delete_thing"], project_id=project_id, kind=kind, id=thing_id(id)))
