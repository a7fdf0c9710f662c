"""Whatever befalls those who write an export, and at whatever instant: in the end it is there, whole and of one
snapshot, or nothing of it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

import boto3
import psycopg2
import pytest

from common import objects
from common.errors import Terminal, Transient
from common.ledger import exports
from common.ledger.database import Database
from common.model.exports import ExportState, ExportStatus
from common.objects import Writer
from common.settings import MIB, Settings
from deploy.local import servers as local_servers
from deploy.local.servers import Servers
from tests.conftest import BUCKET
from tests.failing_s3 import FailingS3, Trouble
from tests.stage import Stage
from tests.told import tell_ledger
from workers.exports import delivery, watch, write
from workers.exports.delivery import Delivery
from workers.exports.healing import STEPS

#: Instants: before something is written down, and before and behind what S3 is asked for. The number is which of them.
LEDGER = [
    "note_snapshot",
    "note_totals",
    "note_object",
    "note_upload",
    "note_sealing",
    "note_written",
    "complete_export",
]
S3 = ["begin", "put_part", "complete"]
INSTANTS = [
    "clear", "write",
    *LEDGER,
    *(f"{when} {what}" for what in S3 for when in ("before", "behind")),
]  # fmt: skip
#: What befalls a writer. ``killed``: it cannot even give the export back. ``overtaken``: its lease ends, and another
#: writes the export before it goes on. ``overtaken by a slow one``: the other is about to end the export by then.
BLOWS = ["killed", "stopped", "overtaken", "overtaken by a slow one", "cancelled", "cut off"]
#: Of parts and objects there are several: the first and a later one.
TURNS = [1, 2]
#: Of each kind of test the draws: one export takes 0.2 s on a quiet machine. More where somebody has the time; from 30
#: on every instant is met.
SEEDS = int(os.environ.get("FAULT_SEEDS", "3"))
EVENTS = 10


class Generation(NamedTuple):
    """What the collection held from an instant on."""

    since: datetime
    lines: frozenset[bytes]


class Blow(NamedTuple):
    """What happens, and where."""

    instant: str
    turn: int
    what: str


@pytest.fixture(scope="module")
def small_parts_s3(servers: Servers) -> Iterator[str]:
    """A moto that takes parts of any size."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(local_servers.SERVER_ENV, "S3_UPLOAD_PART_MIN_SIZE", "1")
        server = servers.another_s3("moto")
    client = boto3.client(
        "s3", endpoint_url=server.endpoint, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
    )
    client.create_bucket(Bucket=BUCKET)
    client.close()
    yield server.endpoint
    server.stop()


@pytest.fixture
def s3(small_parts_s3: str) -> Iterator[FailingS3]:
    with FailingS3(small_parts_s3) as running:
        yield running


@pytest.fixture
def stage(settings: Settings, s3: FailingS3) -> Iterator[Stage]:
    """A project whose S3 fails when it is told to; looked at past the failures."""
    built = Stage(replace(settings, chunk_bytes=8 * MIB, s3_endpoint_url=s3.endpoint, secret_days=7), BUCKET)
    built.flush_redis()
    yield built
    built.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small parts, no pauses, and a watch that looks as soon as it may."""
    monkeypatch.setattr(delivery, "PART_BYTES", 250)
    monkeypatch.setattr(delivery, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(watch, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(write, "_BLOCK", 100)
    monkeypatch.setattr(write, "delay_after", lambda _: 0.0)
    monkeypatch.setattr(objects, "_pause", lambda _: None)


@dataclass
class House:
    """What outlives an export: a collection, two writers, and somebody who changes the collection."""

    stage: Stage

    def __post_init__(self) -> None:
        self.workers = [self.stage.worker(), self.stage.worker()]
        self.changer = Database(self.stage.settings.database_url, application_name="changer")
        self.stage.run(b"{}", collection="changing")
        (row,) = self.stage.query(
            "SELECT id FROM collections WHERE project_id = %(project)s AND name = 'changing'",
            project=self.stage.caller.project_id,
        )
        self.collection_id = row.id

    def close(self) -> None:
        for database in (self.changer, *(worker.database for worker in self.workers)):
            database.close()


class World:
    """A collection that changes all the time, an export of it, and those who write it."""

    def __init__(self, house: House, **wishes: Any) -> None:
        self.stage, self.workers, self.changer = house.stage, house.workers, house.changer
        self.collection_id = house.collection_id
        self.generations: list[Generation] = []
        self._changing = threading.Lock()
        with self.changer.transaction() as tx:
            tx.run("DELETE FROM events WHERE collection_id = %(id)s", id=self.collection_id)
            tx.run(
                "INSERT INTO events SELECT 0, 0, now(), gen_random_uuid(), %(id)s, 0, false,"
                " json_build_object('n', n, 'filler', repeat('x', 60)) FROM generate_series(1, %(many)s) AS g (n)",
                id=self.collection_id,
                many=EVENTS,
            )
        self.change()
        self.id = self.stage.ask_export(collection="changing", **wishes)
        self.prefix = self.stage.export_status(self.id).spec.destination.prefix
        self.blows: list[Blow] = []
        self.struck: list[Blow] = []
        self._turns: dict[str, int] = {}
        self.losing = threading.local()
        self.killed: set[int] = set()
        self.slow: threading.Thread | None = None
        self.slow_waits, self.slow_may_go = threading.Event(), threading.Event()

    # --- the collection

    def change(self) -> None:
        """Take some events out and put others in: one snapshot of it is like no other."""
        with self._changing, self.changer.transaction() as tx:
            tx.run(
                "DELETE FROM events WHERE event_id IN (SELECT event_id FROM events WHERE collection_id = %(id)s"
                " ORDER BY event_id LIMIT %(few)s)",
                id=self.collection_id,
                few=random.Random(len(self.generations)).randint(0, 2),
            )
            tx.run(
                "INSERT INTO events SELECT 0, 0, now(), gen_random_uuid(), %(id)s, 0, false, %(payload)s::json"
                " FROM generate_series(1, 2)",
                id=self.collection_id,
                payload=json.dumps({"generation": len(self.generations), "filler": "y" * 60, "é": random.random()}),
            )
            tell_ledger(tx, "changing")
            rows = tx.all(
                "SELECT payload::text AS payload FROM events WHERE collection_id = %(id)s", id=self.collection_id
            )
        lines = frozenset(f"{number} {row.payload}".encode() for number, row in _numbered(rows))
        with self.changer.transaction() as tx:
            self.generations.append(Generation(tx.one("SELECT clock_timestamp() AS at").at, lines))

    # --- the writers

    def write(self, worker: int = 0) -> None:
        with suppress(SystemExit):
            write.write_export(self.workers[worker], self.id)
        self.look()

    def at(self, instant: str) -> None:
        """Come to an instant: the blow that was dealt for it strikes."""
        if threading.current_thread() is self.slow:
            if instant == "complete_export" and not self.slow_may_go.is_set():
                self.slow_waits.set()
                assert self.slow_may_go.wait(20)
            return
        self._turns[instant] = turn = self._turns.get(instant, 0) + 1
        for blow in [one for one in self.blows if (one.instant, one.turn) == (instant, turn)]:
            self.blows.remove(blow)
            self.struck.append(blow)
            self.change()
            self.strike(blow.what)
            self.look()

    def strike(self, what: str) -> None:  # noqa: C901, PLR0912  a list of what may happen
        match what:
            case "killed":
                self.killed.add(len(self.struck))
                raise SystemExit
            case "stopped":
                raise SystemExit
            case "overtaken":
                self.expire_lease()
                write.write_export(self.workers[1], self.id)
            case "overtaken by a slow one":
                self.expire_lease()
                self.slow = threading.Thread(target=self._write_slowly)
                self.slow.start()
                assert self.slow_waits.wait(20)
            case "cancelled":
                self.stage.export_desk.cancel_export(self.stage.caller, self.id)
            case "cut off":
                self.cut_off()
            case "lost before" | "lost behind":
                self.losing.now = what
            case "away":
                raise Transient("S3 cannot be reached at the moment.")
            case "denied":
                raise Terminal("destination_access_denied", "S3 refused access.")

    def _write_slowly(self) -> None:
        write.write_export(self.workers[1], self.id)
        self.workers[1].database.close()
        self.slow_waits.set()

    def let_go(self) -> None:
        if self.slow:
            self.slow_may_go.set()
            self.slow.join(20)
            assert not self.slow.is_alive()
            self.slow = None
            self.slow_waits.clear()
            self.slow_may_go.clear()

    def expire_lease(self) -> None:
        with self.changer.transaction() as tx:
            tx.run(
                "UPDATE exports SET lease_expires_at = now() - interval '1 second', not_before = now()"
                " WHERE id = %(id)s AND lease_expires_at IS NOT NULL",
                id=self.id,
            )

    def cut_off(self) -> None:
        with self.changer.transaction() as tx:
            tx.all(
                "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity"
                " WHERE application_name IN ('stage', 'penstock-export') AND pid <> pg_backend_pid()"
            )

    # --- what there is

    def look(self) -> None:
        """Whatever stands under the final name is whole, and at all times of one snapshot."""
        status = self.stage.export_status(self.id)
        if status.spec.part_bytes is None:
            for body in self.stage_found().values():
                assert any(lines_of(body) == one.lines for one in self.generations), "an object that is not whole"
        if status.bytes_total is not None:
            assert status.bytes_done <= status.bytes_total
        if status.events_total is not None:
            assert status.events_done <= status.events_total

    def stage_found(self) -> dict[str, bytes]:
        return self.stage.found(self.prefix)

    def heal(self) -> ExportStatus:
        """Let the time pass, the sweep sweep, and the writers write, until nothing is left to be done."""
        self.let_go()
        self.blows.clear()
        for _ in range(8):
            with self.changer.transaction() as tx:
                tx.run(
                    "UPDATE exports SET sent_at = now() - interval '1 day', not_before = now(),"
                    " lease_expires_at = CASE WHEN lease_expires_at IS NOT NULL THEN now() - interval '1 s' END,"
                    " clean_at = CASE WHEN clean_at IS NOT NULL THEN now() END WHERE id = %(id)s",
                    id=self.id,
                )
            for step in STEPS:
                step(self.workers[0])
            sent, self.stage.sent.exports[:] = [*self.stage.sent.exports], []
            for _ in {one for one in sent if one == self.id}:
                self.write()
            status = self.stage.export_status(self.id)
            (row,) = self.stage.query("SELECT clean_at FROM exports WHERE id = %(id)s", id=self.id)
            if status.state.ended and row.clean_at is None:
                break
        return status

    def check(self) -> ExportStatus:
        """Heal, and hold what is there against what was."""
        status = self.heal()
        story = f"after {self.struck}: {status.state}, {status.error}"
        assert status.state.ended, story
        found = self.stage_found()
        assert self.stage.uploads_begun(self.prefix) == [], story
        assert not self.stage.query("SELECT 1 FROM export_secrets WHERE export_id = %(id)s", id=self.id), story
        assert not self.stage.query("SELECT 1 FROM exports WHERE id = %(id)s AND clean_at IS NOT NULL", id=self.id)
        if status.state is ExportState.COMPLETED:
            self._check_whole(status, found, story)
        else:
            assert found == {}, story
        return status

    def _check_whole(self, status: ExportStatus, found: dict[str, bytes], story: str) -> None:
        assert status.snapshot_at, story
        snapshot = [one for one in self.generations if one.since <= status.snapshot_at][-1]
        told = [status.manifest] if status.manifest else []
        assert sorted(found) == sorted(
            key.removeprefix(self.prefix) for key in [*told, *(one.key for one in status.objects)]
        ), story
        bodies = [found[one.key.removeprefix(self.prefix)] for one in status.objects]
        assert lines_of(b"".join(bodies)) == snapshot.lines, f"{story}: not one snapshot"
        assert [(one.events, one.size, one.sha256) for one in status.objects] == [
            (body.count(b"\n"), len(body), hashlib.sha256(body).hexdigest()) for body in bodies
        ], story
        assert status.bytes_total == status.bytes_done == sum(map(len, bodies)), story
        assert status.events_total == status.events_done == len(snapshot.lines), story
        if status.spec.part_bytes:
            manifest = json.loads(found[f"{status.id}.manifest.json"])
            assert [one["sha256"] for one in manifest["objects"]] == [one.sha256 for one in status.objects], story
            assert datetime.fromisoformat(manifest["snapshotAt"]) == status.snapshot_at, story


def _numbered(rows: list[Any]) -> Iterator[tuple[int, Any]]:
    """Number equal payloads, so that two of them are two members of a set."""
    seen: dict[str, int] = {}
    for row in rows:
        seen[row.payload] = seen.get(row.payload, 0) + 1
        yield seen[row.payload], row


def lines_of(body: bytes) -> frozenset[bytes]:
    """Return the lines of an object; equal ones are numbered as above."""
    assert not body or body.endswith(b"\n"), "a line is cut"
    seen: dict[bytes, int] = {}
    lines = set()
    for line in body.split(b"\n")[:-1]:
        seen[line] = seen.get(line, 0) + 1
        lines.add(b"%d %b" % (seen[line], line))
    return frozenset(lines)


class Losing:
    """A connection that breaks at COMMIT where that is its fate."""

    def __init__(self, real: Any, world: World) -> None:
        self._real, self._world = real, world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def commit(self) -> None:
        losing, self._world.losing.now = getattr(self._world.losing, "now", None), None
        if losing != "lost before":
            self._real.commit()
        if losing:
            self._real.close()
            raise psycopg2.OperationalError("server closed the connection unexpectedly")


@pytest.fixture
def make_world(  # noqa: C901  one patch after another
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., World]]:
    """Make worlds whose instants are watched; one at a time."""
    worlds: list[World] = []

    def before(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def struck(*given: Any, **named: Any) -> Any:
            worlds[-1].at(name.strip("_"))
            return real(*given, **named)

        monkeypatch.setattr(owner, name, struck)

    def around(name: str) -> None:
        real = getattr(Writer, name)

        def struck(*given: Any, **named: Any) -> Any:
            worlds[-1].at(f"before {name}")
            answer = real(*given, **named)
            worlds[-1].at(f"behind {name}")
            return answer

        monkeypatch.setattr(Writer, name, struck)

    release, note_totals = write._release, exports.note_totals

    def releasing(*given: Any, **named: Any) -> None:
        if len(worlds[-1].struck) not in worlds[-1].killed:
            release(*given, **named)

    def noting_totals(*given: Any) -> bool:
        worlds[-1].change()  # counted, and not read yet
        return note_totals(*given)

    monkeypatch.setattr(write, "_release", releasing)
    monkeypatch.setattr(exports, "note_totals", noting_totals)
    before(write, "_clear")
    before(Delivery, "write")
    for name in LEDGER:
        before(exports, name)
    for name in S3:
        around(name)
    house, connect = House(stage), Database._connection
    monkeypatch.setattr(
        Database, "_connection", lambda database: Losing(connect(database), worlds[-1]) if worlds else connect(database)
    )

    def make(**wishes: Any) -> World:
        for world in worlds:
            world.let_go()
        worlds.append(World(house, **wishes))
        return worlds[-1]

    yield make
    for world in worlds:
        world.let_go()
    house.close()


WISHES = pytest.mark.parametrize("wishes", [{}, {"part_bytes": 450}], ids=["one object", "parts"])


def drawn(what: str, instants: list[str]) -> list[Blow]:
    """Draw some of the instants, the same at each run."""
    blows = [Blow(instant, turn, what) for instant in instants for turn in TURNS]
    return random.Random(what).sample(blows, min(SEEDS, len(blows)))


@WISHES
@pytest.mark.parametrize("what", BLOWS)
def test_a_blow_at_any_instant_leaves_all_of_one_snapshot_or_nothing(
    make_world: Callable[..., World], what: str, wishes: dict[str, Any]
) -> None:
    for blow in drawn(what, INSTANTS):
        world = make_world(**wishes)
        world.blows.append(blow)
        world.write()
        status = world.check()

        assert status.state is not ExportState.FAILED, (blow, status.error)
        if not world.struck:
            continue
        if what == "cancelled":
            assert status.state is ExportState.CANCELLED
        else:
            assert status.state is ExportState.COMPLETED, blow


@WISHES
@pytest.mark.parametrize("what", ["lost before", "lost behind"])
def test_an_unknown_commit_leaves_all_of_one_snapshot(
    make_world: Callable[..., World], what: str, wishes: dict[str, Any]
) -> None:
    for blow in drawn(what, LEDGER):
        world = make_world(**wishes)
        world.blows.append(blow)
        world.write()

        assert world.check().state is ExportState.COMPLETED, blow


#: What S3 is asked for, and how it may go wrong. Of what may be asked again, five times are all there are.
TROUBLES: list[int | Trouble] = [500, 503, 403, Trouble.CUT, Trouble.LOST, Trouble.DENIED_LATE]


@WISHES
@pytest.mark.parametrize("trouble", TROUBLES)
def test_an_s3_that_fails_anywhere_leaves_all_of_one_snapshot_or_nothing(
    make_world: Callable[..., World], s3: FailingS3, trouble: int | Trouble, wishes: dict[str, Any]
) -> None:
    for kind in ("begin", "part", "complete"):
        for first, times in random.Random(f"{trouble}{kind}").sample([(1, 1), (2, 1), (1, 5)], min(SEEDS - 2, 3)):
            s3.calm()
            world = make_world(**wishes)
            s3.rule = lambda asked, span=range(first, first + times), kind=kind: (
                trouble if asked.kind == kind and asked.number in span else None
            )
            world.write()
            status = world.check()

            refused = trouble == 403 and s3.troubled
            expected = ExportState.FAILED if refused else ExportState.COMPLETED
            assert status.state is expected, (kind, first, times, status.error)


@pytest.mark.parametrize("kind", ["abort", "DELETE", "uploads"])
@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_cannot_be_taken_back_at_once_is_taken_back_later(
    make_world: Callable[..., World], s3: FailingS3, trouble: int | Trouble, kind: str
) -> None:
    for instant in ("begin", "complete"):
        s3.calm()
        world = make_world(part_bytes=450)
        s3.rule = lambda asked: trouble if asked.kind == kind and asked.number <= 2 else None
        world.blows += [Blow(f"behind {instant}", 2, "cancelled")]
        world.write()
        world.heal()
        s3.calm()  # the test looks through it too

        assert world.check().state is ExportState.CANCELLED


@WISHES
@pytest.mark.parametrize("seed", range(SEEDS))
def test_blow_upon_blow_leaves_all_of_one_snapshot_or_nothing(
    make_world: Callable[..., World], seed: int, wishes: dict[str, Any]
) -> None:
    chance = random.Random(seed)
    world = make_world(**wishes)
    kinds = [what for what in BLOWS if what != "cancelled"] + ["lost before", "lost behind", "away"]
    for _ in range(6):
        what = chance.choice(kinds)
        places = {"lost before": LEDGER, "lost behind": LEDGER, "away": [one for one in INSTANTS if " " in one]}
        world.blows.append(Blow(chance.choice(places.get(what, INSTANTS)), chance.randint(1, 9), what))
    for _ in range(6):
        world.let_go()
        world.expire_lease()
        world.write(chance.randint(0, 1))

    assert world.check().state is ExportState.COMPLETED


@pytest.mark.parametrize("wishes", [{}, {"part_bytes": 450}], ids=["one object", "parts"])
def test_an_object_in_the_place_of_an_earlier_attempts_stays_when_that_is_cleaned_up_after(
    make_world: Callable[..., World], s3: FailingS3, wishes: dict[str, Any]
) -> None:
    """The first upload cannot be broken off in the attempt after it, so that there is something to be cleaned up."""
    world = make_world(**wishes)
    world.blows.append(Blow("behind complete", 1, "killed"))
    world.write()
    # Refused for ever would fail the second attempt of parts, which must not stand beside others'.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Writer, "break_off", lambda *_: False)
        world.write()

    assert world.check().state is ExportState.COMPLETED


def test_an_export_of_too_many_events_fails_before_s3_hears_of_it(
    make_world: Callable[..., World], s3: FailingS3
) -> None:
    # Every world begins alike. It changes after the count too, which is none of the export's business.
    held = len(make_world().generations[-1].lines)
    for most, state in ((held, ExportState.COMPLETED), (held - 1, ExportState.FAILED)):
        s3.calm()
        asked: list[str] = []
        s3.rule = lambda request, asked=asked: asked.append(request.kind)
        world = make_world(most_events=most)
        world.write()
        status = world.check()

        assert status.state is state, status.error
        if state is ExportState.FAILED:
            assert status.error
            assert status.error.code == "too_many_events"
            assert "begin" not in asked
