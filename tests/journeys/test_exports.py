"""Exports on the real stack: whoever is killed, stopped or away meanwhile, the object is right or absent."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.runtime import Runtime
from common.settings import Settings
from deploy.local.servers import Servers
from tests.failing_s3 import FailingS3, Request, Trouble
from tests.journeys.oracle import make_object
from tests.journeys.stack import BUCKET, S3Address, Stack, open_stack, s3_client, wait_until
from workers.exports.write import write_export

#: Some 60 MB: eight parts of an upload.
EVENTS = 300_000
COLLECTION = "exported"
#: P10: of the process that writes, with its code (some 100 MB) and four parts of 8 MiB.
MOST_MEMORY = 200 * 1024**2

_FILL = """
INSERT INTO events (import_number, byte_offset, time, event_id, collection_id, source_ordinal, odd, payload)
SELECT 0, n, now(), gen_random_uuid(), c.id, 0, false,
       ('{"n":' || n || ',"price":25.00,"text":"' || repeat(md5(n::text), 5) || '"}')::json
FROM generate_series(%(first)s, %(last)s) AS g (n), collections AS c
WHERE c.name = %(name)s
"""


class Exporting:
    """A stack, the S3 in front of it that fails when told to, and a large collection that grows at each blow."""

    def __init__(self, stack: Stack, s3: FailingS3, folder: Path) -> None:
        self.stack, self.s3, self.folder = stack, s3, folder
        self.events = 0
        #: What every poll of the export has shown.
        self.seen: list[dict[str, Any]] = []

    def grow(self, count: int) -> None:
        with self.stack.database.transaction() as tx:
            tx.run(_FILL, first=self.events + 1, last=self.events + count, name=COLLECTION)
        self.events += count

    # --- the caller's side

    def start(self, name: str, **wishes: Any) -> str:
        self.seen.clear()
        keys = {"accessKeyId": self.stack.key_id, "secretAccessKey": self.stack.canary}
        body = {"collection": COLLECTION, "destination": {"url": f"s3://{BUCKET}/{name}/", **keys}, **wishes}
        answer = self.stack.request("POST", "/api/exports", body, native=True)
        assert answer.status == 201, answer
        return str(answer.body["id"])

    def poll(self, export_id: str) -> dict[str, Any] | None:
        """Return the status, None where the API cannot answer at the moment; what it shows has to be true."""
        answer = self.stack.request("GET", f"/api/exports/{export_id}", native=True)
        if answer.status in (0, 502, 503):
            return None
        assert answer.status == 200, answer
        self.seen.append(answer.body)
        return dict(answer.body)

    def until(self, export_id: str, *states: str, within: float = 40.0) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            status = self.poll(export_id)
            return status if status and status["status"] in states else None

        status = wait_until(ended, what=f"export {export_id} is {states}", within=within)
        self.check_truth()
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
        """Return all that is in the bucket of an export."""
        with s3_client(S3Address(self.s3.upstream.geturl(), "a", "b")) as client:
            listed = client.list_objects_v2(Bucket=BUCKET)
            keys = [one["Key"] for one in listed.get("Contents", []) if export_id in one["Key"]]
            return {key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}

    def audit(self, status: dict[str, Any], *, anew: bool = True) -> None:
        """Hold the object against the collection, event by event; ``anew``: as it was after the last blow."""
        (written,) = status["objects"]
        found = self.objects(status["id"])
        assert [*found] == [written["key"]]
        body = found[written["key"]]
        assert hashlib.sha256(body).hexdigest() == written["sha256"]
        assert len(body) == written["bytes"] == status["progress"]["bytesTotal"] == status["progress"]["bytesWritten"]
        # The collection grows by one event at each blow: all of an attempt that began after the last one has them all.
        numbers = sorted(int(number) for number in re.findall(rb'(?m)^\{"n":(\d+),', body))
        assert numbers == list(range(1, numbers[-1] + 1))
        assert numbers[-1] == self.events or not anew
        payloads = self.stack.rows(
            "SELECT md5(string_agg(md5(payload::text), '' ORDER BY byte_offset)) FROM events AS e"
            " JOIN collections AS c ON c.id = e.collection_id WHERE c.name = %(name)s AND byte_offset <= %(last)s",
            name=COLLECTION,
            last=numbers[-1],
        )
        lines = sorted(body.split(b"\n")[:-1], key=lambda line: int(line[5 : line.index(b",")]))
        digests = "".join(hashlib.md5(line).hexdigest() for line in lines)
        assert hashlib.md5(digests.encode()).hexdigest() == payloads[0][0]

    def uploads_left(self) -> list[str]:
        """Return uploads that were begun and neither completed nor broken off: localbucket lists them to nobody."""
        return [path.name for path in (self.folder / "s3" / ".localbucket-uploads").glob("*")]

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

    def tokens(self, export_id: str) -> int:
        """Return the number of the lease, which every claim makes larger."""
        return int(self.stack.value("SELECT lease_token FROM exports WHERE id = %(id)s", id=export_id))


@pytest.fixture(scope="module")
def house(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporting]:
    server = servers.another_s3("localbucket")
    with FailingS3(server.endpoint) as s3:
        address = S3Address(s3.endpoint, server.access_key_id, server.secret_access_key)
        with s3_client(address) as client:
            client.create_bucket(Bucket=BUCKET)
        with open_stack(servers, address, tmp_path_factory.mktemp("logs"), name="exports", workers=1) as stack:
            first = stack.start_native(stack.put(b"{}\n"), COLLECTION)
            wait_until(lambda: stack.status(first)["status"] == "completed", what="the collection is there")
            stack.rows("DELETE FROM events RETURNING 1")
            built = Exporting(stack, s3, server._folder)
            built.grow(EVENTS)
            yield built
        stack.check_logs()
    server.stop()


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
        os.kill(pid, signal.SIGKILL)


def test_a_large_export_is_written_in_little_memory(exporting: Exporting, name: str) -> None:
    (pool,) = exporting.stack.exporter().pool
    Path(f"/proc/{pool}/clear_refs").write_text("5")  # the high-water mark begins anew
    status = exporting.until(exporting.start(name), "completed")
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pool}/status").read_text())[0]) * 1024

    exporting.audit(status)
    assert peak < MOST_MEMORY, peak


@pytest.mark.parametrize("whole", [False, True], ids=["process", "worker"])
def test_a_writer_killed_at_any_instant_is_followed_by_one_that_begins_anew(
    exporting: Exporting, name: str, whole: bool
) -> None:
    stack = exporting.stack

    def strike(_: Request) -> None:
        worker = stack.exporter()
        kill(*([worker.main] if whole else []), *worker.pool)

    # Each attempt gets further than the one before it.
    ahead = [("begin", 1), ("part", 3), ("complete", 1)]

    def rule(request: Request) -> None:
        seen[request.kind] = seen.get(request.kind, 0) + 1
        if ahead and seen.get(ahead[0][0], 0) >= ahead[0][1] and request.kind == ahead[0][0]:
            ahead.pop(0)
            seen.clear()
            exporting.grow(1)
            strike(request)

    seen: dict[str, int] = {}
    exporting.s3.calm()
    exporting.s3.rule = rule
    status = exporting.until(exporting.start(name), "completed", within=60)

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

    exporting.audit(exporting.until(exporting.start(name), "completed", within=60))


@pytest.mark.parametrize("kind", ["part", "complete"])
def test_a_restart_of_postgres_leaves_an_export_whole(exporting: Exporting, name: str, kind: str) -> None:
    exporting.meanwhile(lambda _: exporting.stack.servers.restart_postgres("immediate"), kind)

    # With nothing left to be read, the attempt that was struck may end well.
    exporting.audit(exporting.until(exporting.start(name), "completed", within=60), anew=kind == "part")


def test_an_s3_that_breaks_off_every_third_part_costs_nothing_but_time(exporting: Exporting, name: str) -> None:
    exporting.s3.calm()
    exporting.s3.rule = lambda request: Trouble.CUT if request.kind == "part" and request.number % 3 == 0 else None
    status = exporting.until(exporting.start(name), "completed")

    assert len(exporting.s3.troubled) >= 3
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

    exporting.meanwhile(sleep, kind)
    export_id = exporting.start(name)
    assert asleep.wait(30)
    other = Runtime.build(Settings.from_environment(exporting.stack.service.environment), name="another-exporter")
    try:
        wait_until(
            lambda: exporting.stack.rows(
                "SELECT 1 FROM exports WHERE id = %(id)s AND lease_expires_at < now()", id=export_id
            ),
            what="the sleeper's lease has ended",
        )
        exporting.s3.calm()
        write_export(other, export_id)
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
    exporting.meanwhile(lambda request: known.wait(10) and cancel(request), kind)
    ids.append(exporting.start(name))
    known.set()
    exporting.until(ids[0], "cancelled")
    unclean = "SELECT 1 FROM exports WHERE id = %(id)s AND clean_at IS NOT NULL"
    wait_until(lambda: not exporting.stack.rows(unclean, id=ids[0]), what="it is cleaned up after")

    assert exporting.objects(ids[0]) == {}
    assert not exporting.stack.rows("SELECT 1 FROM export_secrets WHERE export_id = %(id)s", id=ids[0])
    assert exporting.uploads_left() == []


def test_an_import_beside_a_long_export_is_not_starved(exporting: Exporting, name: str) -> None:
    source = make_object(71, 5_000)
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
    )
    import_id = exporting.stack.start(exporting.stack.put(source.content), name)
    exporting.stack.follow(import_id)
    before = exporting.poll(export_id)
    assert before
    assert before["status"] == "running"
    turns.release()
    wait_until(
        lambda: (exporting.poll(export_id) or before)["progress"]["bytesWritten"] > before["progress"]["bytesWritten"],
        what="the export goes on",
    )
    released.set()

    exporting.audit(exporting.until(export_id, "completed"))


def test_json_of_a_manifest_tells_of_parts_that_hold_every_event(exporting: Exporting, name: str) -> None:
    status = exporting.until(exporting.start(name, partBytes=16 * 1024**2, compression="gzip"), "completed")
    found = exporting.objects(status["id"])
    manifest = json.loads(found[status["manifest"]])

    assert sorted(found) == sorted([status["manifest"], *(one["key"] for one in manifest["objects"])])
    assert manifest["events"] == exporting.events
