"""The contenders: Penstock, the database's own limit, and what people write instead."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any

import smart_open
from psycopg2.extras import execute_values

from deploy.local.demo import Client
from tests.bench import dlt_contender
from tests.bench.events import distinct
from tests.bench.ground import BUCKET, PIECE, Ground, Wrong

#: As the demo polls. A tighter poll would cost the two cores that the import needs.
POLL_SECONDS = 0.2
STALL_SECONDS = 120.0
#: Bytes of lines that the careful script loads at a time: 100,000 lines or so, sorted in memory.
CAREFUL_BYTES = 28 * 1024 * 1024
PLAIN_ROWS = 1000
#: The collection that is imported into twice.
AGAIN = "bench-again"

Seconds = float


@dataclass(frozen=True)
class Contender:
    """Somebody who loads the file."""

    name: str
    #: What it does, for the reader of the report.
    what: str
    #: Loads, and returns how long it took and what else there is to say.
    load: Callable[[Ground], tuple[Seconds, dict[str, Any]]]
    #: What has to be there before, besides empty tables; not measured.
    prepare: Callable[[Ground], object] = field(default=lambda _ground: None, kw_only=True)
    #: What it fills.
    table: str = "bench_scripts"
    #: How many lines it is given.
    lines: Callable[[Ground], int] = field(default=lambda ground: ground.count)
    #: From its lines to the events that must be in its table.
    stored: Callable[[int], int] = distinct
    #: From its lines to the events that count in its rate.
    rated: Callable[[int], int] = distinct


# --- Penstock


def penstock(ground: Ground, *, key: str = "", **asked: Any) -> tuple[Seconds, dict[str, Any]]:
    """Import the file, or another object, over HTTP into a collection of its own, with default settings.

    The time is the database's: from createdAt, where the transaction that admits the import starts, to finishedAt,
    where the one that settles it starts, after the last chunk's commit. A caller's own clock ("callerSeconds") adds
    the request and up to 0.2 s of the poll's pause, which say nothing about the service.
    """
    status, caller = run_import(ground, key or ground.key, **asked)
    if status["status"] != "completed":
        message = f"the import ended as {status['status']}: {status['error']}"
        raise Wrong(message)
    created, started, finished = (
        datetime.fromisoformat(status[name]) for name in ("createdAt", "startedAt", "finishedAt")
    )
    return (finished - created).total_seconds(), {
        "callerSeconds": round(caller, 3),
        "planSeconds": (started - created).total_seconds(),
        "counts": status["counts"],
    }


def run_import(
    ground: Ground, key: str, *, collection: str = "", patience: Seconds = STALL_SECONDS, **asked: Any
) -> tuple[dict[str, Any], Seconds]:
    """Import an object over HTTP, and return its last status and for how long the caller waited.

    Raises Wrong where it has not ended after ``patience`` seconds.
    """
    client, url = Client(ground.service), f"{ground.service.api}/api/imports"
    source = {
        "url": f"s3://{BUCKET}/{key}",
        "accessKeyId": ground.servers.s3_access_key_id,
        "secretAccessKey": ground.servers.s3_secret_access_key,
    }
    begun = time.monotonic()
    location = client.post(url, {"collection": collection or f"bench-{time.time_ns()}", "source": source, **asked})
    while (status := client.get(location))["finishedAt"] is None:
        if time.monotonic() - begun > patience:
            message = f"the import did not end within {patience:.0f} s: {status['progress']}"
            raise Wrong(message)
        time.sleep(POLL_SECONDS)
    return status, time.monotonic() - begun


def penstock_again(ground: Ground) -> tuple[Seconds, dict[str, Any]]:
    """Import the file into a collection that has all of it: every line is a duplicate."""
    seconds, more = penstock(ground, collection=AGAIN)
    if more["counts"]["duplicates"] != ground.count:
        message = f"importing again should find duplicates alone, not {more['counts']}"
        raise Wrong(message)
    return seconds, more


def penstock_without_ids(ground: Ground) -> tuple[Seconds, dict[str, Any]]:
    """Import the file with a mapping that finds no id in it: no line can be a duplicate."""
    return penstock(ground, mapping={"id": "an id of no line", "time": "$time"})


# --- the limit


def copy(ground: Ground, *, streams: int, form: str = "") -> tuple[Seconds, dict[str, Any]]:
    """COPY ready rows, each stream its part of the file in one transaction. Connections are open before it begins."""
    rows = ground.rows[form] if form else next(iter(ground.rows.values()))
    statement = f"COPY bench_copy FROM STDIN (FORMAT {rows.form})"
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(streams))
        connections = [stack.enter_context(contextlib.closing(ground.connect())) for _ in range(streams)]

        def send(file: io.BytesIO, connection: Any) -> None:
            with connection, connection.cursor() as cursor:
                cursor.copy_expert(statement, file, size=PIECE)

        files = rows.files(streams)
        busy, begun = time.process_time(), time.monotonic()
        list(pool.map(send, files, connections))
        seconds = time.monotonic() - begun
        # Threads are enough while this is far below 1: psycopg2 lets the others run while it sends.
        return seconds, {"format": rows.form, "clientBusy": round((time.process_time() - busy) / seconds, 3)}


def choose_format(ground: Ground) -> dict[str, float]:
    """Try text and binary twice each with two streams, keep the faster one's rows; return the best rates."""
    rates: dict[str, float] = dict.fromkeys(ground.rows, 0.0)
    for form in [*ground.rows] * 2:
        ground.clear()
        ground.execute("CHECKPOINT")
        seconds, _ = copy(ground, streams=2, form=form)
        rates[form] = max(rates[form], distinct(ground.count) / seconds)
    best = max(rates, key=rates.__getitem__)
    ground.rows = {best: ground.rows[best]}
    return rates


# --- by hand

_STAGING = """
SET work_mem = '256MB';
CREATE TEMPORARY TABLE staging (n bigint GENERATED ALWAYS AS IDENTITY, line json) ON COMMIT DELETE ROWS;
"""
_FROM_STAGING = """
INSERT INTO bench_scripts (event_id, time, payload)
SELECT DISTINCT ON (1) (line ->> '$unique_id')::uuid, (line ->> '$time')::timestamptz, line
FROM staging
ORDER BY 1, n
ON CONFLICT DO NOTHING
"""


def careful_sql(ground: Ground) -> tuple[Seconds, dict[str, Any]]:
    """Load raw lines into a staging table and let SQL do the rest; two connections, half of the file each.

    Two transactions cannot deadlock, since DISTINCT ON sorts by id. Of the forms tried (best of four, on a machine
    with others on it): this one 212 k/s, a whole half at once 197 k/s, one connection 122 k/s, ids taken out before by
    Python's json 133 k/s; by msgspec 225 k/s, which is Penstock's own way and no longer what one writes by hand.
    """

    def load(half: int) -> None:
        with contextlib.closing(ground.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(_STAGING)
            connection.commit()
            for batch in _batches(_read_half(ground, half)):
                text = batch.replace(b"\\", b"\\\\")
                cursor.copy_expert("COPY staging (line) FROM STDIN", io.BytesIO(text), size=PIECE)
                cursor.execute(_FROM_STAGING)
                connection.commit()

    begun = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(load, range(2)))
    return time.monotonic() - begun, {}


def _read_half(ground: Ground, half: int) -> bytes:
    """Return the lines whose first byte lies in one half of the object."""
    first, last = ground.size * half // 2, ground.size * (half + 1) // 2
    with contextlib.closing(ground.s3()) as client:
        # One byte before tells whether a line begins at the cut; no line is longer than what is read beyond it.
        asked = f"bytes={max(first - 1, 0)}-{last + 65_536}"
        body: bytes = client.get_object(Bucket=BUCKET, Key=ground.key, Range=asked)["Body"].read()
    begin = body.index(b"\n") + 1 if half else 0
    return body[begin : body.index(b"\n", last - 1 - max(first - 1, 0)) + 1]


def _batches(data: bytes) -> Iterator[bytes]:
    first = 0
    while first < len(data):
        last = data.rfind(b"\n", first, first + CAREFUL_BYTES) + 1
        yield data[first:last]
        first = last


_INSERT = "INSERT INTO bench_scripts (event_id, time, payload) VALUES %s ON CONFLICT DO NOTHING"


def plain_script(ground: Ground) -> tuple[Seconds, dict[str, Any]]:
    """Parse line by line and insert with execute_values, a thousand rows a statement and a commit."""
    begun = time.monotonic()
    with contextlib.closing(ground.s3()) as client, contextlib.closing(ground.connect()) as connection:
        opened = smart_open.open(f"s3://{BUCKET}/{ground.key}", "rb", transport_params={"client": client})
        with opened as stream, connection.cursor() as cursor:
            while batch := [_row(line) for line in islice(stream, PLAIN_ROWS)]:
                execute_values(cursor, _INSERT, batch, page_size=PLAIN_ROWS)
                connection.commit()
    return time.monotonic() - begun, {}


def _row(line: bytes) -> tuple[str, str, str]:
    event = json.loads(line)
    return event["$unique_id"], event["$time"], line.decode()


def dlt(ground: Ground) -> tuple[Seconds, dict[str, Any]]:
    """Let dlt merge the first lines on their id, in an environment of its own; see `dlt_script`."""
    with contextlib.closing(ground.s3()) as client:
        url = client.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": ground.key})
    return dlt_contender.load(url, ground.database_url, ground.dlt_count)


def _all(lines: int) -> int:
    return lines


CONTENDERS = [
    Contender("penstock", "import over HTTP into an empty collection", penstock, "events"),
    Contender("copy-1", "plain COPY of the same rows, made before, 1 stream", partial(copy, streams=1), "bench_copy"),
    Contender("copy-2", "the same, 2 streams", partial(copy, streams=2), "bench_copy"),
    Contender("copy-3", "the same, 3 streams", partial(copy, streams=3), "bench_copy"),
    Contender("careful-sql", "COPY to staging, INSERT DISTINCT ON .. ON CONFLICT, 2 connections", careful_sql),
    Contender("plain-script", "json.loads, execute_values .. ON CONFLICT", plain_script),
    Contender("dlt", "dlt, merge on the id", dlt, "bench_dlt.events", lambda ground: ground.dlt_count),
    Contender(
        "penstock-no-ids", "import of lines without ids", penstock_without_ids, "events", stored=_all, rated=_all
    ),
    Contender(
        "penstock-again",
        "the same file once more: all duplicates",
        penstock_again,
        "events",
        rated=_all,
        prepare=partial(penstock, collection=AGAIN),
    ),
]


def chosen(only: list[str], skip: list[str]) -> list[Contender]:
    """Return the contenders asked for; "copy" means all numbers of streams."""

    def named(contender: Contender, names: list[str]) -> bool:
        return contender.name in names or (contender.table == "bench_copy" and "copy" in names)

    return [one for one in CONTENDERS if (not only or named(one, only)) and not named(one, skip)]
