"""Accounts: a project, and those that its key pairs made; a request that is sent again makes nothing new."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from api.accounts import AccountDesk
from api.callers import QUERY, Caller
from api.desk import Desk
from common.errors import Refusal
from common.ledger import accounts, answers
from common.ledger.answers import Answer
from common.model.imports import Credentials, ImportSpec
from common.model.mapping import Mapping
from common.model.sources import SourceRef
from common.settings import Settings
from tests.stage import Stage
from workers.sweep import sweep

REQUEST = bytes(range(32))


@pytest.fixture
def desk(stage: Stage) -> AccountDesk:
    return AccountDesk(stage.runtime)


@pytest.fixture
def stranger(settings: Settings, stage: Stage) -> Iterator[Caller]:
    """Another account, which has a project of its own."""
    other = Stage(settings, stage.bucket)
    AccountDesk(other.runtime).create_project(other.caller, "theirs", request=REQUEST)
    yield other.caller
    other.close()


def refused(ask: Any, *arguments: Any, **more: Any) -> str:
    with pytest.raises(Refusal) as refusal:
        ask(*arguments, **more)
    return refusal.value.code


def test_an_account_sees_itself_and_what_it_made_and_nothing_else(
    stage: Stage, desk: AccountDesk, stranger: Caller
) -> None:
    made = [desk.create_project(stage.caller, title, request=bytes([n])) for n, title in enumerate(("Shop", "Shop"))]
    home, *owned = desk.list_projects(stage.caller)

    assert (home.id, home.title) == (stage.caller.project_id, home.name)
    assert owned == made
    assert [one.title for one in owned] == ["Shop", "Shop"]
    assert owned[0].name != owned[1].name
    theirs = desk.list_projects(stranger)
    assert [one.title for one in theirs][1:] == ["theirs"]
    for one in (home, *owned):
        assert desk.read_project(stage.caller, one.id) == one
    for other in (*(one.id for one in theirs), "0" * 32, "nonsense", ""):
        assert (
            refused(desk.read_project, stage.caller, other) == refused(desk.enter, stage.caller, other) == "not_found"
        )


def test_what_was_made_is_a_project_like_any_other_but_no_account_of_its_own_pairs(
    stage: Stage, desk: AccountDesk
) -> None:
    owned = desk.create_project(stage.caller, "Shop", request=REQUEST)
    inside = desk.enter(stage.caller, owned.id)
    keys = Credentials("caller-key", "caller-secret")
    spec = ImportSpec(collection="c", source=SourceRef("b", "k"), mapping=Mapping(), credentials=keys)
    started = Desk(stage.runtime).start_import(inside, spec).status

    assert inside == replace(stage.caller, project_id=owned.id, project_name=owned.name)
    assert [one.id for one in Desk(stage.runtime).list_imports(inside).items] == [started.id]
    assert Desk(stage.runtime).list_imports(stage.caller).items == []
    assert refused(desk.enter, inside, stage.caller.project_id) == "not_found", "who is inside came out"


def test_the_same_request_makes_one_project_however_many_send_it_at_once(stage: Stage) -> None:
    def make(_: int) -> str:
        runtime = stage.worker()
        try:
            return AccountDesk(runtime).create_project(stage.caller, "Shop", request=REQUEST).id
        finally:
            runtime.database.close()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(make, range(8)))) == 1
    with stage.runtime.database.transaction() as tx:
        assert len(accounts.list_owned(tx, stage.caller.project_id)) == 2


def test_an_account_makes_so_many_projects_and_no_more_under_any_race(
    stage: Stage, desk: AccountDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "MOST_OWNED", 3)

    def make(n: int) -> str | None:
        runtime = stage.worker()
        try:
            return AccountDesk(runtime).create_project(stage.caller, "Shop", request=bytes([n])).id
        except Refusal:
            return None
        finally:
            runtime.database.close()

    with ThreadPoolExecutor(6) as pool:
        made = [one for one in pool.map(make, range(6)) if one]
    assert sorted(made) == sorted(one.id for one in desk.list_projects(stage.caller)[1:])
    assert len(made) == 3
    assert refused(desk.create_project, stage.caller, "x", request=REQUEST) == "too_many_projects"
    reader = replace(stage.caller, scopes=frozenset({QUERY}))
    assert refused(desk.create_project, reader, "x", request=REQUEST) == "forbidden"


def answer(stage: Stage, request: bytes, body: bytes, key_id: str | None = None) -> Answer:
    """Return what a request is answered whose work would be answered so."""
    with stage.runtime.database.transaction() as tx:
        work = partial(Answer, 202, body)
        return answers.answer_once(tx, work, api_key_id=key_id or stage.caller.key_id, request=request)


def test_an_answer_is_given_again_to_its_key_and_its_request_alone(stage: Stage, stranger: Caller) -> None:
    body = b'{"Message": "\x00\xff"}'
    assert answer(stage, REQUEST[1:], body) == Answer(202, body)

    assert answer(stage, REQUEST[1:], b"another") == Answer(202, body)
    assert answer(stage, REQUEST[2:], b"another") == Answer(202, b"another")
    assert answer(stage, REQUEST[1:], b"another", stranger.key_id) == Answer(202, b"another")


def test_what_was_refused_is_not_remembered(stage: Stage) -> None:
    def refuse() -> Answer:
        raise Refusal("conflict", "no")

    def ask() -> None:
        with stage.runtime.database.transaction() as tx:
            answers.answer_once(tx, refuse, api_key_id=stage.caller.key_id, request=REQUEST)

    assert refused(ask) == refused(ask) == "conflict"
    assert answer(stage, REQUEST, b"done").body == b"done"


def test_whoever_sends_it_meanwhile_waits_for_the_answer(stage: Stage) -> None:
    meanwhile: list[Future[Answer]] = []

    with ThreadPoolExecutor(1) as pool:
        with stage.worker().database.transaction() as tx:

            def work() -> Answer:
                meanwhile.append(pool.submit(answer, stage, REQUEST, b"second"))
                while not tx.one("SELECT count(*) AS n FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").n:
                    assert not meanwhile[0].done(), "it did not wait"
                return Answer(202, b"first")

            answers.answer_once(tx, work, api_key_id=stage.caller.key_id, request=REQUEST)
        assert meanwhile[0].result(30) == Answer(202, b"first")


def test_answers_are_kept_for_as_long_as_their_requests_can_be_sent_again(stage: Stage) -> None:
    ages = (29, 31, 36)
    for minutes in ages:
        answer(stage, bytes([minutes]), b"first")
        stage.query(
            "UPDATE answers SET at = now() - %(age)s WHERE request = %(request)s AND api_key_id = %(id)s RETURNING at",
            age=timedelta(minutes=minutes),
            request=bytes([minutes]),
            id=stage.caller.key_id,
        )
    assert sweep(stage.runtime)

    assert [answer(stage, bytes([minutes]), b"second").body for minutes in ages] == [b"first", b"first", b"second"]
