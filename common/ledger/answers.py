"""What signed requests were answered that wrote something: whoever sends one again gets that, and nothing is done.

A signature is good for a quarter of an hour, for whoever has seen it too. What makes an import or an export has its
idempotency key for that, made of the same bytes; this is for all else that must not be done twice, or not later than
something that came after it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

from common.ledger.database import Tx
from common.ledger.queries import load_queries

_SQL = load_queries("answers")

#: A signature may be of a clock that is a quarter of an hour ahead, and is good for another one after its time.
_KEEP = timedelta(minutes=35)


class Answer(NamedTuple):
    """An answer as it was given, but for headers, which are the same for each of a kind."""

    status: int
    body: bytes


def answer_once(tx: Tx, work: Callable[[], Answer], *, api_key_id: str, request: bytes) -> Answer:
    """Return what the request was answered before, or have it done by ``work``, in this transaction, and remember that.

    What ``work`` raises is not remembered. Blocks while the same request is under way.
    """
    values = {"api_key_id": api_key_id, "request": request}
    tx.run(_SQL["hold_request"], **values)
    row = tx.one(_SQL["find_answer"], **values)
    if row:
        return Answer(row.status, bytes(row.body))
    answer = work()
    tx.run(_SQL["insert_answer"], **values, status=answer.status, body=answer.body)
    return answer


def delete_old_answers(tx: Tx) -> int:
    """Delete answers whose requests nobody can send again, and return how many there were. Safe to run twice."""
    return tx.run(_SQL["delete_old_answers"], keep=_KEEP)
