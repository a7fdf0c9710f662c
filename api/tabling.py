"""What can be asked of tables, without HTTP and without a dialect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from api.callers import ADMIN, PUSH, QUERY, Caller
from api.pushing import PushDesk
from api.replies import NumberedPage
from common.errors import Refusal
from common.ledger import collections, pushes, tables
from common.ledger.database import TooSlow, Tx, past_deadlock
from common.ledger.tables import Description, Stretch
from common.model.collections import CollectionStatus, StoredEvent, unknown_collection
from common.model.columns import FIRST_ROWS, TABLE_MAPPING, Column, Columns, ColumnsFault, Role, infer_columns, rows_in
from common.model.mapping import Mapping, OnDuplicate
from common.model.pushes import Push
from common.runtime import Runtime
from common.telemetry import get_logger

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TableStatus:
    """A table, as the ledger tells it."""

    name: str
    created_at: datetime
    #: When the latest import or push into it ended. None where there was none.
    changed_at: datetime | None
    rows: int
    #: Bytes of all rows with a line break each. None where some were stored by a version that did not measure.
    size: int | None
    #: Empty where no import or push of a table has brought a row.
    columns: Columns
    #: Whether its rows have times of their own.
    is_time_series: bool


@dataclass(frozen=True, slots=True)
class RowPage:
    """Some of a table's rows, and the table."""

    table: TableStatus
    items: list[StoredEvent]
    #: Of all pages.
    total: int


@dataclass(frozen=True, slots=True)
class Put:
    """What rows that were put came to."""

    table: TableStatus
    #: Whether the idempotency key had stored them before.
    replayed: bool


class TableDesk:
    """The use cases of tables. Raises Refusal for what is not taken, Transient while Postgres is away.

    Every collection is a table for who reads; pages are numbered from 0.
    """

    def __init__(self, runtime: Runtime) -> None:
        """Take the process's runtime."""
        self._runtime = runtime

    def count_tables(self, caller: Caller) -> int:
        """Return how many tables the project has."""
        with self._runtime.database.transaction() as tx:
            return tables.count_tables(tx, caller.project_id)

    def list_tables(
        self, caller: Caller, *, containing: str | None = None, page: int, size: int
    ) -> NumberedPage[TableStatus]:
        """Return a page of the project's tables by name: those whose name contains a text, in letters of any case."""
        caller.require(PUSH, QUERY)
        with self._runtime.database.transaction() as tx:
            tables.keep_snapshot(tx)
            names, total = tables.page_tables(tx, caller.project_id, containing=containing, page=page, size=size)
            return NumberedPage([status for _, status in _describe(tx, caller, names)], total)

    def read_table(self, caller: Caller, name: str) -> TableStatus:
        """Return what a table is. Raises Refusal ``not_found``."""
        caller.require(PUSH, QUERY)
        with self._runtime.database.transaction() as tx:
            tables.keep_snapshot(tx)
            return _find(tx, caller, name)[1]

    def read_rows(
        self,
        caller: Caller,
        name: str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        page: int,
        size: int,
    ) -> RowPage:
        """Return a page of a table's rows in the order of their ids, of one snapshot with their number.

        Of a time series without a key that is the order of times. A row is between ``since`` and ``until``, both
        within, if its event's time is. Of a collection that no import or push of a table has come into, the columns are
        what its first 1,000 rows tell. Raises Refusal ``not_found``, ``no_timestamp`` where a table whose rows have no
        times is asked for a timeframe, ``page_too_large``, ``too_slow``.
        """
        caller.require(QUERY)
        advice = "Ask for a shorter timeframe, or for a page nearer to the first or the last one."
        with _refusing_slow(advice), self._runtime.database.transaction() as tx:
            tables.keep_snapshot(tx)
            table, status = _find(tx, caller, name)
            stretches = _stretches(status, since, until)
            # The ledger knows how many rows there are in all; those of a timeframe have to be looked at.
            is_whole = since is None and until is None
            counted = [
                (stretch, status.rows if is_whole else tables.count_rows(tx, table, stretch)) for stretch in stretches
            ]
            items = tables.read_rows(tx, table, counted, page=page, size=size)
            if table.columns is None:
                status = replace(status, columns=_infer(tx, table))
        return RowPage(status, items, sum(count for _, count in counted))

    def put_rows(
        self,
        caller: Caller,
        name: str,
        rows: Sequence[bytes],
        *,
        declared: Columns,
        idempotency_key: str | None = None,
    ) -> Put:
        """Store rows, each as a line of an object would be, in a table that is made where there is none: all or none.

        ``declared`` is said of its columns; of others the rows tell. ``name`` is a valid one. Safe to repeat for rows
        with a key or a timestamp, and with an idempotency key as ``PushDesk.push`` is. Raises Refusal ``invalid_rows``
        and ``invalid_columns`` with ``faults`` (sentences by the row's place, or by the column), ``mapping_conflict``
        where a collection of that name keeps what it has, ``idempotency_key_reused``.
        """
        desk = PushDesk(self._runtime)
        try:
            pushed = desk.push(
                caller, {name: rows}, mapping=TABLE_MAPPING, columns=declared, idempotency_key=idempotency_key
            )
        except ColumnsFault as fault:
            raise Refusal("invalid_columns", str(fault), faults=fault.faults) from None
        return Put(self.read_table(caller, name), pushed.replayed)

    def delete_rows(
        self, caller: Caller, name: str, *, since: datetime | None = None, until: datetime | None = None
    ) -> int:
        """Delete the rows of a timeframe, its ends within, and return how many they were: all of them or none.

        Which these are is as in ``read_rows``. Rows stay that an import commits meanwhile, and whoever imports deleted
        ones again has them again. Raises Refusal ``not_found``, ``no_timestamp`` where the table's rows have no times,
        ``too_slow``.
        """
        caller.require(ADMIN)
        with _refusing_slow("Delete a shorter timeframe at a time; the whole table is deleted at once."):
            count = past_deadlock(lambda: self._delete_once(caller, name, since, until))
        log.info("rows_deleted", collection=name, count=count)
        return count

    def _delete_once(self, caller: Caller, name: str, since: datetime | None, until: datetime | None) -> int:
        with self._runtime.database.transaction() as tx:
            held = collections.find(tx, caller.project_id, name)
            if held is None:
                raise unknown_collection(name)
            table, status = _find(tx, caller, name)
            count, size = tables.delete_rows(tx, table, _stretches(status, since, until))
            if count:
                number, _ = pushes.begin_push(tx)
                push = Push(number, caller.project_id, table.id, caller.key_id, OnDuplicate.REPLACE)
                pushes.note_deletion(tx, push, events=count, size=size)
        return count


@contextmanager
def _refusing_slow(advice: str) -> Iterator[None]:
    try:
        yield
    except TooSlow:
        # No "come again": the same request would take as long.
        raise Refusal("too_slow", f"It takes too long to find these rows for an answer. {advice}") from None


def _describe(tx: Tx, caller: Caller, names: Sequence[str]) -> list[tuple[Description, TableStatus]]:
    """Return those tables of some names that there are, by name."""
    found, _ = collections.list_collections(tx, caller.project_id, names=names, limit=len(names))
    described = tables.describe_tables(tx, caller.project_id, [one.name for one in found])
    return [(described[one.name], _status(one, described[one.name])) for one in found if one.name in described]


def _find(tx: Tx, caller: Caller, name: str) -> tuple[Description, TableStatus]:
    for found in _describe(tx, caller, [name]):
        return found
    raise unknown_collection(name)


def _status(collection: CollectionStatus, table: Description) -> TableStatus:
    return TableStatus(
        collection.name,
        collection.created_at,
        table.changed_at,
        collection.events,
        collection.size,
        _with_roles(table.columns or (), table.mapping),
        bool(table.mapping and table.mapping.time_names),
    )


def _stretches(status: TableStatus, since: datetime | None, until: datetime | None) -> tuple[Stretch, ...]:
    """Return where the rows of a timeframe are. Raises Refusal ``no_timestamp`` where they have no times."""
    if not status.is_time_series and (since or until):
        text = f"The rows of {status.name!r} have no timestamp, so there are no dates to choose them by."
        raise Refusal("no_timestamp", text)
    return tables.stretches_of(since, until)


def _infer(tx: Tx, table: Description) -> Columns:
    """Return what the first rows of a collection of other wires tell of its columns."""
    rows = tables.first_rows(tx, table, most=FIRST_ROWS)
    return _with_roles(infer_columns(rows_in(row.payload for row in rows)), table.mapping)


def _with_roles(columns: Columns, mapping: Mapping | None) -> Columns:
    """Return columns in the roles that the collection's mapping gives them: other wires' collections have one, too."""
    return tuple(replace(column, role=_role(column, mapping or Mapping((), ()))) for column in columns)


def _role(column: Column, mapping: Mapping) -> Role | None:
    if column.name in mapping.id_names:
        return Role.KEY
    if column.name in mapping.time_names:
        return Role.TIMESTAMP
    return Role.FEATURE if column.role is Role.TIMESTAMP else column.role
