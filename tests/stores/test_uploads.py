"""A body sent to us: noted before its first byte, an object like any other behind its last, and nothing in between."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import boto3
import pytest

from api import uploads as taking_in
from api.replies import Started
from api.uploads import PART
from common import objects
from common.errors import PenstockError, Refusal, Transient
from common.ledger import imports, leases, uploads
from common.ledger.database import CommitUnknown, Tx
from common.model.chunks import Counts
from common.model.formats import Compression, Format
from common.model.imports import Credentials, ImportSpec, ImportState, ImportStatus
from common.model.mapping import Mapping
from common.model.sources import SourceRef
from common.model.uploads import BODY, Upload, spooled
from common.objects import Spool
from deploy.local.servers import Servers
from tests.conftest import SPOOL
from tests.stage import Stage, event, ndjson
from workers.imports.load import load_chunk
from workers.imports.plan import plan_import
from workers.sweep import _is_deleted, sweep

SPEC = ImportSpec("events", BODY, Mapping())
LINES = ndjson(event("a"), event("a"), b"{bad", event(None))
REQUEST = "POST /somewhere?collection=events"


@dataclass
class Sent:
    """A body in pieces; ``at`` is done before the piece of that number."""

    pieces: Sequence[bytes] = (LINES[:100], LINES[100:])
    at: int = -1
    do: Callable[[], object] = lambda: None
    length: int | None = None
    read_pieces: int = 0

    def read(self) -> bytes:
        if self.read_pieces == self.at:
            self.do()
        self.read_pieces += 1
        return self.pieces[self.read_pieces - 1] if self.read_pieces <= len(self.pieces) else b""


def send(
    stage: Stage, body: Sent | None = None, *, key: str | None = None, spec: ImportSpec = SPEC
) -> Started[ImportStatus]:
    return stage.desk.start_upload(stage.caller, spec, body or Sent(), request=REQUEST, idempotency_key=key)


def raising(error: BaseException) -> Callable[[], None]:
    def do() -> None:
        raise error

    return do


BROKEN = Refusal("malformed_body", "It broke off.")


def only_import(stage: Stage) -> str:
    """Return the id of the project's one import."""
    (status,) = stage.desk.list_imports(stage.caller).items
    return status.id


def rows_left(stage: Stage) -> list[Any]:
    return stage.query(
        "SELECT u.* FROM uploads AS u JOIN imports AS i ON i.id = u.import_id WHERE i.project_id = %(id)s",
        id=stage.caller.project_id,
    )


def left(stage: Stage) -> list[str]:
    """Return what lies in the spool bucket: objects, and uploads that nobody completed."""
    found = stage.s3.list_objects_v2(Bucket=SPOOL).get("Contents", ())
    begun = stage.s3.list_multipart_uploads(Bucket=SPOOL).get("Uploads", ())
    return [one["Key"] for one in (*found, *begun)]


def pass_time(stage: Stage, *, seconds: float = 3600) -> None:
    """Make every body look as silent as that, and due to be deleted."""
    with stage.runtime.database.transaction() as tx:
        tx.run(
            "UPDATE uploads SET touched_at = touched_at - make_interval(secs => %(seconds)s), delete_after = now()",
            seconds=seconds,
        )


def finish(stage: Stage, import_id: str) -> None:
    plan_import(stage.runtime, import_id)
    for chunk_id in stage.chunk_ids(import_id):
        load_chunk(stage.runtime, chunk_id)


@pytest.fixture(autouse=True)
def _only_ours(stage: Stage) -> None:
    """Delete what other tests left: the sweep looks at everything."""
    with stage.runtime.database.transaction() as tx:
        tx.run("DELETE FROM uploads")
        tx.run(
            "UPDATE imports SET state = 'cancelled', finished_at = now()"
            " WHERE state IN ('pending', 'planning', 'running')"
        )
    for one in stage.s3.list_objects_v2(Bucket=SPOOL).get("Contents", ()):
        stage.s3.delete_object(Bucket=SPOOL, Key=one["Key"])
    for one in stage.s3.list_multipart_uploads(Bucket=SPOOL).get("Uploads", ()):
        stage.s3.abort_multipart_upload(Bucket=SPOOL, Key=one["Key"], UploadId=one["UploadId"])


# --- the whole way


def test_a_body_becomes_an_object_that_is_imported_like_any_other_and_then_deleted(stage: Stage) -> None:
    started = send(stage)
    assert (started.status.state, stage.sent.plans) == (ImportState.PENDING, [started.status.id])
    assert left(stage) == [f"uploads/{started.status.id}"]
    finish(stage, started.status.id)

    ended = stage.status(started.status.id)
    assert ended.state is ImportState.COMPLETED_WITH_ERRORS
    assert (ended.progress.counts.imported, ended.progress.counts.duplicates, ended.progress.counts.rejected) == (
        2,
        1,
        1,
    )
    assert b"".join(row.payload + b"\n" for row in stage.rows()) in LINES.replace(b"{bad\n", b"").replace(
        ndjson(event("a")) * 2, ndjson(event("a"))
    )
    sweep(stage.runtime)
    assert (left(stage), rows_left(stage)) == ([], [])


@pytest.mark.parametrize("pieces", [(), (b"\n",), (LINES,), (b"x" * 65536,) * 200])
def test_the_object_is_the_body_byte_for_byte_in_parts_that_s3_takes(stage: Stage, pieces: Sequence[bytes]) -> None:
    """The last of them is larger than a part; the first has no byte at all."""
    started = send(stage, Sent(pieces))

    stored = stage.s3.get_object(Bucket=SPOOL, Key=f"uploads/{started.status.id}")["Body"].read()
    assert stored == b"".join(pieces)
    assert len(b"x" * 65536 * 200) > PART


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ((), {}),
        ((), {"compression": Compression.GZIP}),
        ((), {"compression": Compression.ZSTD}),
        ((), {"format": Format.NDJSON, "compression": Compression.NONE}),
        ((), {"format": Format.CSV}),
        ((), {"format": Format.JSON}),
        ((gzip.compress(b""),), {}),
        ((gzip.compress(b""),), {"format": Format.NDJSON, "compression": Compression.GZIP}),
        ((b"\n",), {}),
    ],
)
def test_an_empty_body_is_an_import_of_nothing(stage: Stage, pieces: Sequence[bytes], said: dict[str, Any]) -> None:
    """Whatever the request says of it."""
    started = send(stage, Sent(pieces), spec=replace(SPEC, **said))
    plan_import(stage.runtime, started.status.id)
    stage.load_all(started.status.id)

    ended = stage.status(started.status.id)
    blank = pieces == (b"\n",)
    assert (ended.state, ended.progress.counts, ended.percent) == (
        ImportState.COMPLETED,
        Counts(lines=blank, blank=blank),
        100.0,
    )


def test_what_the_request_says_of_the_bytes_is_kept_for_the_plan(stage: Stage) -> None:
    ids = [send(stage).status.id, send(stage, spec=replace(SPEC, format=Format.CSV)).status.id]
    ids.append(send(stage, spec=replace(SPEC, compression=Compression.GZIP)).status.id)
    found = [tuple(*stage.query("SELECT format, compression FROM imports WHERE id = %(id)s", id=one)) for one in ids]
    assert found == [("auto", "auto"), ("csv", "auto"), ("auto", "gzip")]


# --- before the first byte


def test_the_row_the_slot_and_the_upload_id_are_there_before_the_first_byte_is_read(stage: Stage) -> None:
    seen: list[Any] = []

    def look() -> None:
        (row,) = rows_left(stage)
        status = stage.status(only_import(stage))
        seen.extend(
            [
                status.state,
                row.done_at,
                [u["UploadId"] for u in stage.s3.list_multipart_uploads(Bucket=SPOOL)["Uploads"]] == [row.upload_id],
            ]
        )

    send(stage, Sent(at=0, do=look))

    assert seen == [ImportState.PENDING, None, True]


def test_what_is_refused_is_refused_before_a_byte_is_read_and_leaves_nothing(stage: Stage) -> None:
    body = Sent(at=0, do=raising(AssertionError("a byte was read")))
    for settings, code in (
        ({"import_limit": 0}, "too_many_active_imports"),
        ({"spool_bucket": ""}, "uploads_unavailable"),
        ({"upload_limit": 0}, "too_many_uploads"),
    ):
        stage.runtime = stage.worker(**settings)
        with pytest.raises(Refusal) as refused:
            send(stage, body, key="once")
        assert refused.value.code == code
    stage.runtime = stage.worker(max_body_bytes=10)
    with pytest.raises(Refusal) as refused:
        send(stage, replace(body, length=11))
    assert refused.value.code == "body_too_large"

    stage.runtime = stage.worker()
    assert (left(stage), rows_left(stage), stage.desk.list_imports(stage.caller).items) == ([], [], [])
    assert not send(stage, key="once").replayed, "a refusal was remembered"


def test_a_caller_who_may_not_import_may_send_no_body_either(stage: Stage) -> None:
    stage.caller = replace(stage.caller, scopes=frozenset({"query"}))
    with pytest.raises(Refusal) as refused:
        send(stage, Sent(at=0, do=raising(AssertionError("a byte was read"))))
    assert refused.value.code == "forbidden"


def test_an_import_that_waits_for_its_body_is_nobodys_work(stage: Stage) -> None:
    def look() -> None:
        import_id = only_import(stage)
        plan_import(stage.runtime, import_id)
        stage.query(
            "UPDATE imports SET sent_at = now() - interval '1 hour' WHERE id = %(id)s RETURNING 1", id=import_id
        )
        sweep(stage.runtime)
        with stage.runtime.database.transaction() as tx:
            assert leases.count_due(tx, window=3, long=False) == 0
            assert not leases.is_work_waiting(tx, window=3, long=False)
        assert (stage.status(import_id).state, stage.sent.plans) == (ImportState.PENDING, [])

    started = send(stage, Sent(at=1, do=look))
    with stage.runtime.database.transaction() as tx:
        assert leases.is_work_waiting(tx, window=3, long=False)

    finish(stage, started.status.id)
    assert stage.status(started.status.id).progress.counts.lines == 4


def test_no_more_bodies_are_read_at_a_time_than_there_are_places(stage: Stage) -> None:
    stage.runtime = stage.worker(upload_limit=1)
    inner: list[PenstockError] = []

    def send_another() -> None:
        with pytest.raises(Refusal) as refused:
            send(stage)
        inner.append(refused.value)

    send(stage, Sent(at=1, do=send_another))

    assert [error.code for error in inner] == ["too_many_uploads"]
    assert send(stage), "the place was not given back"


# --- bodies that break


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BROKEN, "upload_broken"),
        (Refusal("body_too_slow", "Too slow."), "upload_broken"),
        (Transient("Away."), "upload_broken"),
        (ZeroDivisionError("ours"), "upload_broken"),
    ],
)
def test_a_body_that_breaks_off_fails_its_import_at_once_and_leaves_nothing(
    stage: Stage, error: Exception, code: str
) -> None:
    with pytest.raises(type(error)):
        send(stage, Sent((b"x" * PART, b"y"), at=1, do=raising(error)), key="once")
    status = stage.status(only_import(stage))
    assert status.error
    assert (status.state, status.error.code, stage.sent.plans) == (ImportState.FAILED, code, [])
    assert "ours" not in status.error.message

    sweep(stage.runtime)
    assert left(stage) == []
    pass_time(stage, seconds=0)
    sweep(stage.runtime)
    assert rows_left(stage) == []


def test_a_body_that_broke_off_may_be_sent_again_at_once(stage: Stage) -> None:
    with pytest.raises(Refusal):
        send(stage, Sent(at=1, do=raising(BROKEN)), key="once")
    assert not send(stage, key="once").replayed


def test_a_body_above_the_limit_is_refused_when_it_passes_it(stage: Stage) -> None:
    stage.runtime = stage.worker(max_body_bytes=100)
    body = Sent((b"x" * 60,) * 10)
    with pytest.raises(Refusal) as refused:
        send(stage, body)

    status = stage.status(only_import(stage))
    assert status.error
    assert (refused.value.code, status.error.code, body.read_pieces) == ("body_too_large", "body_too_large", 2)
    send(stage, Sent((b"x" * 60, b"y" * 40)))


def test_an_s3_that_fails_fails_the_import_and_tells_nothing_of_the_bucket(stage: Stage) -> None:
    def fail() -> None:
        raise Transient(objects._NOT_SPOOLED, "SECRETBUCKET")

    with pytest.raises(Transient) as failed:
        send(stage, Sent(at=1, do=fail))
    status = stage.status(only_import(stage))
    assert status.error
    assert "SECRETBUCKET" not in status.error.message + failed.value.public


def test_a_spool_bucket_that_is_not_there_is_no_mistake_of_the_caller(stage: Stage) -> None:
    stage.runtime = stage.worker(spool_bucket="nowhere")
    with pytest.raises(Transient) as failed:
        send(stage)
    assert "nowhere" not in failed.value.public
    assert stage.status(only_import(stage)).state is ImportState.FAILED


# --- processes that die, and ones that come back late


@pytest.mark.parametrize("dies", ["before it begins", "before it writes the id down", "in the middle", "at the end"])
def test_what_a_killed_process_left_is_ended_and_deleted_by_the_sweep(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    class Killed(BaseException):
        """No Exception: nobody cleans up behind it."""

    def die(*_: object, **__: object) -> None:
        raise Killed

    body = Sent((b"x" * PART, b"y"))
    if dies == "before it begins":
        monkeypatch.setattr(Spool, "begin", die)
    elif dies == "before it writes the id down":
        monkeypatch.setattr(uploads, "note_upload_id", die)
    elif dies == "in the middle":
        body = replace(body, at=1, do=die)
    else:
        monkeypatch.setattr(uploads, "note_body_done", die)
    with pytest.raises(Killed):
        send(stage, body, key="once")
    monkeypatch.undo()
    import_id = only_import(stage)
    sweep(stage.runtime)
    assert stage.status(import_id).state is ImportState.PENDING, "ended too soon"
    with pytest.raises(Refusal) as refused:
        send(stage, key="once")
    assert refused.value.code == "request_under_way"

    pass_time(stage, seconds=61)
    sweep(stage.runtime)
    status = stage.status(import_id)
    assert status.error
    assert (status.state, status.error.code) == (ImportState.FAILED, "upload_broken")
    assert left(stage) == []
    pass_time(stage)
    sweep(stage.runtime)
    assert rows_left(stage) == []
    assert not send(stage, key="once").replayed, "a broken upload was remembered"


def test_a_body_cancelled_after_its_process_was_killed_leaves_its_key_free(stage: Stage) -> None:
    class Killed(BaseException):
        pass

    with pytest.raises(Killed):
        send(stage, Sent(at=1, do=raising(Killed())), key="once")
    stage.desk.cancel_import(stage.caller, only_import(stage))
    for _ in range(2):
        pass_time(stage, seconds=0)
        sweep(stage.runtime)
    assert rows_left(stage) == []
    assert not send(stage, key="once").replayed


def test_an_upload_that_begins_when_everybody_has_forgotten_it_is_broken_off_by_whoever_began_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Spool.begin

    def begin_late(self: Spool, ref: SourceRef) -> str:
        for _ in range(2):
            pass_time(stage)
            sweep(stage.runtime)
        assert rows_left(stage) == []
        return begin(self, ref)

    monkeypatch.setattr(Spool, "begin", begin_late)
    with pytest.raises(Refusal) as refused:
        send(stage, Sent(at=0, do=raising(AssertionError("a byte was read"))))
    assert (refused.value.code, left(stage)) == ("import_ended", [])


def test_an_upload_that_begins_when_its_import_has_just_ended_is_known_to_the_sweep(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking_in, "_NOTE_SECONDS", 0)
    begin = Spool.begin

    def begin_after_the_end(self: Spool, ref: SourceRef) -> str:
        stage.desk.cancel_import(stage.caller, only_import(stage))
        sweep(stage.runtime)
        return begin(self, ref)

    monkeypatch.setattr(Spool, "begin", begin_after_the_end)
    monkeypatch.setattr(Spool, "list_begun", lambda *_: [])  # a server that cannot
    with pytest.raises(Refusal) as refused:
        send(stage)
    assert refused.value.code == "import_ended"
    pass_time(stage, seconds=0)
    sweep(stage.runtime)
    assert left(stage) == []


def test_a_process_that_comes_back_late_completes_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep took it for dead; it is in the middle of its body, or has just sent the last part."""
    monkeypatch.setattr(objects, "_FIRST_PAUSE", 0)  # moto answers with 500 to a part of an upload that is no more
    for at in (1, 2):
        fresh = Stage(stage.settings, stage.bucket)

        def sleep_too_long(fresh: Stage = fresh) -> None:
            pass_time(fresh)
            sweep(fresh.runtime)

        with pytest.raises(Refusal) as refused:
            send(fresh, Sent(at=at, do=sleep_too_long))
        assert refused.value.code == "import_ended"
        assert fresh.status(only_import(fresh)).state is ImportState.FAILED
        assert fresh.sent.plans == []
        pass_time(fresh)
        sweep(fresh.runtime)
        assert (left(fresh), rows_left(fresh)) == ([], [])
        fresh.close()


@pytest.mark.parametrize("committed", [True, False])
def test_a_last_step_of_which_nobody_knows_whether_it_was_done_is_looked_up(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """The connection broke at its commit: the import runs, or it has failed, and the sender is told which."""
    note = uploads.note_body_done

    def break_at_the_commit(_: Tx, import_id: str) -> bool:
        if committed:
            with stage.runtime.database.aside() as other:
                assert note(other, import_id)
        raise CommitUnknown("Unknown.")

    monkeypatch.setattr(uploads, "note_body_done", break_at_the_commit)
    if committed:
        started = send(stage)
        assert stage.sent.plans == [started.status.id]
    else:
        with pytest.raises(CommitUnknown):
            send(stage)
        assert stage.sent.plans == []
    assert stage.status(only_import(stage)).state is (ImportState.PENDING if committed else ImportState.FAILED)


def test_an_object_that_was_completed_behind_the_sweeps_back_is_deleted_too(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = Spool.complete

    def come_late(self: Spool, *given: Any) -> None:
        complete(self, *given)
        pass_time(stage)
        monkeypatch.setattr(Spool, "complete", complete)
        import_id = only_import(stage)
        with stage.runtime.database.transaction() as tx:
            assert uploads.give_up_body(tx, import_id)
            imports.fail_import(tx, import_id, taking_in._reason(BROKEN))

    monkeypatch.setattr(Spool, "complete", come_late)
    with pytest.raises(Refusal) as refused:
        send(stage)
    assert (refused.value.code, stage.sent.plans) == ("import_ended", [])
    assert left(stage)
    sweep(stage.runtime)
    assert (left(stage), rows_left(stage)) == ([], [])


def test_a_cancelled_import_ends_its_body_and_leaves_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking_in, "_NOTE_SECONDS", 0)
    body = Sent((b"x",) * 50, at=3, do=lambda: stage.desk.cancel_import(stage.caller, only_import(stage)))
    with pytest.raises(Refusal) as refused:
        send(stage, body, key="once")

    assert (refused.value.code, body.read_pieces) == ("import_ended", 4)
    assert stage.status(only_import(stage)).state is ImportState.CANCELLED
    sweep(stage.runtime)
    pass_time(stage)
    sweep(stage.runtime)
    assert (left(stage), rows_left(stage)) == ([], [])
    assert not send(stage, key="once").replayed


def test_bytes_that_come_keep_a_slow_body_alive(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking_in, "_NOTE_SECONDS", 0)

    def go_slowly() -> None:
        pass_time(stage, seconds=59)

    class Slow(Sent):
        def read(self) -> bytes:
            sweep(stage.runtime)
            go_slowly()
            return super().read()

    started = send(stage, Slow((b"\n",) * 5))
    assert stage.status(started.status.id).state is ImportState.PENDING


def test_what_cannot_be_deleted_is_tried_again_later_and_keeps_nothing_from_the_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = send(stage)
    stage.desk.cancel_import(stage.caller, started.status.id)

    def fail(*_: object) -> None:
        raise Transient("Away.")

    monkeypatch.setattr(Spool, "delete", fail)
    sweep(stage.runtime)
    assert rows_left(stage), "forgotten though it lies there"
    monkeypatch.undo()
    sweep(stage.runtime)
    assert left(stage), "tried again at once: a hundred of them would be the whole round"
    pass_time(stage, seconds=0)
    sweep(stage.runtime)
    assert (left(stage), rows_left(stage)) == ([], [])


def test_nothing_is_deleted_while_its_import_is_under_way(stage: Stage) -> None:
    started = send(stage)
    for _ in range(2):
        pass_time(stage)
        sweep(stage.runtime)
        assert left(stage) == [f"uploads/{started.status.id}"]
        plan_import(stage.runtime, started.status.id)


# --- keys


def test_a_key_that_has_made_an_import_is_answered_without_a_byte_being_read(stage: Stage) -> None:
    first = send(stage, key="once")
    finish(stage, first.status.id)
    stage.runtime = stage.worker(upload_limit=0)
    again = send(stage, Sent(at=0, do=raising(AssertionError("a byte was read"))), key="once")

    assert (again.replayed, again.status.id, again.status.state) == (True, first.status.id, ImportState.PENDING)
    assert stage.sent.plans == [first.status.id]


def test_a_key_is_the_requests_and_not_the_bodys(stage: Stage) -> None:
    send(stage, key="once")
    with pytest.raises(Refusal) as refused:
        stage.desk.start_upload(stage.caller, SPEC, Sent(), request=f"{REQUEST}&format=csv", idempotency_key="once")
    assert refused.value.code == "idempotency_key_reused"


def test_a_request_with_the_key_of_a_body_that_still_comes_is_told_so(stage: Stage) -> None:
    codes: list[str] = []

    def send_again() -> None:
        with pytest.raises(Refusal) as refused:
            send(stage, Sent(at=0, do=raising(AssertionError("a byte was read"))), key="once")
        codes.append(refused.value.code)
        assert refused.value.details["retryAfter"]

    first = send(stage, Sent(at=1, do=send_again), key="once")
    again = send(stage, key="once")

    assert codes == ["request_under_way"]
    assert (again.replayed, again.status.id) == (True, first.status.id)


# --- whose the bucket is


def test_no_caller_may_read_the_spool_bucket_with_the_services_own_key(stage: Stage) -> None:
    """All projects' bodies are in it."""
    other = Stage(replace(stage.settings, own_buckets=f"*,{SPOOL}"), stage.bucket)
    key = spooled(SPOOL, send(stage).status.id).key
    with pytest.raises(Refusal) as refused:
        other.start(SourceRef(SPOOL, key), credentials=None)
    assert refused.value.code == "credentials_required"
    other.close()


# --- S3


@pytest.fixture(params=["moto", "localbucket"])
def spool(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Spool]:
    other = None if request.param == "moto" else servers.another_s3("localbucket")
    endpoint = other.endpoint if other else servers.s3_endpoint
    client = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
    )
    client.create_bucket(Bucket="spool-test")
    opened = objects.connect(
        Credentials("a", "b"),
        region="us-east-1",
        endpoint_url=endpoint,
        addressing="path",
        checksums="when_required",
        timeout=5,
    )
    yield opened.spool()
    for one in client.list_objects_v2(Bucket="spool-test").get("Contents", ()):
        client.delete_object(Bucket="spool-test", Key=one["Key"])
    client.delete_bucket(Bucket="spool-test")
    client.close()
    opened.close()
    if other:
        other.stop()


def test_an_upload_that_was_broken_off_takes_no_part_and_becomes_no_object(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a part of it moto answers with 500."""
    monkeypatch.setattr(objects, "_FIRST_PAUSE", 0)
    ref = SourceRef("spool-test", "uploads/x")
    upload_id = spool.begin(ref)
    etag = spool.put_part(ref, upload_id, 1, BytesIO(b"x"))
    assert spool.break_off(ref, upload_id) is False, "it was there"
    assert spool.break_off(ref, upload_id) is True
    for late in (
        lambda: spool.put_part(ref, upload_id, 2, BytesIO(b"y")),
        lambda: spool.complete(ref, upload_id, [etag]),
    ):
        with pytest.raises(Transient):
            late()
    spool.delete(ref)


def test_an_upload_that_is_completed_twice_is_complete(spool: Spool) -> None:
    """S3 was faster than its answer."""
    ref = SourceRef("spool-test", "uploads/y")
    upload_id = spool.begin(ref)
    etag = spool.put_part(ref, upload_id, 1, BytesIO())
    spool.complete(ref, upload_id, [etag])
    spool.complete(ref, upload_id, [etag])
    assert spool.break_off(ref, upload_id) is True
    spool.delete(ref)
    spool.delete(ref)


def test_only_the_uploads_of_this_very_key_are_listed(stage: Stage) -> None:
    spool = stage.runtime.spool
    ref, longer = SourceRef(SPOOL, "uploads/ab"), SourceRef(SPOOL, "uploads/abc")
    ids = {spool.begin(ref), spool.begin(ref)}
    spool.begin(longer)

    assert set(spool.list_begun(ref)) == ids


def test_a_row_without_id_waits_for_one_that_may_yet_be_on_its_way(stage: Stage) -> None:
    """On a server that cannot list uploads it waits as long, and is then forgotten."""
    unknown = Upload("a" * 32, SPOOL, "uploads/none", None, done=False, old=False)
    assert _is_deleted(stage.runtime, unknown) is False
    assert _is_deleted(stage.runtime, replace(unknown, old=True)) is True
