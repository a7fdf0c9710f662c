"""P7: after the answer no further row."""

from __future__ import annotations

import pytest

from tests.journeys.audit import audit, audit_complete
from tests.journeys.oracle import make_object
from tests.journeys.stack import Answer, Fault, Stack


@pytest.mark.parametrize("percent", [2, 20, 40, 60])
def test_after_the_answer_to_a_cancel_no_further_row_appears(stack: Stack, collection: str, percent: float) -> None:
    source = make_object(1, 20_000)
    import_id = stack.start(stack.put(source.content), collection)
    answers: list[Answer] = []
    stored: list[int] = []

    def cancel() -> None:
        answers.append(stack.cancel(import_id))
        stored.append(stack.stored(import_id))

    poll = stack.follow(import_id, Fault(percent, cancel))
    stack.drain(idle=1.0)

    assert stack.stored(import_id) == stored[0]
    assert answers[0].status == 200
    assert answers[0].body["status"] == stack.status(import_id)["status"] == "cancelled"
    assert answers[0].body["counts"]["imported"] == stored[0]
    assert (poll.final["status"], poll.final["error"]) == ("failed", "The import was cancelled.")
    (found,) = audit(stack, collection, (import_id, source))
    assert found.counts["imported"] < len(source.firsts)
    again = stack.cancel(import_id)
    assert (again.status, again.body["counts"]) == (200, answers[0].body["counts"])


def test_an_import_that_has_ended_is_not_cancelled(stack: Stack, collection: str) -> None:
    source = make_object(1, 500)
    import_id = stack.start(stack.put(source.content), collection)
    stack.follow(import_id)

    assert stack.cancel(import_id).status == 409
    audit_complete(stack, collection, import_id, source)


def test_the_rest_of_a_cancelled_import_can_be_imported_afterwards(stack: Stack, collection: str) -> None:
    source = make_object(1, 15_000)
    key = stack.put(source.content)
    cancelled = stack.start(key, collection)
    stack.follow(cancelled, Fault(30, lambda: stack.cancel(cancelled)))
    again = stack.start(key, collection)
    stack.follow(again)

    audits = audit(stack, collection, (cancelled, source), (again, source))
    assert [found.state for found in audits] == ["cancelled", "completed_with_errors"]
    with_id = {line.key for line in source.events} - {None}
    assert stack.value(
        "SELECT count(*) FROM events WHERE collection_id = (SELECT id FROM collections WHERE name = %(name)s)"
        " AND get_byte(uuid_send(event_id), 8) >= 128",
        name=collection,
    ) == len(with_id)
