"""Messages are hints: sending never fails, and the length of the queue is known or unknown, never wrong."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

from common.dispatch import Dispatch, make_app
from deploy.local.servers import Servers
from tests.stage import Stage


def test_an_empty_queue_has_the_length_nought_and_each_message_adds_one(stage: Stage) -> None:
    dispatch = Dispatch.from_settings(stage.settings)
    assert dispatch.queue_length() == 0

    dispatch.plan_import("0" * 32)
    dispatch.load_chunk(7)
    assert dispatch.queue_length() == 2

    stage.flush_redis()
    assert dispatch.queue_length() == 0


def test_without_a_broker_sending_gives_up_quickly_and_raises_nothing(stage: Stage) -> None:
    dispatch = Dispatch(make_app(replace(stage.settings, redis_url="redis://127.0.0.1:1/0"), answer_seconds=0.5))
    began = time.monotonic()
    dispatch.load_chunk(1)

    assert dispatch.queue_length() is None
    assert time.monotonic() - began < 5


def test_a_broker_that_hangs_is_waited_for_no_longer_than_the_setting_says(stage: Stage, servers: Servers) -> None:
    pid = servers.pids["redis"]
    assert pid is not None, "this test needs a Redis of its own"
    dispatch = Dispatch.from_settings(replace(stage.settings, redis_timeout_seconds=0.5))
    dispatch.load_chunk(1)
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        dispatch.load_chunk(2)
        assert dispatch.queue_length() is None
        assert stage.runtime.seen.mark(1, [b"x" * 16]) == [False]
        assert time.monotonic() - began < 8
    finally:
        os.kill(pid, signal.SIGCONT)
