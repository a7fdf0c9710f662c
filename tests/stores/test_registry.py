"""Things that lines may name: registered by hand or by being named, a thousand times or once, and never too many."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from common import grounds
from common.errors import Refusal, Transient
from common.ledger import registry
from common.ledger.registry import Registered
from common.model.chunks import Counts
from common.model.imports import ImportState, ImportStatus
from common.model.mapping import Mapping
from common.model.pushes import Outcome
from common.model.rejects import RejectCode
from common.model.rules import Reference, Rules
from common.ruling import Known
from tests.stage import Hand, Stage, ndjson
from tests.stores.test_pushes import push
from tests.stores.test_replace import await_a_wait
from workers.imports.lease import LeaseLostError
from workers.imports.load import load_chunk

ONE, TWO, THREE = (f"0000000{n}-000a-4000-8000-00000000000b" for n in (1, 2, 3))
REFERENCES = (Reference("package", ("$package",)), Reference("pixel", ("$pixel",)))
RULES = Rules(required=(("$time",),), references=REFERENCES, adds=(("$package", ONE),))
MAPPING = Mapping(("$unique_id",), ("$time",), rules=RULES)


def line(id_: str | None = None, **members: Any) -> dict[str, Any]:
    return {"$unique_id": id_ or uuid.uuid4().hex, "$time": "2024-05-01T00:00:00Z", **members}


def register(stage: Stage, *ids: str, kind: str = "package") -> list[bool]:
    with stage.runtime.database.transaction() as tx:
        return [registry.register(tx, stage.caller.project_id, kind, one) for one in ids]


def registered(stage: Stage) -> set[tuple[str, str]]:
    with stage.runtime.database.transaction() as tx:
        return set(registry.read_registered(tx, stage.caller.project_id))


def errors(stage: Stage, status: ImportStatus) -> list[tuple[int, str]]:
    found = stage.desk.list_errors(stage.caller, status.id).items
    return [(error.index, error.code.value) for error in found]


def learning(stage: Stage) -> Stage:
    """Let the stage register what lines name."""
    stage.runtime = stage.worker(register_unknown=1)
    return stage


# --- the registry


def test_a_thing_is_registered_once_and_a_uuid_is_the_same_in_letters_of_any_case(stage: Stage) -> None:
    assert register(stage, ONE, ONE.upper(), "Word", "word", "Word") == [True, False, True, True, False]
    assert register(stage, ONE, kind="pixel") == [True]
    project = stage.caller.project_id
    with stage.runtime.database.transaction() as tx:
        assert registry.is_registered(tx, project, "package", ONE.upper())
        assert not registry.is_registered(tx, project, "package", TWO)
        assert not registry.is_registered(tx, project, "package", "WORD")
        assert not registry.is_registered(tx, project, "package", "\0")
        assert not registry.is_registered(tx, uuid.uuid4().hex, "package", ONE)
        of_kind = registry.list_registered(tx, project, "pixel")
        assert [row[:2] for row in registry.list_registered(tx, project)] == [
            ("package", ONE),
            ("package", "Word"),
            ("package", "word"),
            ("pixel", ONE),
        ]
        assert isinstance(of_kind[0], Registered)
        assert registry.unregister(tx, project, "package", ONE.upper())
        assert not registry.unregister(tx, project, "package", ONE)
    assert registered(stage) == {("package", "Word"), ("package", "word"), ("pixel", ONE)}


@pytest.mark.parametrize(
    ("kind", "id_"), [("", "a"), ("Package", "a"), ("p", ""), ("p", " a"), ("p", "a\0"), ("p", "a" * 201)]
)
def test_what_nobody_could_name_is_not_registered(stage: Stage, kind: str, id_: str) -> None:
    with pytest.raises(Refusal) as refused:
        register(stage, id_, kind=kind)
    assert refused.value.code == "invalid_thing"


def test_a_project_never_has_more_things_than_it_may_whoever_registers_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "MOST_THINGS", 2)
    assert register(stage, ONE, TWO, ONE) == [True, True, False]  # what is there already takes no room
    with stage.runtime.database.transaction() as tx:
        assert registry.unregister(tx, stage.caller.project_id, "package", TWO)

    def register_too() -> None:
        worker = stage.worker()
        with worker.database.transaction() as tx:
            registry.register(tx, stage.caller.project_id, "package", "other")
        worker.database.close()

    with ThreadPoolExecutor(1) as pool:
        other = stage.worker()
        with other.database.transaction() as tx:
            registry.register(tx, stage.caller.project_id, "package", TWO)
            waiting = pool.submit(register_too)
            await_a_wait(stage)
        with pytest.raises(Refusal) as refused:
            waiting.result(timeout=20)
        other.database.close()
    assert refused.value.code == "too_many_registered"
    assert registered(stage) == {("package", ONE), ("package", TWO)}


# --- imports


def test_lines_that_lack_something_or_name_something_unknown_are_rejects_and_the_receipt_adds_up(stage: Stage) -> None:
    register(stage, ONE, TWO)
    body = ndjson(
        line("a"),
        line("b", **{"$package": TWO.upper()}),
        line("c", **{"$package": THREE}),
        line("a", **{"$package": TWO}),
        line("d", **{"$pixel": ONE}),
        {"$unique_id": "e"},
        {"$unique_id": "f", "$time": None, "$package": "x"},
        line("g", **{"$package": None}),
        b"{bad",
        b"",
    )
    status = stage.run(body, mapping=MAPPING)

    assert status.state is ImportState.COMPLETED_WITH_ERRORS
    assert status.progress.counts == Counts(lines=10, imported=3, duplicates=1, rejected=5, blank=1)
    unknown, missing = "unknown_reference", "missing_member"
    assert errors(stage, status) == [(2, unknown), (4, unknown), (5, missing), (6, missing), (8, "invalid_json")]
    payloads = [row.payload for row in stage.rows()]
    assert payloads == [
        json.dumps(line("a")).encode()[:-1] + f',"$package":"{ONE}"}}'.encode(),
        json.dumps(line("b", **{"$package": TWO.upper()})).encode(),
        json.dumps(line("g", **{"$package": None})).encode()[:-1] + f',"$package":"{ONE}"}}'.encode(),
    ]
    bodies = stage.query(
        "SELECT r.body FROM rejects AS r JOIN chunks AS c ON c.id = r.chunk_id WHERE c.import_id = %(id)s", id=status.id
    )
    assert json.dumps({"$unique_id": "e"}).encode() in [bytes(row.body) for row in bodies]
    assert registered(stage) == {("package", ONE), ("package", TWO)}


def test_an_import_without_rules_into_the_same_collection_keeps_none(stage: Stage) -> None:
    register(stage, ONE)
    stage.run(ndjson(line("a")), mapping=MAPPING)
    plain = ndjson(line("b"), {"$unique_id": "c"}, {"$package": "x"})
    status = stage.run(plain, mapping=replace(MAPPING, rules=Rules()))

    assert status.progress.counts == Counts(lines=3, imported=3)
    assert b"".join(row.payload + b"\n" for row in stage.rows()[1:]) == plain


def test_rows_of_csv_are_held_to_the_rules_and_given_members_too(stage: Stage) -> None:
    register(stage, ONE, TWO)
    body = f"$unique_id,$time,$package\na,2024-05-01,{TWO}\nb,2024-05-01,\nc,,{ONE}\nd,2024-05-01,{THREE}\n".encode()
    status = stage.run(body, mapping=MAPPING)

    assert status.progress.counts == Counts(lines=4, imported=2, rejected=2)
    assert errors(stage, status) == [(3, "missing_member"), (4, "unknown_reference")]
    assert [json.loads(row.payload)["$package"] for row in stage.rows()] == [TWO, ONE]


def test_what_is_unregistered_is_unknown_to_later_lines_and_what_is_stored_stays(stage: Stage) -> None:
    register(stage, ONE)
    stage.run(ndjson(line("a")), mapping=MAPPING)
    with stage.runtime.database.transaction() as tx:
        assert registry.unregister(tx, stage.caller.project_id, "package", ONE)
    status = stage.run(ndjson(line("a"), line("b")), mapping=MAPPING)

    assert status.progress.counts == Counts(lines=2, rejected=2)
    assert len(stage.rows()) == 1


# --- registered by being named


def test_where_the_setting_says_so_what_lines_name_is_registered_with_them(stage: Stage) -> None:
    learning(stage)
    body = ndjson(
        line("a"), line("a", **{"$package": TWO.upper()}), line("b", **{"$package": "word"}), {"$package": THREE}
    )
    status = stage.run(body, mapping=MAPPING)

    # The second is a duplicate, and names something all the same; the last two are rejects and name nothing.
    assert status.progress.counts == Counts(lines=4, imported=1, duplicates=1, rejected=2)
    assert errors(stage, status) == [(2, "unknown_reference"), (3, "missing_member")]
    assert registered(stage) == {("package", ONE), ("package", TWO)}


def test_a_chunk_that_cannot_commit_registers_nothing(stage: Stage) -> None:
    (chunk_id,) = learning(stage).planned(ndjson(line("a")), mapping=MAPPING)
    hand = Hand.takes(stage.worker(register_unknown=1), chunk_id)
    stage.desk.cancel_import(stage.caller, stage.import_of(chunk_id))
    with pytest.raises(LeaseLostError):
        hand.commits()

    assert registered(stage) == set()


def test_chunks_side_by_side_that_name_the_same_things_all_commit_and_register_each_once(stage: Stage) -> None:
    ids = [str(uuid.uuid4()) for _ in range(40)]
    stage.runtime = stage.worker(register_unknown=1, chunk_bytes=1500, window=100)
    # Each chunk has its own order of them, and half of its lines are another chunk's too.
    rows = [line(f"e{n % 60}", **{"$package": ids[n * 7 % 40]}) for n in range(120)]
    chunk_ids = stage.planned(ndjson(*rows), mapping=MAPPING)
    assert len(chunk_ids) > 5

    def load(chunk_id: int) -> None:
        worker = stage.worker(register_unknown=1)
        load_chunk(worker, chunk_id)
        worker.database.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(load, chunk_ids))
    import_id = stage.import_of(chunk_ids[0])
    stage.query("UPDATE chunks SET not_before = now() WHERE import_id = %(id)s RETURNING id", id=import_id)
    stage.load_all(import_id)

    counts = stage.status(import_id).progress.counts
    assert counts == Counts(lines=120, imported=60, duplicates=60)
    assert registered(stage) == {("package", one) for one in ids}


def test_over_the_limit_lines_are_rejects_and_no_error(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (registry, grounds):
        monkeypatch.setattr(module, "MOST_THINGS", 2)
    rows = [line(f"e{n}", **{"$package": one}) for n, one in enumerate((ONE, TWO, THREE, ONE))]
    status = learning(stage).run(ndjson(*rows), mapping=MAPPING)

    assert status.progress.counts == Counts(lines=4, imported=3, rejected=1)
    assert errors(stage, status) == [(2, "unknown_reference")]
    assert registered(stage) == {("package", ONE), ("package", TWO)}


def test_a_chunk_whose_room_others_took_is_judged_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (registry, grounds):
        monkeypatch.setattr(module, "MOST_THINGS", 2)
    (chunk_id,) = learning(stage).planned(ndjson(line("a"), line("b", **{"$package": TWO})), mapping=MAPPING)
    hand = Hand.takes(stage.worker(register_unknown=1), chunk_id)
    register(stage, THREE)
    with pytest.raises(Transient):
        hand.commits()
    assert (stage.rows(), registered(stage)) == ([], {("package", THREE)})

    stage.expire_lease(chunk_id)
    stage.load_all(stage.import_of(chunk_id))
    status = stage.status(stage.import_of(chunk_id))
    assert status.progress.counts == Counts(lines=2, imported=1, rejected=1)
    assert registered(stage) == {("package", THREE), ("package", ONE)}


# --- pushes


def test_what_is_pushed_is_held_to_the_same_rules(stage: Stage) -> None:
    register(stage, ONE)
    rows = [line("a"), line("b", **{"$package": TWO}), {"$unique_id": "c"}]

    unknown, missing = RejectCode.UNKNOWN_REFERENCE, RejectCode.MISSING_MEMBER
    assert push(stage, *rows, mapping=MAPPING) == [Outcome.STORED, unknown, missing]
    assert json.loads(stage.rows()[0].payload)["$package"] == ONE
    assert registered(stage) == {("package", ONE)}

    learning(stage)
    assert push(stage, *rows, mapping=MAPPING) == [Outcome.DUPLICATE, Outcome.STORED, missing]
    assert registered(stage) == {("package", ONE), ("package", TWO)}


def test_known_holds_as_many_things_as_the_registry_does(stage: Stage) -> None:
    """Both count to the same number, so that a chunk is not judged again and again."""
    known = Known({("a", str(n)) for n in range(registry.MOST_THINGS - 1)}, most=grounds.MOST_THINGS)

    assert known.take([("package", ONE)])
    assert not known.take([("package", TWO)])
    with stage.runtime.database.transaction() as tx:
        registry.register_named(tx, stage.caller.project_id, known._registered | known.named)
