"""
Postgres, Redis and S3 for the local stack: found, started on free ports, stopped, leaving nothing.

    with Servers.start() as servers:
        servers.database_url, servers.redis_url, servers.s3_endpoint

The same class serves `up`, `demo`, `bench` and the tests, so all of them run on the same servers.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

import psycopg2
from psycopg2 import sql

from deploy.local.family import Child, Family, StartFailed, on_free_port
from deploy.local.finding import NotFound, Program, S3Kind, find_postgres, find_redis, find_s3
from deploy.local.postgres import SERVER_ENV, Postgres, StopMode

REGION = "us-east-1"
START_SECONDS = 30.0
STOP_SECONDS = 5.0

T = TypeVar("T")


class Servers:
    """The three servers, ours or given by the environment. Also a context manager: leaving it stops ours."""

    def __init__(self, *, s3: S3Kind = "localbucket", announce: Callable[[str], None] = print) -> None:
        """Start them; ``announce`` hears one line about the choice of each."""
        self._announce = announce
        self._family = Family()
        self._postgres: Postgres | None = None
        self._redis: Redis | None = None
        self._s3: S3 | None = None
        try:
            self._folder = self._family.folder("penstock-")
            self.redis_url = self._start_redis()
            self._start_s3(s3)
            self.database_url = self._start_postgres()
        except BaseException:
            self.stop()
            raise

    @classmethod
    def start(cls, *, s3: S3Kind = "localbucket", announce: Callable[[str], None] = print) -> Self:
        """Start what the environment does not give. Raises `NotFound` or `StartFailed`, having cleaned up."""
        return cls(s3=s3, announce=announce)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop ours, in order, and remove their folders. May be called twice."""
        for server in (self._s3, self._redis, self._postgres):
            if server:
                server.stop()
        self._family.close()

    @property
    def pids(self) -> dict[str, int | None]:
        """The pid of each server; None for one that the environment gave."""
        running = {"postgres": self._postgres, "redis": self._redis, "s3": self._s3}
        return {name: server.pid if server else None for name, server in running.items()}

    @property
    def family(self) -> Family:
        """Where the service's own processes belong, so that they and the servers end together."""
        return self._family

    # --- what tests do to servers

    def restart_postgres(self, mode: StopMode = "fast") -> None:
        """Stop Postgres (fast, immediate, kill) and start it on the same port and data."""
        ours(self._postgres, "Postgres").restart(mode)

    def stop_postgres(self, mode: StopMode = "fast") -> None:
        """Stop Postgres and leave it so until `restart_postgres`."""
        ours(self._postgres, "Postgres").stop(mode)

    def restart_redis(self) -> None:
        """Kill Redis and start it, empty, on the same port."""
        ours(self._redis, "Redis").restart()

    def stop_redis(self) -> None:
        """Kill Redis and leave it so until `restart_redis`."""
        ours(self._redis, "Redis").stop(signal.SIGKILL)

    def restart_s3(self) -> None:
        """Kill the S3 server and start it on the same port; localbucket keeps its objects, moto does not."""
        ours(self._s3, "S3").restart()

    def another_s3(self, kind: S3Kind) -> S3:
        """Start one more S3 server (moto: conditional requests; localbucket: size); ends with `stop`."""
        return S3(self._family, self._family.folder("penstock-s3-"), kind)

    def create_database(self, name: str) -> str:
        """Create an empty UTF-8 database and return its URL."""
        command = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'")
        self._execute(command.format(sql.Identifier(name)))
        return str(urlunsplit(urlsplit(self.database_url)._replace(path=f"/{name}")))

    def drop_database(self, name: str) -> None:
        """Drop a database, ending whoever is connected to it."""
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _execute(self, command: sql.Composed) -> None:
        connection = psycopg2.connect(self.database_url)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(command)
        finally:
            connection.close()

    # --- starting

    def _start_postgres(self) -> str:
        if url := os.environ.get("DATABASE_URL"):
            self._announce("Postgres  DATABASE_URL")
            return url
        self._postgres = Postgres(self._family, self._folder, find_postgres())
        self._announce(f"Postgres  {self._postgres.version}")
        return self._postgres.url

    def _start_redis(self) -> str:
        if url := os.environ.get("REDIS_URL"):
            self._announce("Redis     REDIS_URL")
            return url
        self._redis = Redis(self._family, self._folder, find_redis())
        self._announce(f"Redis     {self._redis.version}")
        return f"redis://127.0.0.1:{self._redis.port}/0"

    def _start_s3(self, kind: S3Kind) -> None:
        if url := os.environ.get("S3_ENDPOINT_URL"):
            self._announce("S3        S3_ENDPOINT_URL")
            self.s3_endpoint = url
            self.s3_access_key_id = given("PENSTOCK_S3_ACCESS_KEY_ID")
            self.s3_secret_access_key = given("PENSTOCK_S3_SECRET_ACCESS_KEY")
            return
        self._s3 = S3(self._family, self._folder, kind)
        self._announce(f"S3        {self._s3.name}")
        self.s3_endpoint = self._s3.endpoint
        self.s3_access_key_id = self._s3.access_key_id
        self.s3_secret_access_key = self._s3.secret_access_key


class Restartable(ABC):
    """A server on a port of its own that can be killed and started again there."""

    _child: Child
    port: int

    @property
    def pid(self) -> int:
        """The server's."""
        return self._child.pid

    def restart(self) -> None:
        """Kill it, with what it holds in memory, and start it on the same port."""
        self.stop(signal.SIGKILL)
        self._child = self._start(self.port)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop it."""
        self._child.stop(number, within=STOP_SECONDS)

    @abstractmethod
    def _start(self, port: int) -> Child:
        """Start the server on a port and return it once it answers."""


class Redis(Restartable):
    """A Redis or Valkey that keeps nothing on disk: what it holds may be lost at any moment (P4)."""

    def __init__(self, family: Family, folder: Path, program: Program) -> None:
        self._family = family
        self._folder = folder
        self._binary = program.path
        self.version = program
        self.port, self._child = on_free_port(lambda port: (port, self._start(port)))

    def _start(self, port: int) -> Child:
        options = {"port": str(port), "bind": "127.0.0.1", "dir": str(self._folder)}
        # A broker must never evict: with any other policy a full Redis loses messages without a word.
        options |= {
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "loglevel": "warning",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        command = [str(self._binary), *arguments]
        child = self._family.start(command, log=self._folder / "redis.log", env=SERVER_ENV)
        return ready(child, lambda: answers_ping(port), what="Redis")


class S3(Restartable):
    """An S3 server. Neither kind checks signatures, so its keys open nothing anywhere else."""

    def __init__(self, family: Family, folder: Path, kind: S3Kind) -> None:
        self._family = family
        self._folder = folder
        self._kind = kind
        self._command, self.name = find_s3(kind)
        self.access_key_id = "penstock-local"
        self.secret_access_key = secrets.token_hex(20)
        self.port, self._child = on_free_port(lambda port: (port, self._start(port)))

    @property
    def endpoint(self) -> str:
        """Its address, for path-style requests."""
        return f"http://127.0.0.1:{self.port}"

    def _start(self, port: int) -> Child:
        if self._kind == "localbucket":
            command = [*self._command, "--host", "127.0.0.1", "--port", str(port), str(self._folder / "s3")]
        else:
            command = [*self._command, "-H", "127.0.0.1", "-p", str(port)]
        # moto spools objects above 16 MB to temporary files: into the folder that is removed at the end.
        env = {**SERVER_ENV, "TMPDIR": str(self._folder)}
        child = self._family.start(command, log=self._folder / f"{self._kind}.log", env=env)
        return ready(child, lambda: answers_http(self_url(port)), what=self._kind)


def ready(child: Child, check: Callable[[], bool], *, what: str) -> Child:
    """Return the child when it answers; bury it when it does not."""
    try:
        child.wait_ready(check, what=what, within=START_SECONDS)
    except BaseException:
        child.stop(signal.SIGTERM, within=STOP_SECONDS)
        raise
    return child


def answers_ping(port: int) -> bool:
    """Tell whether a Redis on this port answers, without the help of a client library."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def answers_http(url: str) -> bool:
    """Tell whether somebody answers 200 here; a proxy of the environment is not asked."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def self_url(port: int) -> str:
    """Return the address of a port of this machine."""
    return f"http://127.0.0.1:{port}/"


def given(name: str) -> str:
    """Return a variable that has to be set beside a server of the user's own."""
    if value := os.environ.get(name):
        return value
    raise NotFound(f"S3_ENDPOINT_URL is set, so {name} must be too.")


def ours(server: T | None, name: str) -> T:
    """Return a server that we may restart."""
    if server is None:
        raise StartFailed(f"{name} was given by the environment; it is not ours to restart.")
    return server
