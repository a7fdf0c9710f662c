"""What a caller is told while an import runs is true, and its keys are told to nobody."""

from __future__ import annotations

import base64

from common.dispatch import QUEUE
from tests.journeys.audit import audit_complete
from tests.journeys.oracle import SENTENCES, make_object
from tests.journeys.stack import Fault, RedisEar, Stack, dump_redis


def test_what_connect_shows_while_an_import_runs_is_true(stack: Stack, collection: str) -> None:
    source = make_object(142, 25_000, bad=0.02)
    import_id = stack.start(stack.put(source.content), collection)
    poll = stack.follow(import_id, often=True)

    audit_complete(stack, collection, import_id, source)
    running = [status for status in poll.seen if status["status"] == "running"]
    assert len({status["percentComplete"] for status in running}) > 5, "too few steps were seen to say anything"
    assert poll.final["importedEvents"] == len(source.firsts)
    assert poll.final["duplicateEvents"] == len(source.events) - len(source.firsts)
    assert len(poll.final["eventErrors"]) == min(len(source.rejects), 1000)
    for line, error in zip(source.rejects, poll.final["eventErrors"], strict=False):
        assert error["error"] == SENTENCES[line.code]
    # An error is listed while the import runs, not only afterwards.
    assert any(status["eventErrors"] for status in running)


def test_the_callers_s3_secret_is_found_nowhere(stack: Stack, collection: str) -> None:
    source = make_object(1, 15_000)
    key = stack.put(source.content)
    sealed: list[bytes] = []
    kept: list[bytes] = []

    def look() -> None:
        sealed.extend(bytes(row.sealed) for row in stack.rows("SELECT sealed FROM import_secrets"))
        with stack.redis() as client:
            kept.append(dump_redis(client))

    with RedisEar(stack.redis_url) as ear:
        import_id = stack.start(key, collection)
        stack.follow(import_id, *(Fault(percent, look) for percent in (0, 20, 60)))
        heard = ear.heard()
    audit_complete(stack, collection, import_id, source)
    answers = [stack.request("GET", f"/event-import/{import_id}").body, stack.status(import_id)]

    # Sentries for the search itself: it finds what is there, and a secret inside a message as kombu writes it.
    assert import_id.encode() in heard
    assert b'"LPUSH" "%b"' % QUEUE.encode() in heard, "the queue is another key than the one that is waited for"
    assert import_id.encode() in b"".join(kept)
    for text in (f'[["{stack.canary}"], {{}}]', f'[[1, "{stack.canary}"]]', f'[["id", "{stack.canary}"]]'):
        assert stack.find_secret(base64.b64encode(text.encode()))
    assert sealed, "nobody saw the sealed secret while the import ran"
    assert not stack.find_secret(b"".join(sealed))
    assert not stack.find_secret(heard), "a command to Redis held the S3 secret"
    assert not stack.find_secret(b"".join(kept)), "a key of Redis held the S3 secret"
    assert stack.canary not in repr(answers)
    stack.check_logs()
