"""A request that is repeated with its Idempotency-Key makes nothing new and gets its first answer again."""

from __future__ import annotations

import base64
import hmac
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from api.pushing import PushDesk, Pushed
from api.replies import Started
from common.errors import Refusal, Transient
from common.model.exports import Destination, ExportSpec
from common.model.formats import Compression, Format
from common.model.imports import Credentials, IfSeen, ImportSpec, ImportState, ImportStatus
from common.model.mapping import Mapping
from common.model.pushes import Outcome
from common.model.rejects import RejectCode
from common.model.sources import SourceKind, SourceRef
from common.sealing import Sealer
from common.settings import MIB
from tests.stage import Stage, event, ndjson
from workers.imports.load import load_chunk
from workers.imports.plan import plan_import
from workers.sweep import sweep

KEYS = Credentials("caller-key", "caller-secret")


def ask(stage: Stage, key: str | None = "once", **spec: Any) -> Started[ImportStatus]:
    asked = ImportSpec(**{"collection": "events", "source": SourceRef("b", "k"), "mapping": Mapping(), **spec})
    return stage.desk.start_import(stage.caller, replace(asked, credentials=KEYS), idempotency_key=key)


def push(stage: Stage, *lines: bytes, key: str = "once", mapping: Mapping | None = None, **more: list[bytes]) -> Pushed:
    asked = {"events": list(lines), **more}
    return PushDesk(stage.runtime).push(stage.caller, asked, mapping=mapping or Mapping(), idempotency_key=key)


def refusal_of(request: Callable[[], object]) -> str:
    with pytest.raises(Refusal) as refused:
        request()
    return refused.value.code


def count(stage: Stage) -> int:
    return len(stage.desk.list_imports(stage.caller).items)


def test_a_repeated_request_gets_the_first_answer_whatever_became_of_the_import(stage: Stage) -> None:
    ref = stage.put(ndjson(event("a"), b"{bad"))
    first = ask(stage, source=ref)
    plan_import(stage.runtime, first.status.id)
    for chunk_id in stage.chunk_ids(first.status.id):
        load_chunk(stage.runtime, chunk_id)
    assert stage.status(first.status.id).state is ImportState.COMPLETED_WITH_ERRORS

    again = ask(stage, source=ref)

    assert again.replayed
    assert replace(again.status, read_at=first.status.read_at) == first.status
    assert (count(stage), stage.sent.plans) == (1, [first.status.id])


def test_a_key_that_made_something_else_is_refused_and_makes_nothing(stage: Stage) -> None:
    ask(stage)
    for other in (
        {"collection": "others"},
        {"source": SourceRef("b", "other")},
        {"mapping": Mapping(id_names=("id",))},
        {"max_rejects": 0},
    ):
        with pytest.raises(Refusal) as refused:
            ask(stage, **other)
        assert refused.value.code == "idempotency_key_reused"
    assert count(stage) == 1


def test_other_credentials_make_no_other_request(stage: Stage) -> None:
    """They expire within the hour where a role lends them: a repeated request has fresh ones."""
    first = ask(stage)
    spec = ImportSpec("events", SourceRef("b", "k"), Mapping(), Credentials("fresh", "fresh", "token"))
    again = stage.desk.start_import(stage.caller, spec, idempotency_key="once")

    assert (again.replayed, again.status.id) == (True, first.status.id)


def test_requests_without_a_key_or_with_another_make_an_import_each(stage: Stage) -> None:
    ids = {ask(stage, key).status.id for key in (None, None, "one", "two")}

    assert len(ids) == 4


def test_a_key_is_its_projects_own(stage: Stage) -> None:
    first = ask(stage)
    other = Stage(stage.settings, stage.bucket)
    second = ask(other)
    other.close()

    assert second.status.id != first.status.id


def test_requests_that_come_together_make_one_import(stage: Stage) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ask(stage), range(32)))

    assert len({answer.status.id for answer in answers}) == 1
    assert sum(not answer.replayed for answer in answers) == 1
    assert count(stage) == 1


def test_what_was_refused_is_not_remembered(stage: Stage) -> None:
    stage.runtime = stage.worker(import_limit=1)
    holder = stage.start(b"")
    with pytest.raises(Refusal, match="1 of 1"):
        ask(stage)
    stage.desk.cancel_import(stage.caller, holder)

    assert not ask(stage).replayed


def test_a_repeated_request_is_answered_before_a_full_house(stage: Stage) -> None:
    stage.runtime = stage.worker(import_limit=1)
    first = ask(stage)

    assert ask(stage).status.id == first.status.id
    assert stage.runtime.slots.take(stage.caller.project_id, first.status.id, limit=1), "the first lost its slot"


def test_a_push_is_stored_once_and_told_the_same_though_its_events_have_no_ids(stage: Stage) -> None:
    lines = [b'{"n":1}', b"[]", b'{"$unique_id":"a"}', b'{"$unique_id":"a","n":2}']
    first = push(stage, *lines, others=[b'{"n":3}'], none=[])
    again = push(stage, *lines, others=[b'{"n":3}'], none=[])

    taken = [Outcome.STORED, RejectCode.NOT_AN_OBJECT, Outcome.STORED, Outcome.DUPLICATE]
    assert first == Pushed({"events": taken, "others": [Outcome.STORED], "none": []})
    assert again == first._replace(replayed=True)
    assert [type(verdict) for verdict in again.verdicts["events"]] == [type(verdict) for verdict in taken]
    assert [row.payload for row in stage.rows("events")] == [lines[0], lines[2]]
    assert not push(stage, *lines, key="another").replayed
    assert len(stage.rows("events")) == 3


def test_a_key_that_pushed_other_events_is_refused_and_stores_nothing(stage: Stage) -> None:
    push(stage, b'{"n":1}')
    for other in (
        lambda: push(stage, b'{"n":2}'),
        lambda: push(stage, b'{"n":1}', b'{"n":1}'),
        lambda: push(stage, b'{"n":1}', others=[b'{"n":1}']),
        lambda: push(stage, events2=[b'{"n":1}']),
        lambda: push(stage, b'{"n":1}', mapping=Mapping(id_names=("n",))),
        lambda: push(stage, b'{"n":"\xff"}'),
    ):
        assert refusal_of(other) == "idempotency_key_reused"
    assert len(stage.rows("events")) == 1


def test_a_key_takes_no_memory_by_the_length_of_a_push(stage: Stage) -> None:
    lines = ["é".encode() * MIB] * 4  # too long to be stored
    push(stage, *lines)
    tracemalloc.start()
    push(stage, *lines)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < MIB


def test_pushes_that_come_together_store_their_events_once(stage: Stage) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: push(stage, b'{"n":1}'), range(16)))

    assert sum(not answer.replayed for answer in answers) == 1
    assert all(answer.verdicts == {"events": [Outcome.STORED]} for answer in answers)
    assert len(stage.rows("events")) == 1


def test_a_push_of_which_nothing_was_taken_is_not_remembered(stage: Stage) -> None:
    for _ in range(2):
        assert push(stage, b"[]") == Pushed({"events": [RejectCode.NOT_AN_OBJECT]})
    assert push(stage, b"{}") == Pushed({"events": [Outcome.STORED]})


def test_a_push_that_broke_off_is_not_remembered(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise Transient("broken off")

    with monkeypatch.context() as patched:
        patched.setattr("common.ledger.idempotency.Once.note_made", fail)
        with pytest.raises(Transient):
            push(stage, b'{"n":1}')
    assert stage.query("SELECT FROM collections WHERE project_id = %(id)s", id=stage.caller.project_id) == []
    assert not push(stage, b'{"n":1}').replayed


@pytest.mark.parametrize("first", ["import", "export", "push"])
def test_a_key_makes_things_of_one_kind_only(stage: Stage, first: str) -> None:
    stage.run(ndjson(event("a")))
    asked = ExportSpec("events", Destination("b", "k/"), credentials=KEYS)
    makes: dict[str, Callable[[], Any]] = {
        "import": lambda: ask(stage),
        "export": lambda: stage.export_desk.start_export(stage.caller, asked, idempotency_key="once"),
        "push": lambda: push(stage, b'{"n":1}'),
    }

    assert not makes[first]().replayed
    assert [refusal_of(make) for kind, make in makes.items() if kind != first] == ["idempotency_key_reused"] * 2
    assert makes[first]().replayed


def test_a_key_is_free_again_after_a_day(stage: Stage) -> None:
    stage.run(ndjson(event("a")))
    asked = ExportSpec("events", Destination("b", "k/"), credentials=KEYS)
    for table, make in {
        "idempotency_keys": lambda: ask(stage).replayed,
        "export_keys": lambda: stage.export_desk.start_export(stage.caller, asked, idempotency_key="once").replayed,
        "push_keys": lambda: push(stage, b'{"n":1}').replayed,
    }.items():
        age = f"UPDATE {table} SET created_at = now() - interval '%s' WHERE project_id = %%(id)s RETURNING key"
        assert not make(), "a key past its day, of another kind"
        stage.query(age % "23 hours 59 minutes", id=stage.caller.project_id)
        sweep(stage.runtime)
        assert make()

        stage.query(age % "24 hours 1 second", id=stage.caller.project_id)
        assert not make()
        assert make()

        stage.query(age % "24 hours 1 second", id=stage.caller.project_id)
    sweep(stage.runtime)
    for table in ("idempotency_keys", "export_keys", "push_keys"):
        assert stage.query(f"SELECT key FROM {table} WHERE project_id = %(id)s", id=stage.caller.project_id) == []


def test_a_fingerprint_survives_the_rotation_of_its_key_and_tells_nothing_without_it() -> None:
    old, new = "A" * 43 + "=", "B" * 43 + "="
    fingerprint = Sealer(old).fingerprint("import {}")

    assert Sealer(f"{new},{old}").has_fingerprint("import {}", fingerprint)
    assert not Sealer(new).has_fingerprint("import {}", fingerprint)
    assert not Sealer(old).has_fingerprint("import []", fingerprint)


def test_a_fingerprint_has_a_key_of_its_own_the_same_in_every_version() -> None:
    """Written out after RFC 5869: another derivation would refuse, for a day, whoever repeats a request."""
    sealing_key = bytes(range(32))
    drawn = hmac.digest(bytes(32), sealing_key, "sha256")
    derived = hmac.digest(drawn, b"penstock fingerprint\x01", "sha256")
    sealer = Sealer(base64.b64encode(sealing_key).decode())

    assert sealer.fingerprint("import {}") == hmac.digest(derived, b"import {}", "sha256")


def test_what_a_request_asked_for_is_one_text_without_its_credentials() -> None:
    spec = ImportSpec("events", SourceRef("b", "k"), Mapping(), KEYS)

    assert "caller" not in spec.as_asked()
    assert spec.as_asked() == replace(spec, credentials=None).as_asked()
    assert spec.as_asked() == 'import {"collection": "events", "mapping": {}, "source": {"bucket": "b", "key": "k"}}'


def test_each_of_a_requests_parts_tells_it_from_others() -> None:
    plain = ImportSpec("events", SourceRef("b", "k"), Mapping())
    others = [
        replace(plain, format=Format.NDJSON),
        replace(plain, format=Format.CSV),
        replace(plain, compression=Compression.NONE),
        replace(plain, if_seen=IfSeen.REFUSE),
        *(replace(plain, source=SourceRef("b", "k", kind=kind)) for kind in SourceKind if kind != SourceKind.OBJECT),
        replace(plain, source=SourceRef("b", "k", kind=SourceKind.MANIFEST, keys=("k1",))),
        replace(plain, source=SourceRef("b", "k", kind=SourceKind.MANIFEST, keys=("k1", "k2"))),
        replace(plain, source=SourceRef("b", "k", role="arn:aws:iam::123456789012:role/x")),
    ]

    assert len({spec.as_asked() for spec in [plain, *others]}) == len(others) + 1
    assert plain.as_asked() == 'import {"collection": "events", "mapping": {}, "source": {"bucket": "b", "key": "k"}}'
