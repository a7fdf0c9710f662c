"""What can be asked of collections, without HTTP and without a dialect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from api.callers import ADMIN, FILTERED_QUERY, PUSH, QUERY, Caller
from common.ledger import collections
from common.model.collections import CollectionStatus, StoredEvent, unknown_collection
from common.model.query import Query
from common.runtime import Runtime
from common.telemetry import get_logger

log = get_logger(__name__)

#: Bytes of events after which a page ends, and events that it looks at: a request has an end, however few match.
_PAGE_BYTES, _PAGE_LOOKS = 4 * 1024 * 1024, 20_000


@dataclass(frozen=True, slots=True)
class CollectionPage:
    """Some of a project's collections, by name."""

    items: list[CollectionStatus]
    #: The name to go on after, or None at the end.
    next_after: str | None


@dataclass(frozen=True, slots=True)
class EventPage:
    """Some of a collection's events, by id."""

    items: list[StoredEvent]
    #: The id to go on after, or None at the end. A page with few events, or none, may have one.
    next_after: str | None


class CollectionDesk:
    """The use cases of collections. Raises Refusal for what is not taken, Transient while Postgres is away."""

    def __init__(self, runtime: Runtime) -> None:
        """Take the process's runtime."""
        self._runtime = runtime

    def list_collections(self, caller: Caller, *, after: str | None = None, limit: int = 50) -> CollectionPage:
        """Return a page of the project's collections."""
        caller.require(PUSH, QUERY)
        with self._runtime.database.transaction() as tx:
            found, next_after = collections.list_collections(tx, caller.project_id, after=after, limit=limit)
        return CollectionPage(found, next_after)

    def read_collection(self, caller: Caller, name: str) -> CollectionStatus:
        """Return what a collection holds. Raises Refusal ``not_found``."""
        caller.require(PUSH, QUERY)
        with self._runtime.database.transaction() as tx:
            found, _ = collections.list_collections(tx, caller.project_id, name=name, limit=1)
        if not found:
            raise unknown_collection(name)
        return found[0]

    def read_events(
        self,
        caller: Caller,
        name: str,
        asked: Callable[[datetime], Query],
        *,
        after: str | None = None,
        limit: int = 100,
    ) -> EventPage:
        """Return a page of a collection's events. Raises Refusal ``not_found``, and what ``asked`` raises.

        ``asked`` makes the query, given the time that a relative timeframe is relative to.
        A page ends early with some 4 MiB of events, or when 20,000 were looked at.
        """
        caller.require(QUERY, FILTERED_QUERY)
        with self._runtime.database.transaction() as tx:
            found = collections.find(tx, caller.project_id, name, hold=False)
            if found is None:
                raise unknown_collection(name)
            query = caller.narrow(asked(collections.read_clock(tx)))
            items, next_after = collections.read_events(
                tx, found.id, query, after=after, limit=limit, most_bytes=_PAGE_BYTES, most_looks=_PAGE_LOOKS
            )
        return EventPage(items, next_after)

    def delete_collection(self, caller: Caller, name: str) -> None:
        """Delete a collection: when this returns its events are nobody's, and its name is free for another.

        The sweep deletes them from the table afterwards. Raises Refusal ``not_found``, and ``collection_in_use`` with
        the ids where an import or export of it is active.
        """
        caller.require(ADMIN)
        with self._runtime.database.transaction() as tx:
            number = collections.delete_collection(tx, caller.project_id, name)
        log.info("collection_deleted", collection=name, number=number)
