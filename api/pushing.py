"""What can be asked of the service about events that are pushed, without HTTP and without a dialect."""

from __future__ import annotations

from collections.abc import Mapping as Lookup
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from api.callers import PUSH, Caller
from common.judging import LineJudge
from common.ledger import collections, pushes
from common.ledger.database import Deadlock, Tx
from common.ledger.events import read_hash_key
from common.ledger.rows import mapping_of, remembered_json
from common.model.events import Event, Identity
from common.model.mapping import Mapping
from common.model.pushes import Judged, Push, Stored, Verdict, add_up, keep_one_of_each, verdicts
from common.model.rejects import RejectCode
from common.runtime import Runtime
from common.telemetry import get_logger

log = get_logger(__name__)


class _Pushed(NamedTuple):
    """What came of the lines for one collection."""

    verdicts: list[Verdict]
    collection_id: int = 0
    #: Those that came from their lines: nobody else can have a derived one.
    ids: Sequence[bytes] = ()


class PushDesk:
    """The use cases of pushes. Raises Refusal for what is not taken, Transient while Postgres is away."""

    def __init__(self, runtime: Runtime) -> None:
        """Take the process's runtime."""
        self._runtime = runtime

    def push(
        self, caller: Caller, lines: Lookup[str, Sequence[bytes]], *, mapping: Mapping
    ) -> dict[str, list[Verdict]]:
        """Store events and return what became of each: all of them in one transaction, or on an error none.

        ``lines`` are events by the names of their collections, which are valid, each as a line of an object would be,
        and judged as one. A new collection gets ``mapping``, any other has its own. A line without a time gets that of
        the request, by the clock of the database. Safe to repeat for lines with ids: what is stored is a duplicate; a
        line without id gets one made of the push's number and its place, and is another event when it is sent again.
        May block while another transaction commits the same ids.
        """
        caller.require(PUSH)
        identity = _identity(self._runtime)
        try:
            pushed = self._push_once(caller, lines, mapping, identity)
        except Deadlock:
            # With an import, which goes through its keys in two passes. What it held is committed by now, or gone.
            log.info("push_deadlocked")
            pushed = self._push_once(caller, lines, mapping, identity)
        for part in pushed.values():
            # So that imports take them for suspects. After the commit, since Redis may hang while rows are locked.
            self._runtime.seen.mark(part.collection_id, part.ids)
        return {name: pushed[name].verdicts for name in lines}

    def _push_once(
        self, caller: Caller, lines: Lookup[str, Sequence[bytes]], mapping: Mapping, identity: Identity
    ) -> dict[str, _Pushed]:
        with self._runtime.database.transaction() as tx:
            # Two pushes into the same collections meet at the first of them.
            return {name: self._push_into(tx, caller, name, lines[name], mapping, identity) for name in sorted(lines)}

    def _push_into(
        self, tx: Tx, caller: Caller, name: str, lines: Sequence[bytes], mapping: Mapping, identity: Identity
    ) -> _Pushed:
        if not lines:
            return _Pushed([])
        number, at = pushes.begin_push(tx)
        collection = collections.find(tx, caller.project_id, name)
        while True:
            agreed = mapping
            if collection and collection.mapping:
                agreed = replace(mapping_of(collection.mapping), rules=mapping.rules)
            judge = LineJudge(
                agreed,
                identity=identity,
                import_number=number,
                source_ordinal=0,
                default_time=round(at.timestamp() * 1_000_000),
            )
            judged = [self._judge(judge, line, place) for place, line in enumerate(lines)]
            if not any(isinstance(one, Event) for one in judged):
                return _Pushed(verdicts(judged, {}, Stored(frozenset(), {})))  # makes no collection
            if collection and collection.mapping:
                break
            # Somebody else may make it at the same moment, with another mapping: then that one judges.
            collection = collections.ensure(tx, caller.project_id, name, remembered_json(mapping))
        push = Push(number, caller.project_id, collection.id, caller.key_id, agreed.on_duplicate)
        kept = keep_one_of_each(judged, agreed.on_duplicate)
        stored = pushes.store_pushed(tx, push, [*kept.values()])
        pushes.note_push(tx, push, add_up(judged, kept, stored))
        ids = [event.event_id for event in kept.values() if event.has_id]
        return _Pushed(verdicts(judged, kept, stored), collection.id, ids)

    def _judge(self, judge: LineJudge, line: bytes, place: int) -> Judged:
        too_long = len(line) > self._runtime.settings.max_line_bytes
        return RejectCode.LINE_TOO_LONG if too_long else judge.judge(line, place)


@cache
def _identity(runtime: Runtime) -> Identity:
    with runtime.database.transaction() as tx:
        return Identity(read_hash_key(tx))
