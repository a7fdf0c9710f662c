"""What an operator sees of a running service: its logs and Flower, while an import goes through it."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from flower.urls import handlers

from deploy.local.commands import ROOT, flower_command
from deploy.local.reaper import runs
from deploy.local.servers import Servers
from deploy.local.service import Service
from tests.journeys.stack import wait_until
from tests.stack.operating import CANARY, REQUEST_ID, ask, own_database, run_import


class Running(NamedTuple):
    """A service with Flower, and an import of some chunks that has gone through it."""

    service: Service
    logs: Path
    import_id: str

    def ask_flower(self, path: str, *, method: str = "GET", user: str | None = None) -> tuple[int, str]:
        headers = {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"} if user else {}
        return ask(f"{self.service.flower}{path}", method=method, headers=headers)

    @property
    def user(self) -> str:
        return f"{self.service.flower_user}:{self.service.flower_password}"

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.logs / f"{name}.log").read_text().splitlines()]


@pytest.fixture(scope="module")
def running(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    logs = tmp_path_factory.mktemp("logs")
    settings = {
        **own_database(servers, "operations", 14),
        "PENSTOCK_CHUNK_BYTES": "65536",
        "PENSTOCK_S3_ADDRESSING": "path",
        "PENSTOCK_LOG_LEVEL": "debug",
        # As behind a proxy of this machine.
        "PENSTOCK_PROXIES": "127.0.0.1",
        "PENSTOCK_BASE_URL": "",
    }
    with Service.start(servers, logs=logs, workers=1, flower=True, settings=settings) as service:
        yield Running(service, logs, run_import(servers, service.api, service.api_key, lines=2000))


# --- logs


def test_every_line_of_every_process_is_one_object_with_the_same_first_keys(running: Running) -> None:
    pool = [int(pid) for pid in _children(running.service.pids["worker"][0]) if not _is_sweep(pid)]
    os.kill(pool[0], signal.SIGKILL)
    wait_until(
        lambda: [line for line in running.lines("worker-1") if "SIGKILL" in line["event"]],
        what="the worker tells that a process of its pool was killed",
    )
    running.service.add_worker()
    last = running.service.pids["worker"][-1]
    os.kill(last, signal.SIGTERM)
    wait_until(lambda: not runs(last), what="the second worker has stopped")

    for name in ("web", "worker-1", "worker-2", "walker-1", "exporter-1", "flower"):
        lines = running.lines(name)
        assert lines, name
        for line in lines:
            assert list(line)[:4] == ["time", "level", "logger", "event"], line
    loggers = {line["logger"] for name in ("web", "worker-1", "flower") for line in running.lines(name)}
    assert {"gunicorn.error", "api.access", "celery.apps.worker", "workers.imports.load", "flower.command"} <= loggers
    assert any("Warm shutdown" in line.get("words", "") for line in running.lines("worker-2"))


def test_an_import_can_be_followed_from_its_request_to_its_last_chunk(running: Running) -> None:
    web = [line for line in running.lines("web") if line.get("request_id") == REQUEST_ID]
    posted = [line for line in web if line.get("method") == "POST"]
    assert [line["event"] for line in web if line["event"] == "import_accepted"]
    assert [(line["status"], line["import_id"]) for line in posted] == [(201, running.import_id)]
    assert {line["project_id"] for line in posted} == {running.service.project.id}

    # The last lines of a chunk come after the import has ended: its task is over, and Celery says so.
    done = wait_until(
        lambda: [
            line for line in running.lines("worker-1") if "imports.load" in line["event"] and "succe" in line["event"]
        ],
        what="a task's end is told",
    )
    loaded = [line for line in running.lines("worker-1") if line["event"] == "chunk_loaded"]
    assert sorted(line["chunk"] for line in loaded) == list(range(len(loaded)))
    assert len(loaded) > 2
    assert sum(line["imported"] for line in loaded) == 2000
    for line in [*loaded, *done]:
        assert line["import_id"] == running.import_id
        assert (line["task"], len(line["task_id"])) == ("imports.load", 36)
        assert {"chunk", "attempt"} <= set(line)
    (settled,) = [line for line in running.lines("worker-1") if line["event"] == "import_settled"]
    assert settled["import_id"] == running.import_id


def test_what_a_request_held_stands_in_no_log(running: Running) -> None:
    key = running.service.api_key
    host, port = urlsplit(running.service.api).netloc.split(":")
    for bad in (f"X-API-Key : {key}", f"X-API-Key: {key}\x00", f"Expect: {key}", f" {key}"):
        _speak(host, int(port), f"GET /api/imports?{CANARY} HTTP/1.1\r\nHost: here\r\n{bad}\r\n\r\n")
    _speak(host, int(port), f"GET /api/imports?{CANARY} HTTP/9.{key}\r\n\r\n")
    ask(f"{running.service.api}/{CANARY}?key={key}", headers={"X-API-Key": CANARY, "User-Agent": CANARY})
    refused = wait_until(
        lambda: [line for line in running.lines("web") if line["event"].startswith("Invalid request from ip=")],
        what="gunicorn tells of requests that it refused",
    )

    assert all(line["logger"] == "gunicorn.error" for line in refused)
    for log in running.logs.glob("*.log"):
        text = log.read_text()
        assert CANARY not in text, log
        assert key.split("_", 2)[2] not in text, log
        assert running.service.flower_password not in text, log


# --- behind a proxy


def test_forwarded_headers_come_through_gunicorn(running: Running) -> None:
    forwarded = {
        "X-Forwarded-For": "10.9.9.9, 192.0.2.44",
        "X-Forwarded-Proto": "http, https",
        "X-Forwarded-Host": "caller.example.com, events.example.com",
        # Spellings that would mean the same to WSGI, and of which no proxy knows.
        "X_Forwarded_Host": "evil.example.com",
        "X_Forwarded_Proto": "gopher",
        "Script-Name": "/evil",
    }
    headers = {"Authorization": f"Bearer {running.service.api_key}", **forwarded}
    status, text = ask(f"{running.service.api}/api/imports/{running.import_id}", headers=headers)

    assert status == 200, text
    assert json.loads(text)["links"]["self"] == f"https://events.example.com/api/imports/{running.import_id}"


# --- Flower


def routes() -> Iterator[tuple[str, str]]:
    """Yield method and path of everything that Flower serves."""
    for handler in handlers:
        pattern = handler.regex.pattern if hasattr(handler, "regex") else handler[0]
        kind = handler.handler_class if hasattr(handler, "handler_class") else handler[1]
        path = pattern.removesuffix("$").replace("(.+)", "x").replace("(.*)", "x").replace("/?", "")
        for method in ("GET", "POST"):
            if method.lower() in vars(kind) and path != ".*":
                yield method, path


def test_flower_asks_everybody_for_the_password(running: Running) -> None:
    asked = list(routes())
    assert ("GET", "/tasks") in asked
    assert ("GET", "/api/workers") in asked
    # These say OK, "logged out", and Flower's own stylesheets.
    open_to_all = {"/healthcheck", "/logout", "/login", "/static/x"}
    for method, path in asked:
        if path not in open_to_all:
            for user in (None, "penstock:wrong", "penstock:", ":"):
                assert running.ask_flower(path, method=method, user=user)[0] == 401, f"{method} {path} as {user}"
    assert running.ask_flower("/healthcheck") == (200, "OK")


def test_flower_looks_and_does_not_touch(running: Running) -> None:
    acting = [path for method, path in routes() if method == "POST" and path != "/tasks/datatable"]
    assert len(acting) > 10
    for path in acting:
        assert running.ask_flower(path, method="POST", user=running.user)[0] == 403, path
    worker, *_ = json.loads(running.ask_flower("/api/workers?refresh=1", user=running.user)[1])
    for path in (f"/api/worker/shutdown/{worker}", "/api/task/send-task/imports.plan"):
        assert running.ask_flower(path, method="POST", user=running.user)[0] == 403, path
    assert runs(running.service.pids["worker"][0])


def test_flower_shows_workers_and_tasks_by_name_with_one_id_each(running: Running) -> None:
    status, metrics = running.ask_flower("/metrics", user=running.user)
    assert status == 200
    assert 'task="imports.load"' in metrics
    workers = json.loads(running.ask_flower("/api/workers?refresh=1", user=running.user)[1])
    for worker in workers.values():
        assert sorted(worker["registered"]) == ["exports.write", "imports.load", "imports.plan", "imports.walk"]
    served = {
        name.split("@")[0]: [queue["name"] for queue in worker["active_queues"]] for name, worker in workers.items()
    }
    assert served == {"worker-1": ["imports", "starts"], "walker-1": ["walks"], "exporter-1": ["exports"]}

    tasks = json.loads(running.ask_flower("/api/tasks", user=running.user)[1]).values()
    args = {name: [task["args"] for task in tasks if task["name"] == name] for name in ("imports.plan", "imports.load")}
    assert {task["name"] for task in tasks} == set(args)
    assert args["imports.plan"] == [f"['{running.import_id}']"]
    assert len(args["imports.load"]) > 2
    assert all(text.removeprefix("[").removesuffix("]").isdigit() for text in args["imports.load"]), args
    assert {task["kwargs"] for task in tasks} == {"{}"}


def test_flower_shows_no_secret(running: Running) -> None:
    shown = "".join(
        running.ask_flower(path, user=running.user)[1]
        for path in ("/", "/workers", "/tasks", "/broker", "/metrics", "/api/tasks", "/api/workers?refresh=1")
    )
    hidden = [CANARY, running.service.api_key.split("_", 2)[2], running.service.flower_password]
    hidden += [running.service.environment["PENSTOCK_SEALING_KEYS"]]
    hidden += [urlsplit(running.service.environment["DATABASE_URL"]).password or ""]

    assert running.import_id in shown
    for secret in hidden:
        assert secret
        assert secret not in shown


@pytest.mark.parametrize("given", ["", "penstock", "penstock:", ":password", "a:b,c"])
def test_flower_does_not_start_without_a_password(given: str) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("FLOWER_")},
        "DATABASE_URL": "postgresql://nobody",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "PENSTOCK_SEALING_KEYS": "k",
        "PYTHONPATH": str(ROOT),
        **({"FLOWER_BASIC_AUTH": given} if given else {}),
    }
    done = subprocess.run(
        flower_command(1), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False
    )

    assert done.returncode == 1
    assert done.stderr.strip() == (
        "Flower cannot start: set FLOWER_BASIC_AUTH to user:password (several: separated by commas)."
    )


def _children(pid: int) -> list[str]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [child for task in tasks for child in (task / "children").read_text().split()]


def _is_sweep(pid: str) -> bool:
    return b"workers.sweep" in Path(f"/proc/{pid}/cmdline").read_bytes()


def _speak(host: str, port: int, text: str) -> None:
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(text.encode())
        connection.recv(4096)
