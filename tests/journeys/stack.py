"""The whole service on real servers, as its callers and its operators meet it."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
import secrets
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

import boto3
import redis
from botocore.config import Config
from kombu import pools

from common.dispatch import EXPORTS, QUEUE, STARTS, WALKS, make_app
from common.ledger.database import Database
from common.settings import Settings
from deploy.local.servers import REGION, Servers
from deploy.local.service import STOP_SECONDS, Service

T = TypeVar("T")

BUCKET = "journeys"
#: Short, so that what takes a minute on a server takes seconds here.
SETTINGS = {
    "PENSTOCK_CHUNK_BYTES": "65536",
    "PENSTOCK_LEASE_SECONDS": "3",
    # Of each of four sweeps, so that one looks five times a second. Every 0.3 s they took a third of all CPU.
    "PENSTOCK_SWEEP_SECONDS": "0.8",
    "PENSTOCK_RESEND_SECONDS": "0.7",
    "PENSTOCK_IMPORT_LIMIT": "50",
    "PENSTOCK_DATABASE_TIMEOUT_SECONDS": "3",
    "PENSTOCK_S3_ADDRESSING": "path",
    # The most talkative level: what is secret stays so on it too.
    "PENSTOCK_LOG_LEVEL": "debug",
}
MAPPING = {"id": ["id", "$unique_id"], "time": ["timestamp", "$time"]}
WORKER = "penstock-worker"
#: A line of a log that is no object. libpq writes it itself: a Postgres killed right after it let a connection in
#: has the farewell in the same packet as the welcome, which libpq reads before the driver takes its messages over.
#: So it is with the one that is told to end at once.
_LIBPQS_OWN = {
    "FATAL:  terminating connection due to unexpected postmaster exit",
    "WARNING:  terminating connection due to immediate shutdown command",
}
#: The other that is none: what billiard writes of a process of its pool that comes up while its worker is killed.
_BILLIARDS_OWN = re.compile(r"(?ms)^Process ForkPoolWorker-\d+:\nTraceback .*?\nBrokenPipeError: .*?\n")

_WAIT_FOR_WORDS = """
DO $$ BEGIN
    WHILE clock_timestamp() < now() + interval '3 s' LOOP
        PERFORM pg_stat_clear_snapshot();
        EXIT WHEN EXISTS (SELECT FROM pg_stat_activity WHERE application_name = %(name)s
                          AND client_port = ANY (%(ports)s::int[]) AND position(%(words)s IN query) > 0);
    END LOOP;
END $$
"""

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_numbers = itertools.count(1)


def wait_until(condition: Callable[[], T], *, what: str, within: float = 30.0, pause: float = 0.02) -> T:
    """Return the first true answer of ``condition``; fail with ``what`` and its last answer."""
    deadline = time.monotonic() + within
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{within:.0f} s went by without this: {what}. Last seen: {answer!r}"
        time.sleep(pause)


class Answer(NamedTuple):
    """What came of a request; status 0 where nobody answered."""

    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True)
class Fault:
    """Something to do to the stack once so many percent of an import are done."""

    percent: float
    strike: Callable[[], object]


@dataclass
class Poll:
    """Every status that a caller of Connect saw of an import, and whether each of them was true."""

    import_id: str
    seen: list[dict[str, Any]] = field(default_factory=list)
    #: Polls that got no status: HTTP status, 0 where nobody answered.
    refused: list[int] = field(default_factory=list)

    @property
    def final(self) -> dict[str, Any]:
        return self.seen[-1]

    def check_truth(self) -> None:
        """Statuses move forwards, nothing counted is ever taken back or more than in the end."""
        order = ["pending", "running", "complete"] if self.final["status"] != "failed" else [
            "pending", "running", "failed",
        ]  # fmt: skip
        steps = [order.index(status["status"]) for status in self.seen]
        assert steps == sorted(steps), f"statuses went back: {[status['status'] for status in self.seen]}"
        for name in ("percentComplete", "importedEvents", "duplicateEvents"):
            values = [status[name] for status in self.seen]
            fell = [pair for pair in itertools.pairwise(values) if pair[1] < pair[0]]
            assert not fell, f"{name} of import {self.import_id} fell (from, to): {fell[:5]}"
        assert 0 <= self.final["percentComplete"] <= 100
        listed = self.final["eventErrors"]
        for status in self.seen:
            known = status["eventErrors"]
            assert known == listed[: len(known)], "an error's index changed while the import ran"


class Stack:
    """A running service with a database of its own, S3, and the means to start, watch and hurt it."""

    def __init__(
        self,
        servers: Servers,
        service: Service,
        *,
        s3: S3Address,
        logs: Path,
        settings: Mapping[str, str],
        workers: int,
        long_work: bool,
    ) -> None:
        self.servers = servers
        self.service = service
        self.s3 = s3
        self.logs = logs
        self.workers = workers
        #: Whether there are a walker and an exporter too.
        self.long_work = long_work
        self.chunk_bytes = int(settings["PENSTOCK_CHUNK_BYTES"])
        self.redis_url = settings["REDIS_URL"]
        self.database = Database(settings["DATABASE_URL"], application_name="journeys")
        #: As an S3 secret looks; it opens nothing, and must not be found anywhere.
        self.canary = f"Canary/{secrets.token_urlsafe(20)}+/x"
        self.key_id = f"AKIACANARY{secrets.token_hex(5).upper()}"
        self._connect_headers = {"X-API-Key": service.api_key, "X-Project-Id": service.project.id}
        self._native_headers = {"Authorization": f"Bearer {service.api_key}"}

    # --- the caller's side

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        native: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask the API; an address of it, or a path."""
        own = self._native_headers if native else self._connect_headers
        headers = {"Content-Type": "application/json", **own, **(headers or {})}
        url = path if path.startswith("http") else self.service.api + path
        asked = urllib.request.Request(
            url, method=method, headers=headers, data=None if body is None else json.dumps(body).encode()
        )
        try:
            with _OPENER.open(asked, timeout=30) as response:
                return _answer(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return _answer(error.code, error.headers, error.read())
        except OSError:
            return Answer(0, {}, None)

    def put(self, content: bytes, key: str | None = None) -> str:
        """Store an object and return its key."""
        key = key or f"object-{next(_numbers)}.ndjson"
        with s3_client(self.s3) as client:
            client.put_object(Bucket=BUCKET, Key=key, Body=content)
        return key

    def post(self, key: str, collection: str) -> Answer:
        """Ask for an import by Connect's wire."""
        body = {
            "collection": collection,
            "s3Path": f"s3://{BUCKET}/{key}",
            "s3AccessKeyId": self.key_id,
            "s3SecretAccessKey": self.canary,
        }
        return self.request("POST", "/event-import", body)

    def start(self, key: str, collection: str) -> str:
        """Start an import by Connect's wire and return its id."""
        answer = self.post(key, collection)
        assert answer.status == 201, answer
        return answer.headers["Location"].rsplit("/", 1)[1]

    def post_native(self, key: str, collection: str, *, idempotency_key: str | None = None, **more: Any) -> Answer:
        """Ask for an import by the native wire, with the same names of id and time."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        source = {"url": f"s3://{BUCKET}/{key}", "accessKeyId": self.key_id, "secretAccessKey": self.canary}
        body = {"collection": collection, "source": source, "mapping": MAPPING, **more}
        return self.request("POST", "/api/imports", body, native=True, headers=headers)

    def start_native(self, key: str, collection: str, **more: Any) -> str:
        answer = self.post_native(key, collection, **more)
        assert answer.status == 201, answer
        return str(answer.body["id"])

    def status(self, import_id: str) -> dict[str, Any]:
        """Return the import's native status."""
        answer = self.request("GET", f"/api/imports/{import_id}", native=True)
        assert answer.status == 200, answer
        return dict(answer.body)

    def cancel(self, import_id: str) -> Answer:
        return self.request("POST", f"/api/imports/{import_id}/cancel", native=True)

    def list_errors(self, import_id: str) -> list[dict[str, Any]]:
        """Return all rejected lines that the native wire lists, page by page."""
        items: list[dict[str, Any]] = []
        cursor = ""
        while True:
            answer = self.request("GET", f"/api/imports/{import_id}/errors?limit=700{cursor}", native=True)
            assert answer.status == 200, answer
            items += answer.body["items"]
            if answer.body["next"] is None:
                return items
            cursor = f"&cursor={answer.body['next']}"

    def follow(
        self,
        import_id: str,
        *faults: Fault,
        least: int | None = None,
        within: float = 60.0,
        outage: bool = False,
        often: bool = False,
    ) -> Poll:
        """Poll Connect's status to the end, strike on the way, check every answer.

        Each fault has to come while the import runs, or at ``least`` so many where they take time of their own.
        ``outage``: it may cost the API its answers. ``often``: a hundred times a second, as before each fault, where
        what is seen is the point; that takes half a core, which the import needs itself.
        """
        poll, due = Poll(import_id), sorted(faults, key=lambda fault: fault.percent)
        deadline = time.monotonic() + within
        while True:
            answer = self.request("GET", f"/event-import/{import_id}")
            if answer.status == 200:
                poll.seen.append(answer.body)
                if poll.final["status"] in ("complete", "failed"):
                    break
                if due and poll.final["percentComplete"] >= due[0].percent:
                    due.pop(0).strike()
            else:
                assert outage, f"the API answered {answer}"
                assert answer.status in (0, 502, 503), answer
                poll.refused.append(answer.status)
            assert time.monotonic() < deadline, (
                f"import {import_id} did not end within {within:.0f} s; it was last seen as "
                f"{poll.seen[-1:]}, chunks: {self.open_chunks(import_id)}"
            )
            time.sleep(0.01 if due or often else 0.05)
        poll.check_truth()
        struck = len(faults) - len(due)
        assert struck >= (len(faults) if least is None else least), (
            f"the import was over before {len(due)} of {len(faults)} faults: give it a larger object. {poll.final}"
        )
        return poll

    # --- the operator's side

    def rows(self, statement: str, **values: Any) -> list[Any]:
        with self.database.transaction() as tx:
            return tx.all(statement, **values)

    def value(self, statement: str, **values: Any) -> Any:
        return self.rows(statement, **values)[0][0]

    def open_chunks(self, import_id: str) -> list[Any]:
        """Return what stands in the way of an import's end."""
        return self.rows(
            "SELECT number, state, attempts, lease_token, lease_expires_at - now() AS lease_left, sent_at, not_before,"
            " holder_lives(holder_pid, holder_started) AS holder_lives, now() AS at"
            " FROM chunks WHERE import_id = %(id)s AND state <> 'done' ORDER BY number LIMIT 5",
            id=import_id,
        )

    def leased(self, import_id: str) -> int:
        """Return how many of the import's chunks are in work."""
        leased = "SELECT count(*) FROM chunks WHERE import_id = %(id)s AND state = 'leased'"
        return int(self.value(leased, id=import_id))

    def stored(self, import_id: str) -> int:
        """Return how many events in the table are this import's."""
        return int(
            self.value(
                "SELECT count(*) FROM events WHERE import_number = (SELECT number FROM imports WHERE id = %(id)s)",
                id=import_id,
            )
        )

    @contextmanager
    def redis(self) -> Iterator[redis.Redis]:
        client = redis.Redis.from_url(self.redis_url)
        try:
            yield client
        finally:
            client.close()

    def flush(self) -> None:
        with self.redis() as client:
            client.flushall()

    def drain(self, *, idle: float = 0.3, within: float = 30.0) -> None:
        """Wait until no message waits, and no worker has done anything for so many seconds."""

        def drained() -> bool:
            with self.redis() as client:
                return not any(client.llen(queue) for queue in (STARTS, QUEUE, WALKS, EXPORTS))

        wait_until(drained, what="the queue is empty", within=within)
        wait_until(lambda: self.is_quiet(idle), what="every worker's session idles", pause=0.1)

    def is_quiet(self, idle: float) -> bool:
        """Whether no worker spoke to Postgres lately: a chunk does so several times in 0.1 s."""
        sessions = self.rows(
            "SELECT pid FROM pg_stat_activity WHERE application_name = %(name)s"
            " AND (state <> 'idle' OR state_change > now() - make_interval(secs => %(idle)s))",
            name=WORKER,
            idle=idle,
        )
        return not sessions

    def end_sessions(self) -> int:
        """Cut the workers' connections to Postgres, whatever they are doing."""
        return len(
            self.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %(name)s", name=WORKER
            )
        )

    def stop_postgres_processes(self) -> list[int]:
        """Stop the server and all of its sessions, as a machine that hangs does; return whom to wake."""
        main = self.servers.pids["postgres"]
        assert main
        pids = [main, *processes_of(main)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        return pids

    def worker(self, number: int) -> Worker:
        """Return a worker that is up, with its pool."""
        return wait_until(lambda: self._worker(number), what=f"worker {number} is up, with a pool")

    def _worker(self, number: int) -> Worker | None:
        # The supervised list keeps its order, but leaves out who is dead: so a number is sure only among all.
        pids = self.service.pids["worker"]
        if number >= len(pids):
            return None
        return _family_of(pids[number])

    def walker(self) -> Worker:
        """Return the walker, with its pool, once it is up."""
        return self._only("walker")

    def exporter(self) -> Worker:
        """Return the exporter, with its pool, once it is up."""
        return self._only("exporter")

    def _only(self, role: str) -> Worker:
        def family() -> Worker | None:
            pids = self.service.pids[role]
            return _family_of(pids[0]) if pids else None

        return wait_until(family, what=f"the {role} is up, with a pool")

    def pools(self) -> dict[int, list[int]]:
        """Return the pool of each worker, walker and exporter that runs, by main process."""
        mains = [pid for role in ("worker", "walker", "exporter") for pid in self.service.pids[role]]
        families = [wait_until(lambda main=main: _family_of(main), what="a worker has a pool") for main in mains]
        return {worker.main: worker.pool for worker in families}

    def workers_up(self) -> list[Worker]:
        """Return the workers that are up now; waits for one."""
        return wait_until(
            lambda: [found for number in range(self.workers) if (found := self._worker(number))],
            what="any worker is up, with a pool",
        )

    def deafen(self, number: int) -> None:
        """Make a worker consume nothing while it is alive and connected."""
        self._deafen(f"worker-{number + 1}", STARTS, QUEUE)

    def deafen_walker(self) -> None:
        self._deafen("walker-1", WALKS)

    def deafen_exporter(self) -> None:
        self._deafen("exporter-1", EXPORTS)

    def _deafen(self, process: str, *queues: str) -> None:
        name = f"{process}@{socket.gethostname()}"
        with self._celery() as app:
            for queue in queues:
                heard = app.control.cancel_consumer(queue, destination=[name], reply=True, timeout=5, limit=1)
                assert heard, f"{name} does not answer"

    @contextmanager
    def _celery(self) -> Iterator[Any]:
        """An app of ours for remote control; its connections are closed at the end."""
        app = make_app(Settings(database_url="", redis_url=self.redis_url, sealing_keys=""))
        try:
            yield app
        finally:
            app.close()
            pools.reset()  # all apps of one address share it, and another journey may restart Redis

    def log_of(self, process: str) -> list[dict[str, Any]]:
        """Return our own lines of a process's log, such as ``worker-1``; Celery's are no JSON."""
        lines = (self.logs / f"{process}.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def kill_worker(self, number: int) -> None:
        os.kill(self.worker(number).main, signal.SIGKILL)

    def kill_exporter(self) -> None:
        os.kill(self.exporter().main, signal.SIGKILL)

    def sessions(self, pool: list[int]) -> list[Any]:
        """Return what Postgres says of the sessions of a worker's pool process."""
        ports = [port for pid in pool for port in _local_ports(pid)]
        return self.rows(
            "SELECT pid, state, wait_event, query FROM pg_stat_activity"
            " WHERE application_name = %(name)s AND client_port = ANY (%(ports)s)",
            name=WORKER,
            ports=ports,
        )

    def holds(self, worker: Worker, pid: int | None) -> bool:
        """Whether a lease's holder, a backend of Postgres, is a worker's."""
        return pid in [session.pid for session in self.sessions(worker.pool)]

    def signal_pool_at(self, worker: Worker, words: str, what: signal.Signals) -> None:
        """Signal a worker's pool process while its session is at a statement with these words, or just was.

        Postgres looks by itself: a question of ours takes longer than most statements. At the latest after 3 s.
        """
        pool = worker.pool
        with self.database.transaction() as tx:
            tx.run(
                _WAIT_FOR_WORDS, name=WORKER, ports=[port for pid in pool for port in _local_ports(pid)], words=words
            )
        for pid in pool:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, what)

    def wait_ready(self) -> None:
        """Wait for what earlier journeys have killed."""
        wait_until(lambda: self.request("GET", "/readyz").status == 200, what="the API is ready")
        wait_until(lambda: len(self.workers_up()) == self.workers, what="all workers are up")
        if self.long_work:
            self.walker()
            self.exporter()

    def cancel_all(self) -> None:
        """End what a journey that failed has left running: it must not fail the next one too."""
        for row in self.rows("SELECT id FROM imports WHERE finished_at IS NULL"):
            self.cancel(row.id)

    # --- secrets

    def secret_forms(self) -> list[bytes]:
        """Return the S3 secret in every spelling that it could be hidden in."""
        text = self.canary
        forms = {text, quote(text, safe=""), text.replace("/", "\\/"), text.encode().hex()}
        for shift in range(3):
            # Base64 of a longer text that holds the secret at any of the three alignments; kombu sends bodies so.
            encoded = base64.b64encode(b"\0" * shift + text.encode()).decode()
            inner = encoded[4 : len(encoded) // 4 * 4 - 4]
            forms |= {inner, inner.replace("+", "-").replace("/", "_")}
        return [form.encode() for form in forms]

    def find_secret(self, content: bytes) -> list[bytes]:
        return [form for form in self.secret_forms() if form in content]

    def check_logs(self) -> None:
        """The S3 secret stands in no log, the service's or the servers'; and each line of the service is an object."""
        folders = (self.logs, self.servers._folder)
        paths = [path for folder in folders for path in folder.glob("**/*.log")]
        assert any(path.name == "web.log" for path in paths)
        assert any(path.name == "postgres.log" for path in paths)
        leaks = [path for path in paths if self.find_secret(path.read_bytes())]
        assert not leaks, f"the S3 secret stands in {leaks}"
        for path in self.logs.glob("*.log"):
            for line in _BILLIARDS_OWN.sub("", path.read_text()).splitlines():
                if line in _LIBPQS_OWN:
                    continue
                assert {"time", "level", "logger", "event"} <= set(json.loads(line)), f"{path}: {line}"


class Worker(NamedTuple):
    """The processes of one worker."""

    main: int
    pool: list[int]
    sweep: list[int]


class S3Address(NamedTuple):
    """An S3 server, and keys that may put objects there."""

    endpoint: str
    key_id: str
    secret: str


@contextmanager
def open_stack(
    servers: Servers,
    s3: S3Address,
    logs: Path,
    *,
    name: str,
    workers: int = 2,
    long_work: bool = True,
    stops_gently: bool = False,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Stack]:
    """Start a supervised service on a database and a Redis database of its own.

    At the end it is killed unless it ``stops_gently``, which takes 3.3 s (Celery sleeps on its way out), and is as well
    seen once. ``long_work``: with a walker and an exporter.
    """
    whole = {
        **SETTINGS,
        "DATABASE_URL": servers.create_database(f"journeys_{name}"),
        # Number 0 is every other test's. A message of another database's would only cost time, but that too.
        "REDIS_URL": urlunsplit(urlsplit(servers.redis_url)._replace(path=f"/{next(_redis_databases)}")),
        "S3_ENDPOINT_URL": s3.endpoint,
        **(settings or {}),
    }
    with Service.start(servers, logs=logs, workers=workers, long_work=long_work, settings=whole) as service:
        with service.supervised():
            stack = Stack(servers, service, s3=s3, logs=logs, settings=whole, workers=workers, long_work=long_work)
            try:
                yield stack
            finally:
                stack.database.close()
        service.stop(within=STOP_SECONDS if stops_gently else 0.0)


_redis_databases = itertools.count(1)


@contextmanager
def checked_stack(servers: Servers, s3: S3Address, logs: Path, **wishes: Any) -> Iterator[Stack]:
    """Start a stack as ``open_stack`` does, and look through its logs when it has ended."""
    with open_stack(servers, s3, logs, **wishes) as stack:
        yield stack
    stack.check_logs()


@contextmanager
def stopped_workers(stack: Stack) -> Iterator[None]:
    """Let imports begin, and none go on. Nobody is stopped in the middle of something, which might be locked then."""
    stack.drain()
    pids = [pid for worker in stack.workers_up() for pid in (worker.main, *worker.pool)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextmanager
def s3_client(s3: S3Address) -> Iterator[Any]:
    client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name=REGION,
        aws_access_key_id=s3.key_id,
        aws_secret_access_key=s3.secret,
        config=Config(s3={"addressing_style": "path"}, proxies={}),
    )
    try:
        yield client
    finally:
        client.close()


class RedisEar:
    """Hears every command that Redis is sent, by MONITOR, on a bare socket: no client reads odd bytes better."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=10)
        self._socket.sendall(b"MONITOR\r\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def heard(self) -> bytes:
        """Return what was said until now."""
        word = secrets.token_hex(16).encode()
        self._socket.sendall(b"PING %b\r\n" % word)
        heard = bytearray()
        while heard.count(word) < 2:  # the command as heard, and its answer
            piece = self._socket.recv(1 << 20)
            assert piece, "Redis hung up"
            heard += piece
        return bytes(heard)


def dump_redis(client: redis.Redis) -> bytes:
    """Return all keys of this Redis database and everything in them, as text of a kind."""
    readers: dict[bytes, Callable[[Any], Any]] = {
        b"string": client.get,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"hash": client.hgetall,
    }
    parts: list[bytes] = []
    for key in client.scan_iter(count=1000):
        kind: Any = client.type(key)
        if kind != b"none":
            parts += [bytes(key), repr(readers[kind](key)).encode()]
    return b"\n".join(parts)


def _answer(status: int, headers: Any, content: bytes) -> Answer:
    is_json = "json" in (headers.get("Content-Type") or "")
    return Answer(status, dict(headers.items()), json.loads(content) if is_json and content else content)


def _family_of(main: int) -> Worker | None:
    """Return a worker's processes, None while it has no pool or no sweep."""
    kinds: dict[bool, list[int]] = {True: [], False: []}
    for pid in processes_of(main):
        with contextlib.suppress(OSError):
            kinds[b"workers.sweep" in Path(f"/proc/{pid}/cmdline").read_bytes()].append(pid)
    pool = [pid for pid in kinds[False] if _is_named_like(pid, main)]
    return Worker(main, pool, kinds[True]) if pool and kinds[True] else None


def processes_of(pid: int) -> Sequence[int]:
    """Return the children of all threads: the watcher of the sweep is a thread that starts processes."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def _local_ports(pid: int) -> list[int]:
    """Return the ports of a process's own ends of its TCP connections."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(entry).removeprefix("socket:[").removesuffix("]"))
    table = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return [int(row[1].partition(":")[2], 16) for row in table if row[9] in inodes]


def _is_named_like(pid: int, main: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() == Path(f"/proc/{main}/cmdline").read_bytes()
    except OSError:
        return False
