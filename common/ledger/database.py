"""Connections and transactions, and what the driver's errors mean to us.

A thread has one connection and keeps it; a process that forks opens its own, because a libpq socket must not
cross a fork (the usual symptom: another child's rows). There is no pool: the number of threads bounds them.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

import psycopg2
import psycopg2.errors
import psycopg2.extensions
import psycopg2.extras

from common.errors import Terminal, Transient
from common.telemetry import get_logger

log = get_logger(__name__)

T = TypeVar("T")

#: What ``transaction`` lets through of the driver's: a right that the role lacks, a database that only reads.
DriverError = psycopg2.Error


class Readable(Protocol):
    """What COPY reads its rows from."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes; none at the end."""


class Tx:
    """A transaction under way: the first argument of everything that reads or writes rows.

    Rows have the names of their columns. Whoever opened it commits, by leaving the block.
    """

    def __init__(self, cursor: Any) -> None:
        """Take the driver's cursor."""
        self._cursor = cursor

    def run(self, statement: str, **values: Any) -> int:
        """Run a statement and return how many rows it touched."""
        self._cursor.execute(statement, values or None)
        return int(self._cursor.rowcount)

    def one(self, statement: str, **values: Any) -> Any:
        """Return the statement's first row, or None."""
        self._cursor.execute(statement, values or None)
        return self._cursor.fetchone()

    def all(self, statement: str, **values: Any) -> list[Any]:
        """Return all rows of a statement whose rows are few."""
        self._cursor.execute(statement, values or None)
        return list(self._cursor.fetchall())

    def copy_in(self, statement: str, rows: Readable, *, piece: int) -> None:
        """Send a file to ``COPY .. FROM STDIN``, so many bytes at a time."""
        self._cursor.copy_expert(statement, rows, size=piece)

    def copy_out(self, statement: str, write: Callable[[bytes], None], **values: Any) -> None:
        """Have ``write`` called with each row that ``COPY .. TO STDOUT`` gives.

        May block for as long as ``write`` does: the server waits. What that raises ends the statement.
        """
        sink = _Sink(write)
        try:
            # COPY takes no parameters of the server's: the driver quotes them, as it does for every other statement.
            self._cursor.copy_expert(self._cursor.mogrify(statement, values), sink)
        except BaseException:
            if sink.failure:
                raise sink.failure from None
            raise


class _Sink:
    """A file that hands on what is written, and keeps what that raised: the driver makes errors of its own."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self.failure: BaseException | None = None

    def write(self, content: bytes) -> None:
        try:
            self._write(content)
        except BaseException as error:
            self.failure = error
            raise


_SESSION = (
    "-c timezone=UTC"
    # Each statement sees what was committed before it: the count of slots, behind the lock it waited for. A database
    # set to "repeatable read" let 23 imports in where the limit was 3.
    r" -c default_transaction_isolation=read\ committed"
    # A lock that does not come in this time is another's fault; the work is begun again.
    " -c lock_timeout=60s"
    # A process stopped between two statements keeps its uncommitted keys locked; this ends its session.
    " -c idle_in_transaction_session_timeout=60s"
    # Our statements are short or not the compiler's kind; see plan_by_key for what it cost (0.55 s a chunk).
    " -c jit=off"
)

#: Statements that fail would stand in the server's log with the rows in them. Only a superuser may say this for
#: himself (for any other role a superuser can, with ALTER ROLE); asked for at the door, others could not connect.
_KEEP_ROWS_OUT_OF_LOG = (
    "SELECT set_config('log_min_error_statement', 'panic', false) WHERE current_setting('is_superuser')::boolean"
)


_CONNECT_SECONDS = 5


class Deadlock(Transient):
    """Postgres chose this transaction to end a deadlock; it may be run again at once."""


def past_deadlock(work: Callable[[], T]) -> T:
    """Return what the work comes to, which is done once more where it met another transaction in a deadlock.

    With an import, which goes through its keys in two passes. What that held is committed by then, or gone.
    """
    try:
        return work()
    except Deadlock:
        log.info("deadlocked")
        return work()


class TooSlow(Transient):
    """A statement took longer than it may, or somebody else ended it."""


class CommitUnknown(Transient):
    """The connection broke while COMMIT was under way: only the rows can tell what became of it."""


class Database:
    """Opens transactions on the calling thread's own connection."""

    def __init__(self, url: str, *, application_name: str = "penstock") -> None:
        """Take a libpq URL. Nothing is opened before the first transaction."""
        self._url = url
        self._application_name = application_name
        self._local = threading.local()

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        """Give a transaction; commit when the block ends, roll back when it raises.

        Raises Transient where Postgres is away, restarts or is out of something; Deadlock; CommitUnknown.
        May block for connecting (5 s) and for locks (60 s).
        """
        connection = self._connection()
        try:
            with connection.cursor(cursor_factory=psycopg2.extras.NamedTupleCursor) as cursor:
                yield Tx(cursor)
        except BaseException as error:
            self._roll_back(connection)
            _raise_as_ours(error)
            raise
        try:
            connection.commit()
        except BaseException as error:
            # Also where a signal handler raised: nothing but the rows knows whether the server had committed.
            self._drop(connection)
            if isinstance(error, psycopg2.Error):
                raise CommitUnknown(_UNKNOWN, str(error)) from error
            raise

    @contextmanager
    def aside(self) -> Iterator[Tx]:
        """Give a transaction on a connection of its own, closed afterwards: beside one that is under way."""
        other = Database(self._url, application_name=self._application_name)
        try:
            with other.transaction() as tx:
                yield tx
        finally:
            other.close()

    @contextmanager
    def unbound(self) -> Iterator[Tx]:
        """Give a connection of its own on which each statement is a transaction: for those that bear no other.

        Raises as ``transaction`` does; what was done before stays done.
        """
        other = Database(self._url, application_name=self._application_name)
        try:
            connection = other._connection()
            connection.autocommit = True
            with connection.cursor(cursor_factory=psycopg2.extras.NamedTupleCursor) as cursor:
                yield Tx(cursor)
        except psycopg2.Error as error:
            _raise_as_ours(error)
            raise
        finally:
            other.close()

    def close(self) -> None:
        """Close the calling thread's connection, if it has one. The next transaction opens another."""
        held = getattr(self._local, "held", None)
        if held and held[0] == os.getpid():
            self._drop(held[1])

    def _connection(self) -> Any:
        held = getattr(self._local, "held", None)
        if held and held[0] == os.getpid():
            if not held[1].closed and held[1].status != psycopg2.extensions.STATUS_READY:
                # The sign of life below would roll the outer one back.
                raise RuntimeError("a transaction is under way on this thread; use aside() for one beside it")
            if _answers(held[1]):
                return held[1]
        try:
            connection = psycopg2.connect(
                self._url,
                application_name=self._application_name,
                connect_timeout=_CONNECT_SECONDS,
                keepalives_idle=30,
                keepalives_interval=10,
                keepalives_count=3,
                options=_SESSION + _bound_of_statements(),
                # Whatever PGCLIENTENCODING or the database say: the bytes of a COPY are UTF-8.
                client_encoding="UTF8",
            )
            with connection.cursor() as cursor:
                cursor.execute(_KEEP_ROWS_OUT_OF_LOG)
            connection.commit()
        except psycopg2.Error as error:
            raise Transient(_AWAY, str(error)) from error
        # An inherited connection is only forgotten here: closing it would end the parent's session.
        self._local.held = (os.getpid(), connection)
        return connection

    def _roll_back(self, connection: Any) -> None:
        try:
            connection.rollback()
        except psycopg2.Error:
            self._drop(connection)

    def _drop(self, connection: Any) -> None:
        self._local.held = None
        connection.close()


_UNKNOWN = (
    "The database went away before it could answer: look whether the request was carried out before repeating it."
)
_AWAY = "The database is not available at the moment. Nothing was lost; try again shortly."


def bound_answers(seconds: float) -> None:
    """Let nobody in this process wait longer than so many seconds for one answer of Postgres: Transient, from then on.

    For processes that answer requests. A server that hangs ends no connection, its kernel goes on saying that all is
    well, and none of its own timeouts comes: a request waited for as long as it was stopped (70 s were seen), and
    sixteen of them would have been the whole process. Not for workers: psycopg2 knows no COPY in this mode.
    """
    psycopg2.extensions.set_wait_callback(partial(_wait, seconds=seconds))


def _bound_of_statements() -> str:
    """Return the option of a process whose answers are bound: who gave up waiting leaves no statement at work behind.

    Postgres notices that nobody listens any more only when it answers: a filter that finds nothing in a large
    collection went on for minutes, one backend for each time that it was asked. A tenth sooner, so that it is Postgres
    who says so: it knows that it was at work.
    """
    callback = psycopg2.extensions.get_wait_callback()
    if not isinstance(callback, partial):
        return ""
    return f" -c statement_timeout={max(round(callback.keywords['seconds'] * 900), 1)}"


def _wait(connection: Any, *, seconds: float) -> None:
    """Do as the driver does inside, with an end. Whatever is raised here closes the connection."""
    # The driver's own bound on connecting has no effect in this mode.
    is_new = connection.status == psycopg2.extensions.STATUS_SETUP
    deadline = time.monotonic() + (min(_CONNECT_SECONDS, seconds) if is_new else seconds)
    while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
        waiting = select.poll()
        reads = state == psycopg2.extensions.POLL_READ
        waiting.register(connection.fileno(), select.POLLIN if reads else select.POLLOUT)
        if not waiting.poll(max(deadline - time.monotonic(), 0) * 1000):
            message = "Postgres does not answer"
            raise psycopg2.OperationalError(message)


def _answers(connection: Any) -> bool:
    """Ask the server for a sign of life: 0.1 ms, so that a restart of Postgres costs no request its answer."""
    if connection.closed:
        return False
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        connection.rollback()
    except psycopg2.Error:
        connection.close()
        return False
    return True


def _raise_as_ours(error: BaseException) -> None:
    if isinstance(error, psycopg2.errors.DeadlockDetected):
        raise Deadlock(_AWAY, str(error)) from error
    if isinstance(error, psycopg2.errors.QueryCanceled):
        raise TooSlow(_AWAY, str(error)) from error
    # Classes 08, 40, 53, 55, 57 and 58 of SQLSTATE: gone, rolled back, out of space or memory, locked, shut down.
    # A COPY that a server killed in the middle broke off has neither a class of the driver's nor a SQLSTATE.
    broke_off = type(error) is psycopg2.DatabaseError and error.pgcode is None
    if broke_off or isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
        raise Transient(_AWAY, str(error)) from error
    if isinstance(error, psycopg2.DataError):
        # Its own text quotes the row, which is a caller's data: not for a log.
        raise Terminal(
            "store_rejected", "The database refused a value that passed our checks.", error.pgcode or ""
        ) from None
