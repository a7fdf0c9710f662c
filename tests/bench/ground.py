"""Where contenders meet: one cluster, one object in S3, a running service, and everything empty before each load."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg2
import redis

from deploy.local.demo import Failed
from deploy.local.servers import Servers
from deploy.local.service import Service, create_bucket, s3_client
from tests.bench.events import lines

BUCKET = "penstock-bench"
#: Bytes handed to libpq at a time, as Penstock does; with psycopg2's own 8 KiB its read() is called for every 25 rows.
PIECE = 256 * 1024

#: Nobody inherits rows, index pages or another's dirty buffers and WAL. What scripts fill is the table that one would
#: make by hand: no import, no place in the file.
_CLEAR = """
TRUNCATE events;
DROP TABLE IF EXISTS bench_copy, bench_scripts;
DROP SCHEMA IF EXISTS bench_dlt CASCADE;
DROP SCHEMA IF EXISTS bench_dlt_staging CASCADE;
CREATE TABLE bench_copy (LIKE events INCLUDING ALL);
CREATE TABLE bench_scripts (event_id uuid PRIMARY KEY, time timestamptz NOT NULL, payload json NOT NULL);
"""
_POSTGRES = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size")


class Wrong(Failed):
    """A contender did not store what it should, or could not load at all: there is nothing to compare."""


@dataclass
class Ground:
    """Everything that a contender may use."""

    servers: Servers
    service: Service
    database_url: str
    #: Of the object: lines, bytes, key.
    count: int
    size: int
    key: str
    #: Lines that dlt is given, from the first on.
    dlt_count: int
    #: The rows as Penstock stores them, by format of COPY.
    rows: dict[str, ReadyRows] = field(default_factory=dict)

    def s3(self) -> Any:
        """Return a client of S3."""
        return s3_client(self.servers)

    def connect(self) -> Any:
        """Open a connection to the database."""
        return psycopg2.connect(self.database_url)

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement in a transaction of its own and return its rows, if it has any."""
        with contextlib.closing(self.connect()) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def vacuum(self) -> None:
        """Bring the table of events to rest: whoever reads it first would write every page, or autovacuum read it."""
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute("VACUUM (ANALYZE) events")
            cursor.execute("CHECKPOINT")

    def number_of(self, collection: str) -> int:
        """Return the number of a collection of the service's project."""
        (row,) = self.execute(f"SELECT id FROM collections WHERE name = '{collection}' AND deleted_at IS NULL")
        return int(row[0])

    def clear(self) -> None:
        """Empty every table, and our Redis of old marks: their number is bounded."""
        self.execute(_CLEAR)
        if self.servers.pids["redis"]:
            with redis.Redis.from_url(self.servers.redis_url) as client:
                for key in client.scan_iter("penstock:seen:*"):
                    client.unlink(key)

    def check(self, table: str, events: int) -> None:
        """Raise Wrong unless the table has just so many events, each once."""
        ((rows, ids),) = self.execute(f"SELECT count(*), count(DISTINCT event_id) FROM {table}")
        if (rows, ids) != (events, events):
            message = f"{table} holds {rows:,} rows and {ids:,} ids where both should be {events:,}."
            raise Wrong(message)

    def postgres_settings(self) -> dict[str, str]:
        """Return the version and what decides about speed and safety."""
        return {name: self.execute(f"SHOW {name}")[0][0] for name in _POSTGRES}

    def keep_rows(self, form: str) -> None:
        """Keep what the table of events holds, in the order of the file, in a format of COPY."""
        taken = _Messages()
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            query = f"COPY (SELECT * FROM events ORDER BY byte_offset) TO STDOUT (FORMAT {form})"
            cursor.copy_expert(query, taken)
        self.rows[form] = ReadyRows.of(form, taken.messages)


class _Messages:
    """Takes what COPY sends: psycopg2 hands over message by message, and that is one row each."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def write(self, message: bytes) -> None:
        self.messages.append(message)


@dataclass(frozen=True)
class ReadyRows:
    """Rows to be sent by COPY with no work left to do, in six parts, so that one, two and three streams share alike."""

    form: str
    header: bytes
    trailer: bytes
    sixths: list[bytes]

    @classmethod
    def of(cls, form: str, messages: list[bytes]) -> ReadyRows:
        """Take COPY's messages; of the binary format the first begins with the header and the last is the trailer."""
        header = trailer = b""
        if form == "binary":
            header, messages[0], trailer = messages[0][:19], messages[0][19:], messages.pop()
        cuts = [len(messages) * part // 6 for part in range(7)]
        sixths = [b"".join(messages[first:last]) for first, last in pairwise(cuts)]
        return cls(form, header, trailer, sixths)

    def files(self, streams: int) -> list[io.BytesIO]:
        """Return a file for each stream: the first one has the first rows, and so on."""
        share = 6 // streams
        parts = [self.sixths[first : first + share] for first in range(0, 6, share)]
        return [io.BytesIO(b"".join([self.header, *part, self.trailer])) for part in parts]


@contextlib.contextmanager
def open_ground(
    servers: Servers, logs: Path, *, events: int, dlt_events: int, workers: int, say: Callable[[str], None]
) -> Iterator[Ground]:
    """Start the service on a database of its own and upload the file; all of it goes away with the block."""
    name = f"penstock_bench_{os.getpid()}_{secrets.token_hex(3)}"
    url = servers.create_database(name)
    try:
        with Service.start(servers, logs=logs, workers=workers, settings={"DATABASE_URL": url}) as service:
            key = f"{name}.ndjson"
            body = b"".join(lines(events))
            with contextlib.closing(s3_client(servers)) as client:
                create_bucket(s3_client(servers), BUCKET)
                client.upload_fileobj(io.BytesIO(body), BUCKET, key)
                say(f"File      {events:,} lines, {len(body) / 1e6:,.1f} MB")
                try:
                    yield Ground(servers, service, url, events, len(body), key, min(dlt_events, events))
                finally:
                    client.delete_object(Bucket=BUCKET, Key=key)
    finally:
        servers.drop_database(name)
