"""Messages are hints: sending never fails, and the length of the queue is known or unknown, never wrong."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from typing import cast

import pytest
import redis
from kombu.exceptions import OperationalError

from common.dispatch import EXPORTS, WALK, WALKS, WRITE_EXPORT, Dispatch, Lane, make_app
from deploy.local.servers import Servers
from tests.stage import Stage
from workers import tasks


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


def test_a_worker_looks_soon_for_a_broker_that_is_away(stage: Stage) -> None:
    app = make_app(replace(stage.settings, redis_url="redis://127.0.0.1:1/0"))
    pauses: list[float] = []
    with app.connection_for_read() as connection, pytest.raises(OperationalError):
        connection.ensure_connection(lambda _, pause: pauses.append(pause), max_retries=3)
    assert pauses == pytest.approx([0.2, 0.4, 0.6])


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


def test_long_chunks_wait_in_a_queue_that_none_but_walkers_serve(stage: Stage) -> None:
    dispatch = Dispatch.from_settings(stage.settings)
    dispatch.load_chunk(7, long=True)

    assert [dispatch.queue_length(lane) for lane in Lane] == [0, 1, 0]
    with redis.Redis.from_url(stage.settings.redis_url) as client:
        (message,) = cast(list[bytes], client.lrange(WALKS, 0, -1))
    assert json.loads(message)["headers"]["task"] == WALK
    stage.flush_redis()


def test_exports_wait_in_a_queue_that_none_but_exporters_serve(stage: Stage) -> None:
    dispatch = Dispatch.from_settings(stage.settings)
    assert dispatch.write_export("0" * 32)

    assert [dispatch.queue_length(lane) for lane in Lane] == [0, 0, 1]
    with redis.Redis.from_url(stage.settings.redis_url) as client:
        (message,) = cast(list[bytes], client.lrange(EXPORTS, 0, -1))
    assert json.loads(message)["headers"]["task"] == WRITE_EXPORT
    stage.flush_redis()


def test_a_walk_or_an_export_may_take_as_long_as_its_setting_says_and_any_other_task_as_long_as_before(
    stage: Stage,
) -> None:
    settings = replace(
        stage.settings, lease_ceiling_seconds=5.0, walk_ceiling_seconds=50_000.0, export_ceiling_seconds=70_000.0
    )
    with make_app(settings) as app:
        app.finalize()  # gives it the shared tasks, once they have been imported
        walk, load, write = (app.tasks[task.name] for task in (tasks.walk_chunk, tasks.load_chunk, tasks.write_export))

        assert 50_000 < walk.time_limit < 51_000
        assert 70_000 < write.time_limit < 71_000
        assert 5 < load.time_limit < 1_000
