"""A door's own terms: a limit inside the project's, a size, and words that are told again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from common.errors import Refusal
from common.model.imports import ImportState, Terms
from tests.stage import Stage, event, ndjson
from workers.imports.plan import plan_import

DOOR = Terms(door="narrow", limit=2)


def test_a_door_lets_in_no_more_than_its_own_limit_and_keeps_nobody_from_the_others(stage: Stage) -> None:
    held = [stage.start(b"", terms=DOOR) for _ in range(2)]

    with pytest.raises(Refusal) as refused:
        stage.start(b"", terms=DOOR)

    assert refused.value.code == "too_many_active_imports"
    assert (refused.value.details["limit"], refused.value.details["activeImports"]) == (2, held)
    stage.start(b"")
    stage.start(b"", terms=Terms(door="other", limit=1))
    stage.desk.cancel_import(stage.caller, held[0])
    stage.start(b"", terms=DOOR)


def test_a_door_is_shut_too_once_the_project_has_no_slot_left(stage: Stage) -> None:
    for _ in range(stage.settings.import_limit):
        stage.start(b"")

    with pytest.raises(Refusal) as refused:
        stage.start(b"", terms=DOOR)

    assert refused.value.details["limit"] == stage.settings.import_limit


def test_a_crowd_before_a_door_leaves_as_many_as_it_takes(stage: Stage) -> None:
    body = stage.put(b"")

    def enter(_: int) -> bool:
        try:
            stage.start(body, terms=DOOR)
        except Refusal:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(enter, range(24))) == 2


def test_an_import_of_more_bytes_than_its_door_takes_fails_before_anything_is_loaded(stage: Stage) -> None:
    body = ndjson(event("a"), event("b"))

    taken = stage.run(body, terms=Terms(most_bytes=len(body)))
    refused = stage.run(body, terms=Terms(most_bytes=len(body) - 1), collection="none")

    assert taken.state is ImportState.COMPLETED
    assert refused.state is ImportState.FAILED
    assert refused.error
    assert refused.error.code == "source_too_large"
    assert stage.rows("none") == []


def test_what_was_asked_in_a_doors_own_words_is_told_again_and_another_doors_import_has_none(stage: Stage) -> None:
    asked = {"S3Url": "s3://b/k", "nested": {"é": [1, None]}}

    import_id = stage.start(b"", terms=Terms(asked=asked))

    assert stage.status(import_id).asked == asked
    assert stage.status(stage.start(b"")).asked == {}
    plan_import(stage.runtime, import_id)
    assert stage.status(import_id).asked == asked
