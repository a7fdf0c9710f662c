"""What can be asked of the things that a project's events may name, without HTTP and without a dialect."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID, uuid4, uuid5

from api.callers import PUSH, QUERY, Caller
from common.errors import Refusal
from common.ledger import registry
from common.model.things import is_uuid, thing_id
from common.runtime import Runtime


class Made(NamedTuple):
    """What a request for a new thing came to."""

    id: str
    #: Whether its idempotency key had made it before.
    replayed: bool


class RegistryDesk:
    """The use cases of the registry. Raises Refusal for what is not taken, Transient while Postgres is away."""

    def __init__(self, runtime: Runtime) -> None:
        """Take the process's runtime."""
        self._runtime = runtime

    def find(self, caller: Caller, kind: str, text: str) -> str:
        """Return the id, as it is registered, of the thing that a request names.

        One that is not is registered now where ``register_unknown`` is on. Raises Refusal ``not_found``,
        ``too_many_registered``.
        """
        caller.require(PUSH)
        thing = thing_id(text)
        with self._runtime.database.transaction() as tx:
            if not registry.is_registered(tx, caller.project_id, kind, thing):
                if not (self._runtime.settings.register_unknown and is_uuid(thing)):
                    raise Refusal("not_found", f"There is no {kind} with the id {text[:64]!r} in this project.")
                registry.register(tx, caller.project_id, kind, thing)
        return thing

    def list(self, caller: Caller, kind: str) -> list[str]:
        """Return the ids of all things of a kind."""
        caller.require(PUSH, QUERY)
        with self._runtime.database.transaction() as tx:
            return [thing.id for thing in registry.list_registered(tx, caller.project_id, kind)]

    def make(self, caller: Caller, kind: str, *, idempotency_key: str | None = None) -> Made:
        """Register a new thing, and return its id. Raises Refusal ``too_many_registered``.

        An idempotency key is all that a request says, so the id is made of it: one key makes one thing of a kind, and
        nobody has to remember for how long.
        """
        caller.require(PUSH)
        made = uuid4() if idempotency_key is None else uuid5(UUID(caller.project_id), f"{kind} {idempotency_key}")
        with self._runtime.database.transaction() as tx:
            is_new = registry.register(tx, caller.project_id, kind, str(made))
        return Made(str(made), replayed=not is_new)
