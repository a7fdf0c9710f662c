"""Exports on the real stack: whoever is killed, stopped or away meanwhile, the object is right or absent."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from common.runtime import Runtime
from common.settings import Settings
from deploy.local.servers import Servers
from tests.failing_s3 import FailingS3, Request, Trouble
from tests.journeys.oracle import make_object
from tests.journeys.stack import BUCKET, S3Address, Stack, open_stack, s3_client, wait_until
from tests.told import tell_ledger
from workers.exports.write import write_export

#: Some 40 MB: five parts of an upload.
EVENTS, EVENT_WORDS = 70_000, 17
COLLECTION = "exported"
#: Half as much again, in many small events, which nobody strikes at.
LARGE_EVENTS, LARGE_EVENT_WORDS = 300_000, 5
LARGE_COLLECTION = "exported-large"
#: P10: of the process that writes, with its code (some 100 MB) and four parts of 8 MiB.
MOST_MEMORY = 200_000_000
#: Ends of waits: how long nothing takes, on a machine that has much else to do too.
LONG = 180.0
#: Nothing here waits for the end of a lease, and no lease shall end because the machine is slow: a writer that was
#: killed is known by its session, and that a sleeper's lease is over the test says itself.
SETTINGS = {"PENSTOCK_LEASE_SECONDS": "120"}
#: What a log may hold of warnings and errors, after all that is done here: by logger, how they begin.
EXPECTED = [
    ("py.warnings", ""),
    # Of the killed.
    ("multiprocessing", "Process 'ForkPoolWorker-"),
    ("celery.worker.request", "Task handler raised error: WorkerLostError"),
    # Of a Postgres that is away, or a Redis.
    ("workers.sweep", "sweep_failed"),
    ("workers.sweep", "sweep_step_failed"),
    ("workers.exports.watch", "lease_not_renewed"),
    ("workers.exports.write", "export_postponed"),
    ("workers.exports.write", "export_not_released"),
    ("workers.exports.write", "export_not_cleaned"),
    ("api.native.routes", "request_postponed"),
    ("common.dispatch", "broker_away"),
    ("celery.worker.consumer.consumer", "consumer: "),
    # Of the sleeper.
    ("workers.exports.healing", "ended_expired_writers"),
]

_FILL = """
INSERT INTO events (import_number, byte_offset, time, event_id, collection_id, source_ordinal, odd, payload)
SELECT 0, n, now(), gen_random_uuid(), c.id, 0, false,
       ('{"n":' || n || ',"price":25.00,"text":"' || repeat(md5(n::text), %(words)s) || '"}')::json
FROM generate_series(%(first)s, %(last)s) AS g (n), collections AS c
WHERE c.name = %(name)s
"""


class Exporting:
    """A stack, the S3 in front of it that fails when told to, and a large collection that grows at each blow."""

    def __init__(self, stack: Stack, s3: FailingS3) -> None:
        self.stack, self.s3 = stack, s3
        #: By collection.
        self.events: Counter[str] = Counter()
        #: Of each export, below which nothing else is.
        self.prefixes: dict[str, str] = {}
        #: What every poll of the export has shown.
        self.seen: list[dict[str, Any]] = []
        #: Two parts on their way at a time may both be struck at.
        self._growing = threading.Lock()

    def make(self, collection: str, events: int, words: int) -> None:
        """Make a collection: its name by an import, as a caller does, and its events by one statement."""
        first = self.stack.start_native(self.stack.put(b"{}\n"), collection)
        wait_until(lambda: self.stack.status(first)["status"] == "completed", what="the collection is there")
        number = "SELECT number FROM imports WHERE id = %(id)s"
        self.stack.rows(f"DELETE FROM events WHERE import_number = ({number}) RETURNING 1", id=first)
        self.grow(events, collection, words)

    def grow(self, count: int, collection: str = COLLECTION, words: int = EVENT_WORDS) -> None:
        with self._growing:
            last = self.events[collection] + count
            with self.stack.database.transaction() as tx:
                tx.run(_FILL, first=last - count + 1, last=last, name=collection, words=words)
                tell_ledger(tx, collection)
            self.events[collection] = last

    # --- the caller's side

    def start(self, name: str, collection: str = COLLECTION, **wishes: Any) -> str:
        self.seen.clear()
        prefix = f"{name}/{len(self.prefixes)}/"
        keys = {"accessKeyId": self.stack.key_id, "secretAccessKey": self.stack.canary}
        body = {"collection": collection, "destination": {"url": f"s3://{BUCKET}/{prefix}", **keys}, **wishes}
        answer = self.stack.request("POST", "/api/exports", body, native=True)
        assert answer.status == 201, answer
        self.prefixes[answer.body["id"]] = prefix
        return str(answer.body["id"])

    def poll(self, export_id: str) -> dict[str, Any] | None:
        """Return the status, None where the API cannot answer at the moment; what it shows has to be true."""
        answer = self.stack.request("GET", f"/api/exports/{export_id}", native=True)
        if answer.status in (0, 502, 503):
            return None
        assert answer.status == 200, answer
        self.seen.append(answer.body)
        return dict(answer.body)

    def until(self, export_id: str, state: str) -> dict[str, Any]:
        """Follow the export to its end, which is to be this one."""

        def ended() -> dict[str, Any] | None:
            status = self.poll(export_id)
            return status if status and status["finishedAt"] else None

        try:
            status = wait_until(ended, what=f"export {export_id} has ended", within=LONG, pause=0.05)
        except AssertionError as error:
            error.add_note(f"{self.row(export_id)}, {self.stack.service.pids}")
            raise
        self.check_truth()
        assert status["status"] == state, status
        return status

    def check_truth(self) -> None:
        for status in self.seen:
            progress = status["progress"]
            assert progress["bytesWritten"] <= (progress["bytesTotal"] or progress["bytesWritten"]), progress
            assert progress["eventsWritten"] <= (progress["eventsTotal"] or progress["eventsWritten"]), progress
            assert (progress["percent"] == 100) == (status["status"] == "completed")
        # Of one attempt, which one snapshot is.
        for _, attempt in itertools.groupby(self.seen, lambda status: status["snapshotAt"]):
            progress = [status["progress"] for status in attempt]
            assert len({one["bytesTotal"] for one in progress if one["bytesTotal"] is not None}) <= 1
            percents = [one["percent"] for one in progress if one["bytesTotal"] is not None]
            assert percents == sorted(percents), percents

    def objects(self, export_id: str) -> dict[str, bytes]:
        """Return all that is in the bucket below the export's prefix."""
        with s3_client(S3Address(self.s3.upstream.geturl(), "a", "b")) as client:
            listed = client.list_objects_v2(Bucket=BUCKET, Prefix=self.prefixes[export_id])
            keys = [one["Key"] for one in listed.get("Contents", [])]
            return {key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}

    # --- the auditor's

    def audit(self, status: dict[str, Any], *, anew: bool = True) -> None:
        """Hold the objects against the collection, event by event; ``anew``: as it was after the last blow."""
        self.audit_rest(status["id"])
        found, written = self.objects(status["id"]), status["objects"]
        assert sorted(found) == sorted(
            [one["key"] for one in written] + [status["manifest"]] * bool(status["manifest"])
        )
        for one in written:
            body = found[one["key"]]
            assert hashlib.sha256(body).hexdigest() == one["sha256"]
            assert (len(body), body.count(b"\n")) == (one["bytes"], one["events"])
        whole = b"".join(found[one["key"]] for one in written)
        assert len(whole) == status["progress"]["bytesTotal"] == status["progress"]["bytesWritten"]
        self.audit_events(whole, status["collection"], anew=anew)

    def audit_events(self, whole: bytes, collection: str, *, anew: bool) -> None:
        # The collection grows by one event at each blow: all of an attempt that began after the last one has them all.
        lines = {int(line[5 : line.index(b",")]): line for line in whole.split(b"\n")[:-1]}
        assert sorted(lines) == list(range(1, whole.count(b"\n") + 1))
        assert len(lines) == self.events[collection] or not anew
        payloads = self.stack.value(
            "SELECT md5(string_agg(md5(payload::text), '' ORDER BY byte_offset)) FROM events AS e"
            " JOIN collections AS c ON c.id = e.collection_id WHERE c.name = %(name)s AND byte_offset <= %(last)s",
            name=collection,
            last=len(lines),
        )
        digests = "".join(hashlib.md5(lines[number]).hexdigest() for number in sorted(lines))
        assert hashlib.md5(digests.encode()).hexdigest() == payloads

    def audit_rest(self, export_id: str) -> None:
        """Of an ended export nothing is left besides its objects: no upload, no row of one, no credentials."""
        unclean = "SELECT clean_at FROM exports WHERE id = %(id)s AND clean_at IS NOT NULL"
        wait_until(lambda: not self.stack.rows(unclean, id=export_id), what="it is cleaned up after", within=LONG)
        # A request that was on its way when its writer was killed takes effect when it comes.
        wait_until(lambda: not self.uploads_left(export_id), what="all uploads are broken off", within=LONG)
        assert not self.stack.rows("SELECT 1 FROM export_secrets WHERE export_id = %(id)s", id=export_id)

    def audit_absent(self, export_id: str) -> None:
        """The export was ended before it completed."""
        self.audit_rest(export_id)
        assert self.objects(export_id) == {}
        assert not self.stack.rows("SELECT 1 FROM export_objects WHERE export_id = %(id)s", id=export_id)

    def uploads_left(self, export_id: str) -> list[str]:
        """Return uploads that were begun and neither completed nor broken off."""
        begun = self.s3.begun.copy()
        return [upload for upload, path in begun.items() if self.prefixes[export_id] in path]

    def check_warnings(self) -> None:
        """No process had anything to complain of but what was done to it."""
        for path in sorted(self.stack.logs.glob("*.log")):
            for line in self.stack.log_of(path.stem):
                # The driver prints what a Postgres that shuts down says in the middle of a COPY; its process goes on.
                printed = "returned a result with an exception set" in line.get("exception", "")
                if line["level"] in ("warning", "error", "critical") and not printed:
                    said = (line["logger"], line["event"])
                    assert any(said[0] == name and said[1].startswith(words) for name, words in EXPECTED), (path, line)

    # --- the operator's side

    def meanwhile(self, strike: Callable[[Request], object], *kinds: str, at: tuple[int, ...] = (1,)) -> None:
        """Strike once while a request of these kinds is on its way, each of the times that ``at`` counts."""
        left = [(kind, number) for kind in kinds for number in at]
        choosing = threading.Lock()

        def rule(request: Request) -> None:
            with choosing:
                mine = (request.kind, request.number) in left
                if mine:
                    left.remove((request.kind, request.number))
            if mine:
                self.grow(1)
                strike(request)

        self.s3.calm()
        self.s3.rule = rule

    def attempts(self, export_id: str) -> int:
        return int(self.stack.value("SELECT attempts FROM exports WHERE id = %(id)s", id=export_id))

    def row(self, export_id: str) -> Any:
        """Return what stands in the way of an export's end."""
        (row,) = self.stack.rows(
            "SELECT state, attempts, lease_expires_at - now() AS lease_left, sent_at, not_before, events_done,"
            " holder_lives(holder_pid, holder_started) AS holder_lives, now() AS at FROM exports WHERE id = %(id)s",
            id=export_id,
        )
        return row


@pytest.fixture(scope="module")
def house(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporting]:
    server = servers.another_s3("localbucket")
    with FailingS3(server.endpoint, lists_uploads=True) as s3:
        address = S3Address(s3.endpoint, server.access_key_id, server.secret_access_key)
        with s3_client(address) as client:
            client.create_bucket(Bucket=BUCKET)
        logs = tmp_path_factory.mktemp("logs")
        with open_stack(servers, address, logs, name="exports", workers=1, settings=SETTINGS) as stack:
            built = Exporting(stack, s3)
            built.make(COLLECTION, EVENTS, EVENT_WORDS)
            built.make(LARGE_COLLECTION, LARGE_EVENTS, LARGE_EVENT_WORDS)
            yield built
    # Before what may fail: a server left behind is a second failure.
    server.stop()
    stack.check_logs()
    built.check_warnings()


@pytest.fixture
def exporting(house: Exporting) -> Iterator[Exporting]:
    house.stack.wait_ready()
    yield house
    house.s3.calm()
    for row in house.stack.rows("SELECT id FROM exports WHERE finished_at IS NULL"):
        house.stack.request("POST", f"/api/exports/{row.id}/cancel", native=True)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return re.sub(r"\W", "-", str(request.node.name))


def kill(*pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_large_export_is_written_in_little_memory(exporting: Exporting, name: str) -> None:
    (pool,) = exporting.stack.exporter().pool
    Path(f"/proc/{pool}/clear_refs").write_text("5")  # the high-water mark begins anew
    status = exporting.until(exporting.start(name, LARGE_COLLECTION), "completed")
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pool}/status").read_text())[0]) * 1024

    exporting.audit(status)
    print(f"the exporter had {peak / 1e6:.0f} MB at the most, of {LARGE_EVENTS} events in one object")
    assert peak < MOST_MEMORY, peak


@pytest.mark.parametrize("whole", [False, True], ids=["process", "worker"])
def test_a_writer_killed_at_any_instant_is_followed_by_one_that_begins_anew(
    exporting: Exporting, name: str, whole: bool
) -> None:
    stack = exporting.stack

    # Each attempt gets further than the one before it.
    ahead = [("begin", 1), ("part", 3), ("complete", 1)]
    seen: Counter[str] = Counter()
    counting = threading.Lock()

    def rule(request: Request) -> None:
        with counting:
            seen[request.kind] += 1
            mine = bool(ahead) and (request.kind, seen[request.kind]) == ahead[0]
            if mine:
                seen.clear()
                exporting.grow(1)
                worker = stack.exporter()
                kill(*([worker.main] if whole else []), *worker.pool)
                ahead.pop(0)

    exporting.s3.calm()
    exporting.s3.rule = rule
    status = exporting.until(exporting.start(name), "completed")

    assert not ahead
    assert exporting.attempts(status["id"]) == 4
    exporting.audit(status)


def test_an_emptied_redis_loses_no_export(exporting: Exporting, name: str) -> None:
    """Once while it is written, and once while its writer is dead, so that the message is gone too."""

    def strike(request: Request) -> None:
        if request.number == 4:
            kill(exporting.stack.exporter().main)
        exporting.stack.flush()

    exporting.meanwhile(strike, "part", at=(2, 4))

    exporting.audit(exporting.until(exporting.start(name), "completed"))


@pytest.mark.parametrize("kind", ["part", "complete"])
def test_a_restart_of_postgres_leaves_an_export_whole(exporting: Exporting, name: str, kind: str) -> None:
    exporting.meanwhile(lambda _: exporting.stack.servers.restart_postgres("immediate"), kind)

    status = exporting.until(exporting.start(name), "completed")

    # With nothing left to be read, the attempt that was struck may end well. So it may at the first part too, where
    # the blow takes longer than reading the rest: some 40 MB are within four parts on their way and one that is made.
    exporting.audit(status, anew=exporting.attempts(status["id"]) > 1)


def test_an_s3_that_breaks_off_every_third_part_costs_nothing_but_time(exporting: Exporting, name: str) -> None:
    exporting.s3.calm()
    exporting.s3.rule = lambda request: Trouble.CUT if request.kind == "part" and request.number % 3 == 0 else None
    status = exporting.until(exporting.start(name), "completed")

    assert len(exporting.s3.troubled) >= 2
    assert exporting.attempts(status["id"]) == 1
    exporting.audit(status)


@pytest.mark.parametrize("kind", ["part", "complete"])
def test_a_writer_that_slept_past_its_lease_is_a_stranger_when_it_wakes(
    exporting: Exporting, name: str, kind: str
) -> None:
    """The test is the other writer, as a second exporter would be: this stack has one."""
    stopped: list[int] = []
    asleep = threading.Event()

    def sleep(_: Request) -> None:
        stopped.extend(exporting.stack.exporter().pool)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        asleep.set()

    def written() -> bool:
        write_export(other, export_id)  # as often as it is sent, where it fails in passing
        return bool((exporting.poll(export_id) or {}).get("finishedAt"))

    exporting.meanwhile(sleep, kind)
    export_id = exporting.start(name)
    other = Runtime.build(Settings.from_environment(exporting.stack.service.environment), name="another-exporter")
    try:
        assert asleep.wait(LONG)
        exporting.s3.calm()
        exporting.stack.rows(
            "UPDATE exports SET lease_expires_at = now() - interval '1 s' WHERE id = %(id)s RETURNING 1", id=export_id
        )
        wait_until(written, what="the other has written it", within=LONG, pause=0.2)
        status = exporting.until(export_id, "completed")
        before = exporting.objects(export_id)
    finally:
        other.database.close()
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    # It is back at its queue: another export is written by the same process.
    again = exporting.until(exporting.start(name), "completed")

    assert exporting.objects(export_id) == before
    exporting.audit(status)
    exporting.audit(again)
    assert exporting.stack.exporter().pool == stopped


@pytest.mark.parametrize("kind", ["begin", "part", "complete"])
def test_nothing_is_left_of_a_cancelled_export(exporting: Exporting, name: str, kind: str) -> None:
    def cancel(_: Request) -> None:
        answer = exporting.stack.request("POST", f"/api/exports/{ids[0]}/cancel", native=True)
        assert answer.status == 200, answer

    ids: list[str] = []
    known = threading.Event()
    exporting.meanwhile(lambda request: known.wait(LONG) and cancel(request), kind)
    ids.append(exporting.start(name))
    known.set()
    exporting.until(ids[0], "cancelled")

    exporting.audit_absent(ids[0])


def test_an_import_beside_a_long_export_is_not_starved(exporting: Exporting, name: str) -> None:
    source = make_object(1, 5_000)
    released = threading.Event()
    # Each part is held until the import has got on by as much as the test asks for.
    turns = threading.Semaphore(1)

    def hold(request: Request) -> None:
        if request.kind == "part" and not released.is_set():
            while not turns.acquire(timeout=0.05) and not released.is_set():
                pass

    exporting.s3.calm()
    exporting.s3.rule = hold
    export_id = exporting.start(name)
    wait_until(
        lambda: (exporting.poll(export_id) or {}).get("progress", {}).get("bytesWritten"),
        what="the export is under way",
        within=LONG,
    )
    import_id = exporting.stack.start(exporting.stack.put(source.content), name)
    exporting.stack.follow(import_id, within=LONG / 2)
    before = exporting.poll(export_id)
    assert before
    assert before["status"] == "running"
    turns.release()
    wait_until(
        lambda: (exporting.poll(export_id) or before)["progress"]["bytesWritten"] > before["progress"]["bytesWritten"],
        what="the export goes on",
        within=LONG,
    )
    released.set()

    exporting.audit(exporting.until(export_id, "completed"))


def test_a_manifest_tells_of_parts_of_one_snapshot_that_hold_every_event(exporting: Exporting, name: str) -> None:
    """Its writer is killed when a part is there already, which no part of the next attempt may stand beside."""
    exporting.meanwhile(lambda _: kill(*exporting.stack.exporter().pool), "complete", at=(2,))
    status = exporting.until(exporting.start(name, partBytes=16 * 1024**2), "completed")
    manifest = json.loads(exporting.objects(status["id"])[status["manifest"]])

    assert exporting.attempts(status["id"]) == 2
    assert len(manifest["objects"]) > 2
    assert manifest["objects"] == status["objects"]
    assert manifest["events"] == exporting.events[COLLECTION]
    exporting.audit(status)
