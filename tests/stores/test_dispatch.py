"""Messages are hints: sending never fails, and the length of the queue is known or unknown, never wrong."""

from __future__ import annotations

import time

from common.dispatch import Dispatch, make_app
from tests.stage import Stage


def test_an_empty_queue_has_the_length_nought_and_each_message_adds_one(stage: Stage) -> None:
    dispatch = Dispatch.from_settings(stage.settings)
    assert dispatch.queue_length() == 0

    dispatch.plan_import("0" * 32)
    dispatch.load_chunk(7)
    assert dispatch.queue_length() == 2

    stage.flush_redis()
    assert dispatch.queue_length() == 0


def test_without_a_broker_sending_gives_up_quickly_and_raises_nothing() -> None:
    dispatch = Dispatch(make_app("redis://127.0.0.1:1/0", timeout_seconds=0.5))
    began = time.monotonic()
    dispatch.load_chunk(1)

    assert dispatch.queue_length() is None
    assert time.monotonic() - began < 5
