"""What can be asked of the service about events that are pushed, without HTTP and without a dialect."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from collections.abc import Mapping as Lookup
from dataclasses import replace
from datetime import datetime
from itertools import chain
from typing import NamedTuple

from api.callers import PUSH, Caller
from common.errors import Refusal
from common.grounds import identity_of, known_to
from common.judging import LineJudge
from common.ledger import collections, pushes, registry, tables
from common.ledger.database import Tx, past_deadlock
from common.ledger.idempotency import Kind, Once
from common.ledger.rows import columns_json, mapping_json, mapping_of, remembered_json
from common.model.columns import Columns, infer_columns, rows_in, rules_of
from common.model.events import Event, Identity
from common.model.mapping import Mapping, OnDuplicate
from common.model.pushes import Judged, Outcome, Push, Stored, Verdict, add_up, keep_one_of_each, verdict_of, verdicts
from common.model.rejects import RejectCode
from common.ruling import Known
from common.runtime import Runtime
from common.telemetry import get_logger

log = get_logger(__name__)


class Pushed(NamedTuple):
    """What a push came to."""

    #: On each line, by collection.
    verdicts: dict[str, list[Verdict]]
    #: Whether its idempotency key had stored the events before.
    replayed: bool = False


class _Part(NamedTuple):
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
        self,
        caller: Caller,
        lines: Lookup[str, Sequence[bytes]],
        *,
        mapping: Mapping,
        columns: Columns | None = None,
        idempotency_key: str | None = None,
    ) -> Pushed:
        """Store events and return what became of each: all of them in one transaction, or on an error none.

        ``lines`` are events by the names of their collections, which are valid, each as a line of an object would be,
        and judged as one. A new collection gets ``mapping``, any other has its own; whoever pushes in order to replace
        is refused with ``mapping_conflict`` where that keeps. A line without a time gets that of the request, by the
        clock of the database. Safe to repeat for lines with ids: what is stored is a duplicate; a line without id gets
        one made of the push's number and its place, and is another event when it is sent again: but for a key that has
        stored the same lines within 24 hours, which gets the first answer and stores nothing.
        ``columns``: the lines are rows of tables, whose columns these are as far as they are declared; the rows tell
        the others. Then it is all or nothing: where one cannot be taken none is.
        May block while another transaction commits the same ids, or has the key. Raises Refusal
        ``idempotency_key_reused`` where the key has made something else; of tables ``invalid_rows`` with the first
        ``faults`` by the row's place, and ColumnsFault.
        """
        caller.require(PUSH)
        asked = "" if idempotency_key is None else _as_asked(lines, mapping, columns)
        once = Once(Kind.PUSH, caller.project_id, idempotency_key, asked, self._runtime.sealer)
        pushed, parts = past_deadlock(lambda: self._push_once(caller, lines, mapping, columns, once))
        for part in parts:
            # So that imports take them for suspects. After the commit, since Redis may hang while rows are locked.
            self._runtime.seen.mark(part.collection_id, part.ids)
        return pushed

    def _push_once(
        self,
        caller: Caller,
        lines: Lookup[str, Sequence[bytes]],
        mapping: Mapping,
        columns: Columns | None,
        once: Once,
    ) -> tuple[Pushed, Collection[_Part]]:
        identity = identity_of(self._runtime)
        with self._runtime.database.transaction() as tx:
            made = once.find_made(tx)
            if made is not None:
                return Pushed(_verdicts_of(made), replayed=True), ()
            known = known_to(tx, self._runtime, caller.project_id) if mapping.rules.references else Known()
            # Two pushes into the same collections meet at the first of them.
            parts = {
                name: self._push_rows(tx, caller, name, lines[name], mapping, columns, identity)
                if columns is not None
                else self._push_into(tx, caller, name, lines[name], mapping, identity, known)
                for name in sorted(lines)
            }
            told = {name: parts[name].verdicts for name in lines}
            if once.key is not None and _is_any_taken(told):
                once.note_made(tx, json.dumps(told, separators=(",", ":")))
            registry.register_named(tx, caller.project_id, known.named)
        return Pushed(told), parts.values()

    def _push_into(
        self,
        tx: Tx,
        caller: Caller,
        name: str,
        lines: Sequence[bytes],
        mapping: Mapping,
        identity: Identity,
        known: Known,
    ) -> _Part:
        if not lines:
            return _Part([])
        number, at = pushes.begin_push(tx)
        collection = collections.find(tx, caller.project_id, name)
        while True:
            agreed = mapping
            if collection and collection.mapping:
                agreed = replace(mapping_of(collection.mapping), rules=mapping.rules)
                _check_replaces(name, mapping, agreed)
            judged = self._judge(lines, agreed, identity, known, number=number, at=at)
            if not any(isinstance(one, Event) for one in judged):
                return _Part(verdicts(judged, {}, Stored(frozenset(), {})))  # makes no collection
            if collection and collection.mapping:
                break
            # Somebody else may make it at the same moment, with another mapping: then that one judges.
            collection = collections.ensure(tx, caller.project_id, name, remembered_json(mapping))
        return self._store(tx, caller, collection.id, judged, agreed.on_duplicate, number=number)

    def _push_rows(
        self,
        tx: Tx,
        caller: Caller,
        name: str,
        lines: Sequence[bytes],
        mapping: Mapping,
        declared: Columns,
        identity: Identity,
    ) -> _Part:
        """Store the rows of a table: all of them, once its columns are agreed upon, or raise Refusal."""
        number, at = pushes.begin_push(tx)
        collection = collections.ensure(tx, caller.project_id, name, remembered_json(mapping))
        _check_replaces(name, mapping, mapping_of(collection.mapping))
        found = infer_columns(rows_in(lines))
        columns, agreed = tables.agree_columns(tx, collection.id, declared=declared, found=found)
        agreed = replace(agreed, rules=rules_of(columns))
        judged = self._judge(lines, agreed, identity, Known(), number=number, at=at)
        _check_all_taken(judged)
        return self._store(tx, caller, collection.id, judged, agreed.on_duplicate, number=number)

    def _judge(
        self,
        lines: Sequence[bytes],
        mapping: Mapping,
        identity: Identity,
        known: Known,
        *,
        number: int,
        at: datetime,
    ) -> list[Judged]:
        """Return what each line is, of the push of a number that began at a time."""
        judge = LineJudge(
            mapping,
            identity=identity,
            import_number=number,
            source_ordinal=0,
            default_time=round(at.timestamp() * 1_000_000),
            known=known,
        )
        longest = self._runtime.settings.max_line_bytes
        return [
            RejectCode.LINE_TOO_LONG if len(line) > longest else judge.judge(line, place)
            for place, line in enumerate(lines)
        ]

    def _store(
        self,
        tx: Tx,
        caller: Caller,
        collection_id: int,
        judged: Sequence[Judged],
        on_duplicate: OnDuplicate,
        *,
        number: int,
    ) -> _Part:
        """Store the events among what was judged, with their receipt."""
        push = Push(number, caller.project_id, collection_id, caller.key_id, on_duplicate)
        kept = keep_one_of_each(judged, on_duplicate)
        stored = pushes.store_pushed(tx, push, [*kept.values()])
        pushes.note_push(tx, push, add_up(judged, kept, stored))
        ids = [event.event_id for event in kept.values() if event.has_id]
        return _Part(verdicts(judged, kept, stored), collection_id, ids)


#: Rows whose faults are told.
_MOST_FAULTS = 10


def _check_all_taken(judged: Sequence[Judged]) -> None:
    codes = [(place, code) for place, code in enumerate(judged) if isinstance(code, RejectCode)]
    if codes:
        faults = {f"data[{place}]": [code.sentence] for place, code in codes[:_MOST_FAULTS]}
        text = f"None of the rows was stored, since {len(codes)} of {len(judged)} cannot be taken."
        raise Refusal("invalid_rows", text, faults=faults)


def _verdicts_of(made: str) -> dict[str, list[Verdict]]:
    """Return what a push was told, as it is noted."""
    return {name: list(map(verdict_of, told)) for name, told in json.loads(made).items()}


def _is_any_taken(told: Lookup[str, Sequence[Verdict]]) -> bool:
    """Return whether any event was taken: a push that was refused as a whole is not remembered."""
    return any(isinstance(verdict, Outcome) for verdict in chain.from_iterable(told.values()))


def _as_asked(lines: Lookup[str, Sequence[bytes]], mapping: Mapping, columns: Columns | None) -> str:
    """Return a push in one form: equal texts ask for the same.

    A short one: spelt out in JSON, the 16 MiB of a batch took 220 MB where their letters were not those of ASCII.
    """
    digests = {name: _digest(sent) for name, sent in lines.items()}
    told = [mapping_json(mapping), digests, *([] if columns is None else [columns_json(columns)])]
    return "push " + json.dumps(told, sort_keys=True)


def _digest(lines: Sequence[bytes]) -> str:
    """Return what stands for lines, none of which holds a line feed."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line)
        digest.update(b"\n")
    return digest.hexdigest()


def _check_replaces(name: str, wished: Mapping, collections: Mapping) -> None:
    if wished.on_duplicate is OnDuplicate.REPLACE and collections.on_duplicate is OnDuplicate.KEEP:
        text = f"What is pushed here takes the place of what is stored, and the collection {name!r} keeps what it has."
        raise Refusal("mapping_conflict", text)
