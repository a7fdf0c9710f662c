"""Whatever befalls those who look at, scan, walk and load an import's objects, in whatever order: what comes of it is
what comes of it undisturbed (P1 to P4).
"""

from __future__ import annotations

import bz2
import gzip
import json
import os
import random
import sys
import uuid
from collections import deque
from contextlib import suppress
from dataclasses import replace
from typing import Any

import psycopg2
import pytest

from common import objects
from common.errors import Transient
from common.ledger import chunks
from common.ledger.database import Database, Tx
from common.model.chunks import Chunk
from common.model.imports import ImportStatus
from common.model.sources import SourceKind, SourceRef
from common.runtime import Runtime
from tests.stage import Stage
from workers.imports import gzip_index, inflating, load
from workers.imports.plan import plan_import
from workers.imports.work import Judge

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: What may happen where a block is decoded or a chunk is about to be written down.
FAULTS = ["nothing", "away", "stopped", "overtaken", "emptied", "lost before", "lost behind"]
CHUNK_BYTES = 400
#: Draws: each is some 5 s of commits. More where somebody has the time.
SEEDS = int(os.environ.get("FAULT_SEEDS", "2"))


def lines(first: int, count: int) -> list[bytes]:
    """Return lines whose ids turn up in other objects too, one in seven of them bad."""
    made = [json.dumps({"$unique_id": n % 23, "n": n}).encode() for n in range(first, first + count)]
    return [line if n % 7 else b"{bad" for n, line in enumerate(made, 1)]


def table(first: int, count: int) -> bytes:
    rows = [f'{n % 23},"a\nb {n}"' if n % 7 else f"{n},too,many" for n in range(first, first + count)]
    return "\n".join(("$unique_id,note", *rows)).encode()


def array(first: int, count: int) -> bytes:
    return b"[" + b",\n".join(b"7" if line == b"{bad" else line for line in lines(first, count)) + b"]"


OBJECTS: dict[str, bytes] = {
    "a.ndjson": b"\n".join(lines(0, 30)),
    "b.csv": table(10, 30),
    "c.json": array(20, 30),
    "d.ndjson.zst": zstd.compress(b"\n".join(lines(30, 40))),
    "e.csv.gz": gzip.compress(table(40, 40)),
    "f.ndjson.gz": gzip.compress(b"\n".join(lines(50, 40))),
    "g.json.bz2": bz2.compress(array(60, 40)),
    "h.json.gz": gzip.compress(array(70, 40)),
    "i.ndjson": b"",
}
BROKEN: dict[str, bytes] = {
    "j.json": array(80, 20)[:-30],
    "k.ndjson.gz": gzip.compress(b"\n".join(lines(90, 40)))[:-20],
    "l.json.zst": zstd.compress(array(90, 40)[:-30]),
    "m.csv": b"PK\x03\x04",
}


class Fate:
    """Deals out what happens, in the order drawn; nothing more once all is dealt."""

    def __init__(self, stage: Stage, drawn: list[str]) -> None:
        self.stage, self.drawn = stage, deque(drawn)
        self.workers = [stage.worker(chunk_bytes=CHUNK_BYTES), stage.worker(chunk_bytes=CHUNK_BYTES)]
        self.busy: list[Runtime] = []
        self.losing: str | None = None

    def close(self) -> None:
        for worker in self.workers:
            worker.database.close()

    def strike(self, chunk: Chunk, *, writes: bool) -> None:
        what = self.drawn.popleft() if self.drawn else "nothing"
        match what:
            case "away":
                raise Transient("S3 cannot be reached at the moment.")
            case "stopped":
                raise SystemExit
            case "overtaken":
                self.stage.expire_lease(chunk.id)
                for other in [worker for worker in self.workers if worker not in self.busy]:
                    self.load(other, chunk.id)
            case "emptied":
                self.stage.flush_redis()
            case "lost before" | "lost behind" if writes:
                self.losing = what

    def load(self, runtime: Runtime, chunk_id: int) -> None:
        self.busy.append(runtime)
        with suppress(SystemExit):
            load.load_chunk(runtime, chunk_id)
        self.busy.pop()


class Losing:
    """A connection that breaks at COMMIT where that is its fate."""

    def __init__(self, real: Any, fate: Fate) -> None:
        self._real, self._fate = real, fate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def commit(self) -> None:
        losing, self._fate.losing = self._fate.losing, None
        if losing != "lost before":
            self._real.commit()
        if losing:
            self._real.close()
            raise psycopg2.OperationalError("server closed the connection unexpectedly")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (objects, inflating, gzip_index):
        monkeypatch.setattr(module, "PIECE", 40)


def put(stage: Stage, bodies: dict[str, bytes]) -> SourceRef:
    folder = SourceRef(stage.bucket, f"{uuid.uuid4().hex}/", kind=SourceKind.PREFIX)
    for name, body in bodies.items():
        stage.s3.put_object(Bucket=folder.bucket, Key=f"{folder.key}{name}", Body=body)
    return folder


def start(stage: Stage, folder: SourceRef) -> str:
    import_id = stage.start(folder, collection=folder.key[:-1], format=None, compression=None)
    plan_import(stage.runtime, import_id)
    return import_id


def outcome(stage: Stage, folder: SourceRef, status: ImportStatus) -> tuple[Any, ...]:
    errors = stage.desk.list_errors(stage.caller, status.id).items
    pieces = [(one.key, one.state, one.error and one.error.code) for one in status.pieces.objects]
    return (
        (status.state, status.progress.counts, status.progress.bytes_done, status.percent),
        [(one.key, one.index, one.byte_offset, one.code) for one in errors],
        pieces,
        stage.rows(folder.key[:-1]),
    )


def check_ledger(stage: Stage, status: ImportStatus) -> None:
    (row,) = stage.query(
        "SELECT count(*) AS chunks, sum(coalesce(bytes, end_offset - start_offset)) AS bytes, sum(lines) AS lines,"
        " sum(imported + replaced + duplicates + rejected + blank) AS parts,"
        " (SELECT count(*) FROM rejects JOIN chunks AS r ON r.id = chunk_id WHERE r.import_id = %(id)s) AS rejects"
        " FROM chunks WHERE import_id = %(id)s",
        id=status.id,
    )
    counts = status.progress.counts
    assert (row.lines, row.parts, row.rejects) == (counts.lines, counts.lines, counts.rejected)
    assert (row.chunks, row.bytes) == (status.chunks_total, status.progress.bytes_done)


def under(stage: Stage, monkeypatch: pytest.MonkeyPatch, drawn: list[str]) -> Fate:
    fate, take, finish = Fate(stage, drawn), Judge.take, chunks.finish_chunk

    def taking(judge: Judge, block: Any) -> None:
        fate.strike(judge.work.chunk, writes=False)
        take(judge, block)

    def finishing(tx: Tx, chunk: Chunk, *given: Any, **named: Any) -> Any:
        fate.strike(chunk, writes=True)
        return finish(tx, chunk, *given, **named)

    monkeypatch.setattr(Judge, "take", taking)
    monkeypatch.setattr(chunks, "finish_chunk", finishing)
    connect = Database._connection
    monkeypatch.setattr(Database, "_connection", lambda database: Losing(connect(database), fate))
    return fate


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("bodies", [OBJECTS, {**OBJECTS, **BROKEN}], ids=["sound", "with broken ones"])
def test_faults_change_nothing_but_the_time_it_takes(stage: Stage, bodies: dict[str, bytes], seed: int) -> None:
    chance = random.Random(seed)
    drawn = chance.choices(FAULTS, k=20)
    order = chance.choices(range(1000), k=15)
    stage.runtime.settings = replace(stage.settings, chunk_bytes=CHUNK_BYTES)
    folder = put(stage, bodies)
    calm = start(stage, folder)
    stage.load_all(calm)
    expected = outcome(stage, folder, stage.status(calm))
    check_ledger(stage, stage.status(calm))

    again = put(stage, bodies)
    import_id = start(stage, again)
    percent = 0.0
    with pytest.MonkeyPatch.context() as patched:
        fate = under(stage, patched, drawn)
        for turn, number in enumerate(order):
            ids = stage.chunk_ids(import_id)
            fate.load(fate.workers[turn % 2], ids[number % len(ids)])
            before, percent = percent, stage.status(import_id).percent
            assert percent >= before
    fate.close()
    stage.query("UPDATE chunks SET not_before = now() WHERE import_id = %(id)s RETURNING id", id=import_id)
    stage.load_all(import_id)

    status = stage.status(import_id)
    check_ledger(stage, status)
    found = outcome(stage, again, status)
    assert json.dumps(found, default=repr).replace(again.key, folder.key) == json.dumps(expected, default=repr)
