"""
Penstock itself on given servers: migrated, with web, workers and Flower, started, watched, stopped.

    with Servers.start() as servers, Service.start(servers, logs=folder) as service:
        service.api, service.api_key

Every process is one that a real deployment runs too (the lines of the Procfile), in its own process
group, and gets its settings from the environment alone.
"""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import boto3
from botocore.config import Config

from deploy.local.commands import (
    ROOT,
    environment,
    exporter_command,
    flower_command,
    walker_command,
    web_command,
    worker_command,
)
from deploy.local.family import Child, Family, StartFailed, free_port
from deploy.local.servers import REGION, Servers, answers_http

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

FLOWER_USER = "penstock"

START_SECONDS = 60.0
#: Longer than gunicorn's graceful_timeout (20 s) and than a chunk is meant to take.
STOP_SECONDS = 25.0
WATCH_SECONDS = 0.2
#: A process that lived this long died of something new; one that did not is started more and more slowly.
LONG_LIFE_SECONDS = 10.0
FIRST_DELAY_SECONDS = 0.1
LAST_DELAY_SECONDS = 5.0

Role = Literal["web", "worker", "walker", "exporter", "flower"]


class Project(NamedTuple):
    """The project that the local stack is made with, and a key and a key pair with all scopes for it."""

    id: str
    name: str
    api_key: str
    aws_access_key_id: str
    aws_secret_access_key: str


@dataclass(slots=True)
class Process:
    """One line of the Procfile: what runs, and since when."""

    role: Role
    command: list[str]
    log: Path
    child: Child
    begun: float = field(default_factory=time.monotonic)
    #: Deaths in a row, each soon after its start.
    early_deaths: int = 0
    #: When to start again; None while it runs.
    due: float | None = None

    def delay(self) -> float:
        """Return the pause before the next start: 0.1 s, doubling up to 5 s while it dies at once."""
        return min(FIRST_DELAY_SECONDS * 2.0**self.early_deaths, LAST_DELAY_SECONDS)


class Service:
    """The running service. Also a context manager: leaving it stops its processes, not the servers."""

    def __init__(self, servers: Servers, logs: Path, *, port: int, settings: Mapping[str, str]) -> None:
        """Prepare, start nothing. `start` is the way in."""
        self.api = f"http://127.0.0.1:{port}"
        self.flower: str | None = None
        self.flower_user = FLOWER_USER
        self.flower_password = secrets.token_urlsafe(18)
        self.environment = environment(servers, port=port, api=self.api, settings=settings)
        self.spool_bucket = self.environment["PENSTOCK_SPOOL_BUCKET"]
        self.project: Project
        self._family: Family = servers.family
        self._logs = logs
        self._processes: list[Process] = []
        self._made_workers = 0
        self._changing = threading.RLock()

    @classmethod
    def start(
        cls,
        servers: Servers,
        *,
        logs: Path,
        workers: int = 2,
        port: int | None = None,
        flower: bool = False,
        long_work: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> Self:
        """
        Start everything and return when it is ready. Raises `StartFailed`, having stopped what it started.

        Without ``long_work`` there is no walker and no exporter: a third less to start, for tests that need neither.
        ``settings`` are environment variables that win over the stack's own; PENSTOCK_* of the caller's
        environment win over the stack's own as well, but not over ``settings``.
        """
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        service = cls(servers, logs, port=port or free_port(), settings=settings or {})
        try:
            service._prepare(servers)
            service._start_all(workers, flower=flower, long_work=long_work)
        except BaseException:
            service.stop()
            raise
        return service

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def api_key(self) -> str:
        """A key with all scopes for `project`."""
        return self.project.api_key

    @property
    def pids(self) -> dict[str, list[int]]:
        """The main processes that run now, by role: each list in the order they were first started."""
        roles: tuple[Role, ...] = ("web", "worker", "walker", "exporter", "flower")
        with self._changing:
            running = [process for process in self._processes if not process.child.has_ended()]
            return {role: [p.child.pid for p in running if p.role == role] for role in roles}

    # --- changing what runs

    def add_worker(self, *, wait: bool = True) -> int:
        """Start one more worker and return its pid; with ``wait``, when it takes tasks."""
        with self._changing:
            self._made_workers += 1
            name = f"worker-{self._made_workers}"
            process = self._launch("worker", worker_command(name), name)
        if wait:
            self._wait_worker(process)
        return process.child.pid

    def watch(self) -> bool:
        """
        Start again what has died, as a supervisor does; True when the pids have changed.

        One look, at once: call it in a loop, or use `supervised`. The rest of a dead process's group is
        killed first (systemd's KillMode=control-group): no pool lives on beside its worker's successor.
        """
        with self._changing:
            changed = [self._look_after(process) for process in self._processes]
            return any(changed)

    @contextmanager
    def supervised(self) -> Iterator[Self]:
        """Watch in the background for as long as the block lasts; for tests that kill processes."""
        done = threading.Event()

        def watch_until_done() -> None:
            while not done.wait(WATCH_SECONDS):
                self.watch()

        thread = threading.Thread(target=watch_until_done, name="penstock-supervisor", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            done.set()
            thread.join()

    def stop(self, *, within: float = STOP_SECONDS) -> None:
        """SIGTERM to all at once, then wait; who is not done in time is killed. May be called twice."""
        with self._changing:
            for process in self._processes:
                process.child.send(signal.SIGTERM)
            deadline = time.monotonic() + within
            for process in self._processes:
                process.child.bury(within=max(deadline - time.monotonic(), 0.0))
            self._processes.clear()

    def run(self, *module_and_arguments: str) -> str:
        """Run a module of the project to its end in the service's environment; return what it printed."""
        command = [sys.executable, "-m", *module_and_arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            words = f"{done.stdout}{done.stderr}".rstrip()
            raise StartFailed(f"python -m {' '.join(module_and_arguments)} ended with {done.returncode}:\n{words}")
        return done.stdout

    # --- starting

    def _prepare(self, servers: Servers) -> None:
        """Make what the processes expect to find: tables, bucket, project."""
        create_bucket(s3_client(servers), self.spool_bucket)
        self.run("common.ledger.migrate")
        self.project = self._create_project()

    def _create_project(self) -> Project:
        """
        Create the project ``local``, its key and its key pair; the commands answer with one line of JSON.

        A stack that was killed left its keys in a database of the user's own; of two such the next one replaces
        the one unused for longest, and a key that is in use stays.
        """
        answer = json.loads(self.run("api.admin", "create-project", "local", "--replace").splitlines()[-1])
        project = answer["project"]
        command = ("create-key-pair", project["id"], "--scope", "admin", "--replace", "--json")
        pair = json.loads(self.run("api.admin", *command).splitlines()[-1])
        return Project(
            project["id"],
            project["name"],
            answer["apiKey"],
            pair["awsAccessKeyId"],
            pair["awsSecretAccessKey"],
        )

    def _start_all(self, workers: int, *, flower: bool, long_work: bool) -> None:
        """Start all, then wait for all: each takes seconds of importing, and there is more than one core."""
        web = self._launch("web", web_command(), "web")
        # One of each, however many workers: imports of what can be cut never wait for them.
        if long_work:
            self._launch("walker", walker_command("walker-1"), "walker-1")
            self._launch("exporter", exporter_command("exporter-1"), "exporter-1")
        for _ in range(workers):
            self.add_worker(wait=False)
        if flower:
            self._start_flower()
        self._wait(web, lambda: answers_http(f"{self.api}/readyz"), "the API (GET /readyz)")
        for process in self._processes:
            if process.role in ("worker", "walker", "exporter"):
                self._wait_worker(process)

    def _start_flower(self) -> None:
        port = free_port()
        self.flower = f"http://127.0.0.1:{port}"
        flower = self._launch("flower", flower_command(port), "flower")
        self._wait(flower, lambda: speaks_http(f"http://127.0.0.1:{port}/"), "Flower")

    def _launch(self, role: Role, command: list[str], name: str) -> Process:
        log = self._logs / f"{name}.log"
        process = Process(role, command, log, self._spawn(role, command, log))
        self._processes.append(process)
        return process

    def _spawn(self, role: Role, command: list[str], log: Path) -> Child:
        env = self.environment
        if role == "flower":
            # In the environment, not among the arguments, which every user of the machine can read.
            env = {**env, "FLOWER_BASIC_AUTH": f"{self.flower_user}:{self.flower_password}"}
        return self._family.start(command, log=log, env=env, cwd=ROOT)

    def _wait_worker(self, process: Process) -> None:
        # Celery's own words. `celery inspect ping` would cost a second of imports per look, and Redis.
        self._wait(process, lambda: " ready." in process.child.said(), process.log.stem)

    def _wait(self, process: Process, ready: Callable[[], bool], what: str) -> None:
        process.child.wait_ready(ready, what=what, within=START_SECONDS)

    def _look_after(self, process: Process) -> bool:
        """Bury a dead process or start it when its pause is over; True when its pid has changed."""
        now = time.monotonic()
        if process.due is None:
            if process.child.has_ended():
                process.child.bury()
                lived_long = now - process.begun > LONG_LIFE_SECONDS
                process.due = now + (FIRST_DELAY_SECONDS if lived_long else process.delay())
                process.early_deaths = 0 if lived_long else process.early_deaths + 1
            return False
        if now < process.due:
            return False
        process.child = self._spawn(process.role, process.command, process.log)
        process.begun, process.due = now, None
        return True


def s3_client(servers: Servers) -> S3Client:
    """Return a client of the stack's S3; the host's proxies and checksum habits are not for it."""
    return boto3.client(
        "s3",
        endpoint_url=servers.s3_endpoint,
        region_name=REGION,
        aws_access_key_id=servers.s3_access_key_id,
        aws_secret_access_key=servers.s3_secret_access_key,
        config=Config(
            s3={"addressing_style": "path"},
            proxies={},
            connect_timeout=5,
            read_timeout=30,
            request_checksum_calculation="when_required",
        ),
    )


def create_bucket(client: S3Client, name: str) -> None:
    """Create a bucket unless it is there."""
    if name not in {bucket.get("Name") for bucket in client.list_buckets().get("Buckets", [])}:
        client.create_bucket(Bucket=name)
    client.close()


def speaks_http(url: str) -> bool:
    """Tell whether a web server answers here, with whatever status (Flower's is 401)."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
