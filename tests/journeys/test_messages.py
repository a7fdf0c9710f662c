"""Messages are hints: doubled, late, foreign and broken ones change nothing."""

from __future__ import annotations

import os
import uuid
from random import Random
from typing import Any

from common.dispatch import LOAD_CHUNK, PLAN_IMPORT, QUEUE, make_app
from common.settings import Settings
from tests.journeys.audit import audit_complete
from tests.journeys.oracle import make_object
from tests.journeys.stack import Fault, Stack, wait_until

#: 7 ms each: 10,000 of them take longer than a minute, and have shown nothing that these do not.
MESSAGES = int(os.environ.get("PENSTOCK_TEST_MESSAGES", "2000"))


def test_thousands_of_doubled_late_foreign_and_broken_messages_change_nothing(stack: Stack, collection: str) -> None:
    """Before, during and after an import; a worker that takes one goes on with the next."""
    ended = make_object(1, 2_000)
    ended_id = stack.start(stack.put(ended.content), f"{collection}-ended")
    stack.follow(ended_id)
    cancelled_id = stack.start(stack.put(ended.content), f"{collection}-cancelled")
    stack.cancel(cancelled_id)
    before = _everything(stack)
    workers = stack.service.pids["worker"]

    source = make_object(1, 20_000)
    import_id = stack.start(stack.put(source.content), collection)
    sent = 0

    def send(share: int) -> None:
        nonlocal sent
        sent += _send(stack, Random(share), MESSAGES // 4, import_id, ended_id, cancelled_id)

    stack.follow(import_id, *(Fault(percent, lambda p=percent: send(p)) for percent in (0, 5)), within=240)
    send(100)
    send(101)
    stack.drain(idle=1.0, within=240)

    assert sent == MESSAGES // 4 * 4
    assert stack.service.pids["worker"] == workers, "a message has killed a worker"
    audit_complete(stack, collection, import_id, source)
    audit_complete(stack, f"{collection}-ended", ended_id, ended)
    assert {key: value for key, value in _everything(stack).items() if key in before} == before


def test_what_is_no_message_at_all_does_not_end_the_workers_for_good(stack: Stack, collection: str) -> None:
    """Whoever writes into the list by hand: the transport itself fails to read it."""
    broken = [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"body": 1}', b'{"body": "x", "properties": {}}', b"[" * 10_000]
    with stack.redis() as client:
        for one in broken:
            client.lpush(QUEUE, one)
    source = make_object(1, 2_000)
    import_id = stack.start(stack.put(source.content), collection)
    stack.follow(import_id, within=120)

    audit_complete(stack, collection, import_id, source)
    wait_until(lambda: len(stack.workers_up()) == stack.workers, what="all workers are up")


def _everything(stack: Stack) -> dict[str, str]:
    """Return every import and its chunks as they stand in the ledger."""
    rows = stack.rows(
        "SELECT i.id, i::text AS job, (SELECT string_agg(c::text, ' ' ORDER BY c.id) FROM chunks AS c"
        " WHERE c.import_id = i.id) AS chunks FROM imports AS i"
    )
    return {row.id: f"{row.job} {row.chunks}" for row in rows}


def _send(stack: Stack, dice: Random, number: int, *import_ids: str) -> int:
    """Send so many messages, drawn from all kinds; return their number."""
    environment = stack.service.environment
    app = make_app(Settings.from_environment(environment))
    chunks = [row.id for row in stack.rows("SELECT id FROM chunks WHERE import_id = ANY (%(ids)s::uuid[])",
              ids=list(import_ids))]  # fmt: skip
    chunks = chunks or [1]
    kinds: list[tuple[str, Any]] = []
    kinds += [(LOAD_CHUNK, lambda: [dice.choice(chunks)])] * 4  # doubled, of done chunks too
    kinds += [(PLAN_IMPORT, lambda: [dice.choice(import_ids)])] * 2
    kinds += [(LOAD_CHUNK, lambda: [dice.choice([0, -1, 2**31, 2**62, 2**63, 2**70, 10**400])])]
    kinds += [(PLAN_IMPORT, lambda: [uuid.UUID(int=dice.getrandbits(128)).hex])]
    kinds += [(task, lambda: [dice.choice(_GARBAGE)]) for task in (LOAD_CHUNK, PLAN_IMPORT)]
    kinds += [(task, lambda: dice.choice([[], [1, 2], ["a", "b", "c"]])) for task in (LOAD_CHUNK, PLAN_IMPORT)]
    kinds += [(dice.choice(["imports.unknown", "os.system", "celery.backend_cleanup"]), lambda: [1])]
    with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
        for _ in range(number):
            task, arguments = dice.choice(kinds)
            app.send_task(task, args=arguments(), producer=producer, retry=False)
    return number


_GARBAGE: list[Any] = [None, True, "", "x", "'; DROP TABLE events; --", "\0", "ü" * 10_000, 1.5, [], [1], {}, {"id": 1}]
