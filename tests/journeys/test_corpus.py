"""Odd files go the whole road: each ends as it should, and none ends a worker or fills its memory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from boto3.s3.transfer import TransferConfig

from deploy.local.servers import Servers
from tests.journeys.corpus import MIB, Odd, corpus
from tests.journeys.stack import BUCKET, S3Address, Stack, open_stack, s3_client
from tests.pieces import open_pieces

#: What a process of the pool may take at the most, whatever it is given.
MOST_MEMORY = 200_000_000
#: The longest line; 200 where somebody has the time.
LINE_BYTES = int(os.environ.get("CORPUS_LINE_MIB", "64")) * MIB
#: The sizes of chunk that the corpus goes through, with those of its longest lines: one of which only these have more
#: than one, and one that cuts what can be cut. (4 lines of 64 MiB are 4,096 small chunks, and took 90 s.)
CHUNKS = {"usual chunks": (8 * MIB, LINE_BYTES), "small chunks": (64 * 1024, 4 * MIB)}
#: Below the limit of a project.
AT_ONCE = 40
WITHIN = 240.0

ODDS = {odd.name: odd for odd in corpus(line_bytes=LINE_BYTES)}


@dataclass(frozen=True)
class Run:
    """What became of all files, and of those who read them."""

    stack: Stack
    #: The import of each file.
    imports: dict[str, str]
    #: Main process and pool of each worker, before and after.
    before: Mapping[int, list[int]]
    after: Mapping[int, list[int]]
    #: The most memory that each process of a pool ever had, in bytes.
    peaks: Mapping[int, int]


@pytest.fixture(scope="module", params=CHUNKS)
def run(
    request: pytest.FixtureRequest,
    servers: Servers,
    localbucket: S3Address,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Run]:
    """Import all of them, many at once, by workers and a walker that have seen nothing before."""
    chunk_bytes, line_bytes = CHUNKS[request.param]
    settings = {"PENSTOCK_CHUNK_BYTES": str(chunk_bytes), "PENSTOCK_LEASE_SECONDS": "30"}
    name = f"corpus_{list(CHUNKS).index(request.param)}"
    with open_stack(servers, localbucket, tmp_path_factory.mktemp("logs"), name=name, settings=settings) as stack:
        _upload(localbucket, corpus(line_bytes=line_bytes))
        before = stack.pools()
        imports = _import_all(stack)
        after = stack.pools()
        peaks = {pid: _peak(pid) for pool in after.values() for pid in pool}
        yield Run(stack, imports, before, after, peaks)
    stack.check_logs()


def _upload(s3: S3Address, odds: list[Odd]) -> None:
    with s3_client(s3) as client:
        for odd in odds:
            with open_pieces(odd.pieces()) as body:
                client.upload_fileobj(body, BUCKET, odd.key, Config=TransferConfig(use_threads=False))


def _import_all(stack: Stack) -> dict[str, str]:
    waiting, running, ended = list(ODDS.values()), set[str](), dict[str, str]()
    deadline = time.monotonic() + WITHIN
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            odd = waiting.pop()
            ended[odd.name] = stack.start_native(odd.key, odd.name)
            running.add(ended[odd.name])
        # Not of the API: 40 questions in turn took it half of a core, which the imports need.
        unended = "SELECT id FROM imports WHERE id = ANY (%(ids)s::uuid[]) AND finished_at IS NULL"
        running = {row.id.replace("-", "") for row in stack.rows(unended, ids=[*running])}
        left = [name for name, import_id in ended.items() if import_id in running]
        assert time.monotonic() < deadline, f"after {WITHIN:.0f} s these have not ended: {left}"
        time.sleep(0.1)
    return ended


def _peak(pid: int) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("odd", ODDS.values(), ids=ODDS)
def test_an_odd_file_ends_as_it_should(run: Run, odd: Odd) -> None:
    status = run.stack.status(run.imports[odd.name])
    errors = run.stack.list_errors(run.imports[odd.name])
    counts = status["counts"]

    assert (status["status"], (status["error"] or {}).get("code")) == (odd.status, odd.error), status["error"]
    assert counts["lines"] == sum(counts.values()) - counts["lines"]
    least, most = odd.between or (odd.imported, odd.imported)
    assert least <= counts["imported"] <= most
    if odd.rejects is not None:
        assert [(error["index"], error["code"]) for error in errors] == list(odd.rejects)
        assert {name: counts[name] for name in odd.counts} == odd.counts
    for what in ("format", "compression"):
        if (expected := getattr(odd, what)) is not None:
            assert status[what] == expected
    if not odd.error:
        assert status["progress"]["percent"] == 100


@pytest.mark.parametrize("odd", ODDS.values(), ids=ODDS)
def test_what_is_stored_of_an_odd_file_is_what_it_counts(run: Run, odd: Odd) -> None:
    stored = run.stack.rows(
        "SELECT payload FROM events WHERE import_number = (SELECT number FROM imports WHERE id = %(id)s)"
        " ORDER BY source_ordinal, byte_offset",
        id=run.imports[odd.name],
    )

    assert len(stored) == run.stack.status(run.imports[odd.name])["counts"]["imported"]
    if odd.stored is not None:
        assert [row.payload for row in stored] == list(odd.stored)


def test_no_worker_ended_and_none_was_born(run: Run) -> None:
    assert run.before == run.after
    assert len(run.before) == run.stack.workers + 2, "the workers, a walker and an exporter"


def test_no_worker_took_more_memory_than_it_may(run: Run) -> None:
    peaks = {pid: f"{peak / MIB:.0f} MiB" for pid, peak in run.peaks.items()}
    assert max(run.peaks.values()) < MOST_MEMORY, peaks


def test_no_import_took_a_second_attempt(run: Run) -> None:
    """What ends a process, or raises what nobody expects, is tried again."""
    again = run.stack.rows(
        "SELECT c.import_id, c.number, c.attempts FROM chunks AS c WHERE c.attempts > 1 AND c.state = 'done'"
    )
    names = {import_id: name for name, import_id in run.imports.items()}
    assert {names[row.import_id.replace("-", "")]: row.attempts for row in again} == {}
