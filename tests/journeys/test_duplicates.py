"""Each id once: inside an import, across imports, and across imports that run at the same time."""

from __future__ import annotations

from tests.journeys.audit import audit, audit_complete
from tests.journeys.oracle import make_object
from tests.journeys.stack import Stack


def test_importing_an_object_again_adds_only_the_lines_without_id(stack: Stack, collection: str) -> None:
    source = make_object(1, 12_000)
    key = stack.put(source.content)
    first = stack.start(key, collection)
    stack.follow(first)
    audit_complete(stack, collection, first, source)
    again = stack.start(key, collection)
    stack.follow(again)

    _, found = audit(stack, collection, (first, source), (again, source))
    without_id = sum(line.key is None for line in source.events)
    assert without_id > 100
    assert found.counts["imported"] == without_id
    assert found.counts["duplicates"] == len(source.events) - without_id
    owned = stack.value(
        "SELECT sum(d.lines) FROM chunk_duplicates AS d JOIN chunks AS c ON c.id = d.chunk_id"
        " WHERE c.import_id = %(id)s",
        id=again,
    )
    assert owned == found.counts["duplicates"]


def test_redis_may_forget_between_two_imports_of_the_same_object(stack: Stack, collection: str) -> None:
    """Every id of the second import is called new, and every COPY meets the unique key."""
    source = make_object(1, 6_000)
    key = stack.put(source.content)
    first = stack.start(key, collection)
    stack.follow(first)
    stack.drain()
    stack.flush()
    again = stack.start(key, collection)
    stack.follow(again)

    _, found = audit(stack, collection, (first, source), (again, source))
    assert found.counts["imported"] == sum(line.key is None for line in source.events)


def test_two_imports_at_once_that_share_ids_store_each_once(stack: Stack, collection: str) -> None:
    one = make_object(71, 15_000)
    other = make_object(72, 15_000, from_ids_of=71)
    keys = [stack.put(one.content), stack.put(other.content)]
    first, second = (stack.start(key, collection) for key in keys)
    stack.follow(first)
    stack.follow(second)

    found, found_too = audit(stack, collection, (first, one), (second, other))
    ids, ids_too = ({line.key for line in source.events} - {None} for source in (one, other))
    without_id = sum(line.key is None for source in (one, other) for line in source.events)
    assert len(ids & ids_too) > 3_000
    assert found.counts["imported"] + found_too.counts["imported"] == len(ids | ids_too) + without_id
    # They did run at the same time: each kept the other from storing some.
    assert found.counts["imported"] < len(one.firsts)
    assert found_too.counts["imported"] < len(other.firsts)
