"""What can be asked of collections, without HTTP and without a dialect."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from api.callers import ADMIN, FILTERED_QUERY, PUSH, QUERY, Caller
from common.grounds import identity_of
from common.ledger import answers, collections, pushes
from common.ledger.answers import Answer
from common.ledger.database import Tx
from common.model.collections import CollectionStatus, StoredEvent, unknown_collection
from common.model.events import MAX_ID_BYTES
from common.model.mapping import OnDuplicate
from common.model.pushes import Push
from common.model.query import Query
from common.runtime import Runtime
from common.telemetry import get_logger

log = get_logger(__name__)

#: What an answer is kept as; the rooms have statuses of their own.
_DONE = 200

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
            found, _ = collections.list_collections(tx, caller.project_id, names=[name], limit=1)
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

    def find_event(self, caller: Caller, name: str, event_id: str) -> StoredEvent | None:
        """Return the event of a collection whose line has this id, a string; None where there is none."""
        caller.require(QUERY)
        key = _key(self._runtime, event_id)
        with self._runtime.database.transaction() as tx:
            found = collections.find(tx, caller.project_id, name, hold=False)
            return collections.find_event(tx, found.id, key) if found and key else None

    def delete_event(
        self, caller: Caller, name: str, event_id: str, *, request: bytes | None = None
    ) -> StoredEvent | None:
        """Delete such an event, and return it; None where there was none. Whoever imports it again has it again.

        ``request``, 32 bytes that stand for the request: the second time nothing is deleted, and what was returned the
        first time is returned again.
        """
        caller.require(PUSH)
        key = _key(self._runtime, event_id)
        with self._runtime.database.transaction() as tx:
            if request is None:
                return _delete_event(tx, caller, name, key)

            def work() -> Answer:
                return Answer(_DONE, _telling(_delete_event(tx, caller, name, key)))

            return _told(answers.answer_once(tx, work, api_key_id=caller.key_id, request=request).body)

    def delete_collection(self, caller: Caller, name: str) -> None:
        """Delete a collection: when this returns its events are nobody's, and its name is free for another.

        The sweep deletes them from the table afterwards. Raises Refusal ``not_found``, and ``collection_in_use`` with
        the ids where an import or export of it is active.
        """
        caller.require(ADMIN)
        with self._runtime.database.transaction() as tx:
            number = collections.delete_collection(tx, caller.project_id, name)
        log.info("collection_deleted", collection=name, number=number)


def _delete_event(tx: Tx, caller: Caller, name: str, key: bytes | None) -> StoredEvent | None:
    found = collections.find(tx, caller.project_id, name)
    gone = collections.delete_event(tx, found.id, key) if found and key else None
    if found and gone:
        number, _ = pushes.begin_push(tx)
        push = Push(number, caller.project_id, found.id, caller.key_id, OnDuplicate.KEEP)
        pushes.note_deletion(tx, push, events=1, size=len(gone.payload) + 1)
    return gone


def _telling(event: StoredEvent | None) -> bytes:
    return json.dumps(event and [event.id, event.time.isoformat(), event.payload.decode()]).encode()


def _told(body: bytes) -> StoredEvent | None:
    said = json.loads(body)
    return said and StoredEvent(said[0], datetime.fromisoformat(said[1]), said[2].encode())


def _key(runtime: Runtime, event_id: str) -> bytes | None:
    """Return the 16 bytes of an id as a line has it; None for what no line can have."""
    try:
        return identity_of(runtime).of_string(event_id) if 0 < len(event_id.encode()) <= MAX_ID_BYTES else None
    except UnicodeEncodeError:
        return None
