"""The supervisor of the local stack, on stand-ins for the service's processes: what dies is started again."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import commands, service
from deploy.local.family import Family
from deploy.local.reaper import runs
from deploy.local.service import Project, Service

STAND_IN = "import os, time; print('stand-in ready.', flush=True); os.fork(); time.sleep(60)"


class GivenServers:
    """As much of `Servers` as a service asks for."""

    database_url = "postgresql://given"
    redis_url = "redis://given"
    s3_endpoint = "http://given"
    s3_access_key_id = "key"
    s3_secret_access_key = "secret"
    pids = {"postgres": None, "redis": None, "s3": None}  # noqa: RUF012 -- a stand-in, never changed

    def __init__(self) -> None:
        self.family = Family()


def stand_in(*_: object) -> list[str]:
    return [sys.executable, "-c", STAND_IN]


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Service]:
    def prepare(started: Service, _servers: object) -> None:
        started.project = Project("0" * 32, "local", "a key", "a pair's id", "a secret")

    for name in ("web_command", "worker_command", "walker_command", "exporter_command", "flower_command"):
        monkeypatch.setattr(service, name, stand_in)
    monkeypatch.setattr(service, "answers_http", lambda _url: True)
    monkeypatch.setattr(service.Service, "_prepare", prepare)
    servers = GivenServers()
    with Service.start(servers, logs=tmp_path / "logs", workers=2) as started:  # type: ignore[arg-type]
        yield started
    servers.family.close()


def watch_until_changed(running: Service) -> float:
    begun = time.monotonic()
    while not running.watch():
        assert time.monotonic() - begun < 5, "nothing was started again"
        time.sleep(0.01)
    return time.monotonic() - begun


def test_a_killed_worker_is_started_again_and_the_others_stay(running: Service) -> None:
    web, (first, second) = running.pids["web"], running.pids["worker"]
    os.kill(first, signal.SIGKILL)
    watch_until_changed(running)
    again, same = running.pids["worker"]

    assert again != first
    assert (same, running.pids["web"]) == (second, web)


def test_what_a_dead_worker_leaves_of_its_group_is_killed(running: Service) -> None:
    first = running.pids["worker"][0]
    pool = [int(pid) for pid in children(first)]
    assert pool
    os.kill(first, signal.SIGKILL)
    watch_until_changed(running)

    assert not any(runs(pid) for pid in pool)


def test_a_process_that_keeps_dying_is_started_more_and_more_slowly(running: Service) -> None:
    pauses = []
    for _ in range(3):
        os.kill(running.pids["worker"][0], signal.SIGKILL)
        pauses.append(watch_until_changed(running))

    assert pauses[0] < pauses[1] < pauses[2]


def test_supervision_in_the_background_and_one_more_worker(running: Service) -> None:
    with running.supervised():
        added = running.add_worker()
        assert added in running.pids["worker"]
        os.kill(added, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while len(running.pids["worker"]) < 3 or added in running.pids["worker"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_stopping_ends_all_of_it(running: Service) -> None:
    pids = [pid for of_role in running.pids.values() for pid in of_role]
    running.stop()

    assert len(pids) == 5
    assert not any(runs(pid) for pid in pids)
    assert running.pids == {"web": [], "worker": [], "walker": [], "exporter": [], "flower": []}


def test_the_hosts_keys_do_not_reach_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the host's")
    monkeypatch.setenv("PGPASSWORD", "the host's")
    monkeypatch.setenv("FLOWER_BASIC_AUTH", "the host's")
    monkeypatch.setenv("PENSTOCK_CHUNK_BYTES", "65536")
    monkeypatch.setenv("PENSTOCK_IMPORT_LIMIT", "3")
    servers = GivenServers()
    made = commands.environment(
        servers,  # type: ignore[arg-type]
        port=1,
        api="http://127.0.0.1:1",
        settings={"PENSTOCK_IMPORT_LIMIT": "4"},
    )
    servers.family.close()

    assert "the host's" not in made.values()
    assert made["PENSTOCK_CHUNK_BYTES"] == "65536"
    assert made["PENSTOCK_IMPORT_LIMIT"] == "4"
    assert made["PENSTOCK_OWN_BUCKETS"] == "", "an S3 of the user's own is not open to wires without keys"


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
