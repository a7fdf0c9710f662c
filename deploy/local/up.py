"""
``python3 run.py up``: start the stack and the service, say where they are, and keep them running.

``.penstock/stack.json`` (mode 600: it holds keys) tells programs what the summary tells people; it is there
exactly while the stack is ready, and is written anew when a process that died has been started again.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import TextIO

from deploy.local.commands import ROOT
from deploy.local.family import StartFailed, port_is_free
from deploy.local.finding import NotFound
from deploy.local.servers import Servers
from deploy.local.service import WATCH_SECONDS, Service

STATE = ROOT / ".penstock"
STACK_FILE = STATE / "stack.json"
LOGS = STATE / "logs"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """We were asked to stop. No Exception: nothing on the way out may take it for a failure."""


def main(argv: list[str] | None = None) -> int:
    """Run until asked to stop; 0 then, 1 when something did not start."""
    asked = parse(argv)
    for number in STOP_SIGNALS:
        signal.signal(number, stop_once)
    try:
        with only_one():
            run(asked.workers, asked.port)
    except Stopped:
        say("Penstock has stopped.")
        return 0
    except (NotFound, StartFailed) as failure:
        say(f"Penstock did not start: {failure}", to=sys.stderr)
        return 1
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="run.py up", description="Start the whole stack and stay.")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="worker processes (default: 2)")
    parser.add_argument("--port", type=int, metavar="P", help="the API's port (default: a free one)")
    asked = parser.parse_args(argv)
    if asked.workers < 0:
        parser.error("--workers must not be negative")
    if asked.port is not None and not port_is_free(asked.port):
        parser.error(f"port {asked.port} of 127.0.0.1 is taken")
    return asked


def stop_once(_number: int, _frame: FrameType | None) -> None:
    """Unwind at the first signal and be deaf to the next: a second Ctrl-C must not cut the clean-up short."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise Stopped


def run(workers: int, port: int | None) -> None:
    """Start, tell, supervise; returns only by an exception."""
    for old in LOGS.glob("*.log"):
        old.unlink()
    with (
        Servers.start(announce=say) as servers,
        Service.start(servers, logs=LOGS, workers=workers, port=port, flower=True) as service,
    ):
        stay(servers, service)


def stay(servers: Servers, service: Service) -> None:
    """Say where everything is, and start again what dies; returns only by an exception."""
    with servers.family.file(STACK_FILE):
        write_stack(servers, service)
        summarize(service)
        while True:
            if service.watch():
                write_stack(servers, service)
            time.sleep(WATCH_SECONDS)


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Keep a second ``up`` of this checkout off the first one's stack.json; the kernel drops the lock."""
    STATE.mkdir(exist_ok=True)
    with (STATE / "up.lock").open("w") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartFailed(f"another `run.py up` of this checkout is running (see {STACK_FILE}).") from None
        STACK_FILE.unlink(missing_ok=True)  # a killed one's reaper removes it, unless it was killed too
        yield


def write_stack(servers: Servers, service: Service) -> None:
    """Write the file in one step, so that a reader sees an old one or a new one and never half of one."""
    content = {
        "api": service.api,
        "flower": service.flower,
        "flowerUser": service.flower_user,
        "flowerPassword": service.flower_password,
        "databaseUrl": servers.database_url,
        "redisUrl": servers.redis_url,
        "s3Endpoint": servers.s3_endpoint,
        "s3AccessKeyId": servers.s3_access_key_id,
        "s3SecretAccessKey": servers.s3_secret_access_key,
        "spoolBucket": service.spool_bucket,
        "project": {"id": service.project.id, "name": service.project.name},
        "apiKey": service.api_key,
        "awsAccessKeyId": service.project.aws_access_key_id,
        "awsSecretAccessKey": service.project.aws_secret_access_key,
        "pids": service.pids | servers.pids,
    }
    fresh = STACK_FILE.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        json.dump(content, out, indent=2)
        out.write("\n")
    fresh.replace(STACK_FILE)


def summarize(service: Service) -> None:
    """Tell the person at the terminal where things are; the keys stay in the file."""
    shown = STACK_FILE.relative_to(ROOT)
    workers = f"{len(service.pids['worker'])} workers, a walker and an exporter"
    say(
        f"\nPenstock is up: {workers}, project {service.project.name!r}.\n"
        f"  API     {service.api}/api   (described in {service.api}/api/openapi.json)\n"
        f"  Flower  {service.flower}   (user {service.flower_user}, password in {shown})\n"
        f"  Keys, addresses and pids are in {shown}, logs in {LOGS.relative_to(ROOT)}/.\n"
        "  Ctrl-C stops all of it."
    )


def say(text: str, to: TextIO | None = None) -> None:
    """Print, and do not mind that nobody listens any more (``run.py up | head``)."""
    with contextlib.suppress(OSError):
        print(text, file=to or sys.stdout, flush=True)


if __name__ == "__main__":
    sys.exit(main())
