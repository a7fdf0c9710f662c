"""Projects and their keys in the ledger: two live keys at most, under any race; uses noted, and never waited for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api.callers import ALL_SCOPES, PUSH, create_key
from common.errors import Refusal
from common.ledger import projects
from tests.stage import Stage


def make_key(stage: Stage, **more: Any) -> str:
    """Create a key and return its id."""
    with stage.worker().database.transaction() as tx:
        return create_key(tx, stage.caller.project_id, [PUSH], **more).split("_")[1]


def live_keys(stage: Stage) -> list[str]:
    with stage.runtime.database.transaction() as tx:
        return [key.id for key in projects.list_keys(tx, stage.caller.project_id) if key.state == "live"]


def last_used(stage: Stage, key_id: str) -> datetime | None:
    (row,) = stage.query("SELECT last_used_at FROM api_keys WHERE id = %(id)s", id=key_id)
    return row.last_used_at  # type: ignore[no-any-return]


def test_a_third_live_key_is_refused_with_the_ids_of_the_two(stage: Stage) -> None:
    two = [make_key(stage), make_key(stage)]
    with pytest.raises(Refusal, match="Revoke one") as refused:
        make_key(stage)
    assert sorted(refused.value.details["keys"]) == sorted(two)

    with stage.runtime.database.transaction() as tx:
        projects.revoke_key(tx, two[0])
    assert make_key(stage)


def test_an_expired_key_makes_room(stage: Stage) -> None:
    first, _ = make_key(stage), make_key(stage)
    stage.query("UPDATE api_keys SET expires_at = now() WHERE id = %(id)s RETURNING id", id=first)

    assert make_key(stage)


def test_of_twelve_that_are_made_at_once_two_live(stage: Stage) -> None:
    def make(_: int) -> str | None:
        try:
            return make_key(stage)
        except Refusal:
            return None

    with ThreadPoolExecutor(12) as pool:
        made = [key_id for key_id in pool.map(make, range(12)) if key_id]

    assert len(made) == 2
    assert sorted(made) == sorted(live_keys(stage))


def test_room_is_made_by_ending_the_key_unused_for_longest(stage: Stage) -> None:
    used = make_key(stage)
    with stage.runtime.database.transaction() as tx:
        assert projects.make_room(tx, stage.caller.project_id) == []
    unused = make_key(stage)
    with stage.runtime.database.transaction() as tx:
        projects.note_use(tx, used)
    with stage.runtime.database.transaction() as tx:
        assert projects.make_room(tx, stage.caller.project_id) == [unused]

    assert live_keys(stage) == [used]


def test_a_key_must_expire_in_the_future(stage: Stage) -> None:
    for past in (datetime(2020, 1, 1, tzinfo=UTC), timedelta(0)):
        with pytest.raises(Refusal, match="future"):
            make_key(stage, expires=past)
    make_key(stage, expires=timedelta(days=90))
    make_key(stage, expires=datetime(2200, 1, 1, tzinfo=UTC))

    with stage.runtime.database.transaction() as tx:
        found = [key for key in projects.list_keys(tx, stage.caller.project_id) if key.state == "live"]
    assert found[0].expires_at == found[0].created_at + timedelta(days=90)
    assert found[1].expires_at == datetime(2200, 1, 1, tzinfo=UTC)


def test_a_revocation_is_made_once(stage: Stage) -> None:
    key_id = make_key(stage)
    with stage.runtime.database.transaction() as tx:
        first = projects.revoke_key(tx, key_id)
    with stage.runtime.database.transaction() as tx:
        assert projects.revoke_key(tx, key_id) == first
        with pytest.raises(Refusal, match="no key"):
            projects.revoke_key(tx, "0" * 12)


def test_a_use_is_noted_once_a_minute(stage: Stage) -> None:
    key_id = make_key(stage)
    assert last_used(stage, key_id) is None
    for _ in range(2):
        with stage.runtime.database.transaction() as tx:
            projects.note_use(tx, key_id)
        first = last_used(stage, key_id)
        assert first
    with stage.runtime.database.transaction() as tx:
        projects.note_use(tx, key_id)
    assert last_used(stage, key_id) == first

    ago = "UPDATE api_keys SET last_used_at = now() - interval '61 seconds' WHERE id = %(id)s RETURNING id"
    stage.query(ago, id=key_id)
    with stage.runtime.database.transaction() as tx:
        projects.note_use(tx, key_id)
    noted = last_used(stage, key_id)
    assert noted
    assert noted > first


def test_a_use_is_not_noted_behind_a_lock(stage: Stage) -> None:
    key_id = make_key(stage)
    with stage.worker().database.transaction() as other:
        other.run("SELECT id FROM api_keys WHERE id = %(id)s FOR UPDATE", id=key_id)
        with stage.runtime.database.transaction() as tx:
            projects.note_use(tx, key_id)
    assert last_used(stage, key_id) is None


def test_a_project_is_made_once_and_found_by_name_or_id(stage: Stage) -> None:
    with ThreadPoolExecutor(4) as pool:
        name = f"the project of {stage.caller.key_id}"

        def make(_: int) -> str:
            with stage.worker().database.transaction() as tx:
                return projects.create_project(tx, name)

        ids = set(pool.map(make, range(8)))
    (project_id,) = ids
    with stage.runtime.database.transaction() as tx:
        assert projects.find_project(tx, name) == projects.find_project(tx, project_id)
        assert projects.find_project(tx, name).id == project_id
        with pytest.raises(Refusal, match="no project 'nobody'"):
            projects.find_project(tx, "nobody")


def test_a_new_key_does_not_wait_for_imports_nor_they_for_it(stage: Stage) -> None:
    with stage.worker().database.transaction() as other:
        projects.create_key(
            other, key_id="f" * 12, project_id=stage.caller.project_id, secret_sha256=b"", scopes=ALL_SCOPES
        )
        assert stage.start(b"")
