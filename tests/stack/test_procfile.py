"""``honcho start`` on the Procfile is the whole service: on empty databases, from an .env made of the example."""

from __future__ import annotations

import base64
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from api.callers import ALL_SCOPES, create_key
from common.ledger.database import Database
from common.ledger.migrate import migrate, read_migrations
from common.ledger.projects import create_project
from deploy.local.commands import ROOT
from deploy.local.family import Child, free_port
from deploy.local.reaper import runs
from deploy.local.servers import Servers
from tests.journeys.stack import wait_until
from tests.stack.operating import ask, own_database, run_import

#: honcho gives its processes five seconds, then kills them.
PATIENCE = 15.0


class Started(NamedTuple):
    """A honcho, and where its processes answer."""

    honcho: Child
    api: str
    flower: str
    flower_user: str
    database_url: str


def fill_in(example: str, values: dict[str, str]) -> str:
    """Return the example with these values in it; a value that the example does not name is a mistake."""
    for name, value in values.items():
        example, found = re.subn(rf"^(# )?{name}=.*$", f"{name}={value}", example, flags=re.MULTILINE)
        assert found == 1, name
    return example


@contextmanager
def honcho(servers: Servers, tmp_path: Path, name: str, *roles: str, **changes: str) -> Iterator[Started]:
    port, flower_port = free_port(), free_port()
    addresses = own_database(servers, name, 15)
    flower_user = f"penstock:{secrets.token_hex(8)}"
    values = {
        **addresses,
        "S3_ENDPOINT_URL": servers.s3_endpoint,
        "PENSTOCK_S3_ADDRESSING": "path",
        "PENSTOCK_SEALING_KEYS": base64.b64encode(secrets.token_bytes(32)).decode(),
        "PENSTOCK_CHUNK_BYTES": "65536",
        "FLOWER_BASIC_AUTH": flower_user,
        "FLOWER_PORT": str(flower_port),
        "PORT": str(port),
        "WORKER_CONCURRENCY": "2",
        **changes,
    }
    env_file = tmp_path / ".env"
    env_file.write_text(fill_in((ROOT / "deploy/env.example").read_text(), values))
    command = [sys.executable, "-m", "honcho", "--no-colour", "-d", str(ROOT), "-e", str(env_file), "start", *roles]
    # As in an activated venv: and nothing of the settings around us.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    child = servers.family.start(
        command, log=tmp_path / "honcho.log", env={"PATH": path, "no_proxy": "127.0.0.1"}, cwd=ROOT
    )
    below: list[int] = []
    try:
        yield Started(
            child, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{flower_port}", flower_user, addresses["DATABASE_URL"]
        )
    finally:
        below = descendants(child.pid)
        child.stop(signal.SIGTERM, within=PATIENCE)
        for pid in filter(runs, below):
            os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *descendants(child)]
    return found


def make_key(database_url: str) -> str:
    database = Database(database_url)
    try:
        with database.transaction() as tx:
            return create_key(tx, create_project(tx, "procfile"), ALL_SCOPES)
    finally:
        database.close()


def test_honcho_start_alone_is_the_whole_service(servers: Servers, tmp_path: Path) -> None:
    with honcho(servers, tmp_path, "procfile") as started:
        wait_until(
            lambda: ask(f"{started.api}/readyz")[0] == 200 or started.honcho.has_ended(),
            what="the API is ready",
            within=60,
        )
        assert not started.honcho.has_ended(), started.honcho.said()
        run_import(servers, started.api, make_key(started.database_url), lines=2000)
        wait_until(lambda: ask(f"{started.flower}/")[0] == 401, what="Flower answers")
        shown = {"Authorization": f"Basic {base64.b64encode(started.flower_user.encode()).decode()}"}
        assert ask(f"{started.flower}/api/workers?refresh=1", headers=shown)[0] == 200

        below = descendants(started.honcho.pid)
        commands = [Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in below]
        assert sum(b"worker" in command for command in commands) == 7, "a worker, a walker, an exporter and their pools"
        assert sum(b"walks" in command for command in commands) == 3, "a walker, its pool of one and its sweep"
        assert sum(b"exports" in command for command in commands) == 3, "an exporter, its pool of one and its sweep"
        assert not [command for command in commands if Path(os.fsdecode(command[0])).name in ("sh", "bash", "dash")], (
            "a shell stands between honcho and a process"
        )
        begun = time.monotonic()
        started.honcho.send(signal.SIGTERM)
        wait_until(started.honcho.has_ended, what="honcho ends", within=PATIENCE)
        wait_until(lambda: not any(map(runs, below)), what="nothing is left behind", within=2)

    said = started.honcho.said()
    for role in ("web", "worker", "walker", "exporter", "flower"):
        assert re.search(rf"{role}\.1\s+\| ", said), said
    assert "SIGKILL" not in said, f"something was killed after {time.monotonic() - begun:.0f} s: {said}"


def test_workers_that_come_before_the_tables_wait_for_them(servers: Servers, tmp_path: Path) -> None:
    with honcho(servers, tmp_path, "procfile_early", "worker") as early:
        wait_until(lambda: "waiting_for_database" in early.honcho.said(), what="the worker says what it waits for")
        time.sleep(3)
        said = early.honcho.said()
        assert said.count("waiting_for_database") == 1
        assert " ready." not in said
        assert "0001_pre" in said
        done = os.spawnve(
            os.P_WAIT,
            sys.executable,
            [sys.executable, "-m", "common.ledger.migrate"],
            {
                "DATABASE_URL": early.database_url,
                "REDIS_URL": "redis://",
                "PENSTOCK_SEALING_KEYS": "k",
                "PYTHONPATH": str(ROOT),
            },
        )
        assert done == 0
        wait_until(lambda: " ready." in early.honcho.said(), what="the worker takes work")
        assert not early.honcho.has_ended()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"FLOWER_BASIC_AUTH": ""}, "FLOWER_BASIC_AUTH"),
        ({"PENSTOCK_PROXIES": "proxy.example.com"}, "PENSTOCK_PROXIES"),
        ({"PENSTOCK_SEALING_KEYS": ""}, "PENSTOCK_SEALING_KEYS"),
    ],
)
def test_a_mistake_in_the_env_file_ends_the_start_and_is_named(
    servers: Servers, tmp_path: Path, change: dict[str, str], named: str
) -> None:
    with honcho(servers, tmp_path, f"procfile_{named.lower()}", **change) as started:
        wait_until(started.honcho.has_ended, what="honcho ends", within=60)
        assert named in started.honcho.said()


def test_units_for_systemd_run_the_lines_of_the_procfile_and_hold_no_secret(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("PENSTOCK_SEALING_KEYS=CANARY\nPORT=8000\n")
    command = [sys.executable, "-m", "honcho", "export", "-d", str(ROOT), "-e", str(env_file), "-t", "deploy/systemd"]
    command += [
        "-a",
        "penstock",
        "-u",
        "events",
        "-c",
        "web=2,worker=3,walker=1,exporter=1,flower=1",
        "systemd",
        str(tmp_path / "units"),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    units = {path.name: path.read_text() for path in (tmp_path / "units").iterdir()}
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())

    services = sorted(name for name in units if name.endswith(".service"))
    assert services == [
        f"penstock-{name}.service"
        for name in ("exporter-1", "flower-1", "walker-1", "web-1", "web-2", "worker-1", "worker-2", "worker-3")
    ]
    ports: list[int] = []
    for name in services:
        ((port, start),) = re.findall(
            r"^ExecStart=/usr/bin/env PORT=(\d+) /bin/sh -c '(.*)'$", units[name], re.MULTILINE
        )
        ports.append(int(port))
        # As systemd reads it: it would take a single one of these for a variable or a name of its own.
        assert not re.search(r"(?<!\$)\$(\$\$)*(?!\$)|(?<!%)%(%%)*(?!%)", start), start
        assert start.replace("$$", "$").replace("%%", "%") == lines[name.split("-")[1]]
        assert f"EnvironmentFile={ROOT}/.env\n" in units[name]
        assert "KillMode=mixed\n" in units[name]
        assert "User=events\n" in units[name]
    assert ports[services.index("penstock-web-1.service")] == 8000
    assert len(set(ports)) == len(ports), "two processes would take the same port"
    assert "CANARY" not in "".join(units.values())
    for name in services:
        assert name in units[f"penstock-{name.split('-')[1]}.target"]


def test_web_processes_that_start_side_by_side_apply_each_migration_once(servers: Servers) -> None:
    url = servers.create_database("procfile_side_by_side")

    def start(_: int) -> list[str]:
        database = Database(url)
        try:
            return migrate(database)
        finally:
            database.close()

    with ThreadPoolExecutor(4) as starting:
        applied = [name for names in starting.map(start, range(4)) for name in names]
    assert sorted(applied) == [name for name, _ in read_migrations()]


def test_a_worker_that_may_not_look_for_its_tables_ends_and_says_so(servers: Servers, tmp_path: Path) -> None:
    url = servers.create_database("procfile_forbidden")
    owner = Database(url)
    migrate(owner)
    with owner.transaction() as tx:
        tx.run("CREATE ROLE forbidden LOGIN PASSWORD 'forbidden'")
    owner.close()
    theirs = f"postgresql://forbidden:forbidden@{url.split('@')[1]}"
    with honcho(servers, tmp_path, "procfile_other", "worker", DATABASE_URL=theirs) as started:
        wait_until(started.honcho.has_ended, what="the worker ends", within=60)
        said = started.honcho.said()

    (line,) = [line for line in said.splitlines() if "worker_not_started" in line]
    assert "permission denied for table migrations" in line
    assert "Traceback" not in said
    assert " ready." not in said
