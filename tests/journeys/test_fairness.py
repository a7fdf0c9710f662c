"""A small import does not wait for a large one, and imports that run side by side share the workers."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.journeys.audit import audit_complete
from tests.journeys.oracle import make_object
from tests.journeys.stack import BUCKET, MAPPING, Fault, Stack, wait_until

#: Chunks of a large import that may be committed while the plan of a small one waits, and then its first chunk: each of
#: two workers ends the one it is at, and may take one more before it is the small one's turn. Twice that, and not the
#: window of 8 before either.
FEW = 8


def test_a_small_import_behind_a_large_one_starts_within_a_few_chunks(stack: Stack, collection: str) -> None:
    large, small = make_object(1, 30_000), make_object(97, 200)
    keys = [stack.put(source.content) for source in (large, small)]
    large_id = stack.start(keys[0], collection)
    started: list[str] = []

    def start_small() -> None:
        started.append(stack.start(keys[1], f"{collection}-{len(started)}"))

    stack.follow(large_id, *(Fault(percent, start_small) for percent in (5, 25, 45, 65)))
    for import_id in started:
        stack.follow(import_id)

    passed_by = [_chunks_done_while_waiting(stack, of=large_id, waiting=import_id) for import_id in started]
    assert max(passed_by) <= FEW, passed_by
    audit_complete(stack, collection, large_id, large)
    for number, import_id in enumerate(started):
        audit_complete(stack, f"{collection}-{number}", import_id, small)


@pytest.mark.parametrize("of_one_project", [1, 3])
def test_imports_that_run_at_once_get_equal_shares_of_the_workers_whose_ever_they_are(
    stack: Stack, collection: str, of_one_project: int
) -> None:
    """The rule is one turn an import: three imports of a project have three times the share of another's one."""
    source = make_object(1, 36_000 // (of_one_project + 1))
    key, start_theirs = stack.put(source.content), _another_project(stack, f"other-{of_one_project}")
    ids = [stack.start_native(key, f"{collection}-{n}") for n in range(of_one_project)]
    ids.append(start_theirs(key))
    unfinished = "SELECT count(*) FROM imports WHERE id = ANY (%(ids)s::uuid[]) AND finished_at IS NULL"
    wait_until(lambda: stack.value(unfinished, ids=ids) == 0, what="all imports are done", within=60)

    done = dict(
        stack.rows(
            "SELECT c.import_id, count(*) FROM chunks AS c,"
            " (SELECT max(started_at) AS all_started, min(finished_at) AS one_ended FROM imports"
            "  WHERE id = ANY (%(ids)s::uuid[])) AS i"
            " WHERE c.import_id = ANY (%(ids)s::uuid[]) AND c.done_at BETWEEN i.all_started AND i.one_ended"
            " GROUP BY c.import_id",
            ids=ids,
        )
    )
    shares = [count / sum(done.values()) for count in done.values()]
    assert len(shares) == len(ids)
    # 30 % at most of four (twelve runs) and 60 % of two (six); an import with messages sent twice had 36 % of four.
    assert max(shares) <= 1.3 / len(ids), shares
    audit_complete(stack, f"{collection}-0", ids[0], source)


def _another_project(stack: Stack, name: str) -> Callable[[str], str]:
    """Make a project, which takes a process of a second or two, and return what starts imports of it."""
    made = json.loads(stack.service.run("api.admin", "create-project", name).splitlines()[-1])
    headers = {"Authorization": f"Bearer {made['apiKey']}"}

    def start(key: str) -> str:
        source = {"url": f"s3://{BUCKET}/{key}", "accessKeyId": stack.key_id, "secretAccessKey": stack.canary}
        body = {"collection": "events", "source": source, "mapping": MAPPING}
        answer = stack.request("POST", "/api/imports", body, native=True, headers=headers)
        assert answer.status == 201, answer
        return str(answer.body["id"])

    return start


def _chunks_done_while_waiting(stack: Stack, *, of: str, waiting: str) -> int:
    """Return how many chunks of one import were committed while another's plan and first chunk waited for a worker."""
    return int(
        stack.value(
            "SELECT count(*) FROM chunks AS c, imports AS i WHERE i.id = %(waiting)s AND c.import_id = %(of)s AND"
            " (c.done_at BETWEEN i.created_at AND (SELECT min(at) FROM import_history"
            "                                      WHERE import_id = i.id AND state = 'planning')"
            "  OR c.done_at BETWEEN i.started_at AND (SELECT min(leased_at) FROM chunks WHERE import_id = i.id))",
            of=of,
            waiting=waiting,
        )
    )
