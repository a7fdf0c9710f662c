"""
``python3 run.py demo``: import a large file with good and bad lines of every kind, and check what came of it.

The file comes from `generator`, which knows of each line what it must come to. It is uploaded to the
stack's S3, imported over HTTP with the request of Connect's own documentation, and followed as a caller
would follow it. Then the receipt and the whole table, row for row, are held against the generator's second
pass. No more than a few parts of the file are in memory at a time. Ends with 0 only if all is equal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import boto3
import psycopg2
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from psycopg2 import sql
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from deploy.local import up
from deploy.local.family import StartFailed
from deploy.local.finding import NotFound
from deploy.local.generator import FEWEST_EVENTS, MAX_LINE, EventFile, EventStream, Receipt
from deploy.local.servers import REGION, Servers
from deploy.local.service import WATCH_SECONDS, Service, create_bucket

BUCKET = "penstock-demo"
POLL_SECONDS = 0.2
#: Where output is no terminal, a line this often stands for the bar.
LINE_SECONDS = 2.0
#: An import that does not move for so long will not move any more.
STALL_SECONDS = 60.0
PART_BYTES = 8 * 1024 * 1024
#: Differences that are shown in full; all are counted.
SHOWN = 5

console = Console(highlight=False)


class Failed(Exception):
    """The demo cannot go on, or what it found is not what it expected."""


def main(argv: list[str] | None = None) -> int:
    """Run the demo; 0 if all is equal, 1 if anything is not, 130 when stopped by a signal."""
    asked = parse(argv)
    for number in up.STOP_SIGNALS:
        signal.signal(number, up.stop_once)
    try:
        run(asked)
    except up.Stopped:
        up.say("The demo was stopped.")
        return 130
    except (NotFound, StartFailed) as failure:
        up.say(f"Penstock did not start: {failure}", to=sys.stderr)
        return 1
    except Failed as failure:
        up.say(f"The demo failed: {failure}", to=sys.stderr)
        return 1
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="run.py demo", description="Import a large file, check every row, and tell how long it took."
    )
    parser.add_argument("--events", type=int, default=1_000_000, metavar="N", help="events (default: 1000000)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="worker processes (default: 2)")
    parser.add_argument("--keep", action="store_true", help="leave the stack up afterwards, until Ctrl-C")
    asked = parser.parse_args(argv)
    if asked.events < FEWEST_EVENTS:
        parser.error(f"--events must be {FEWEST_EVENTS} or more, so that there is an event of every kind")
    if asked.workers < 1:
        parser.error("--workers must be 1 or more")
    return asked


def run(asked: argparse.Namespace) -> None:
    """Start, import, check, stop. Raises `Failed` where anything differs."""
    begun = time.monotonic()
    with (
        up.only_one() if asked.keep else contextlib.nullcontext(),
        log_folder(keep=asked.keep) as logs,
    ):
        with (
            Servers.start(announce=up.say) as servers,
            Service.start(
                servers,
                logs=logs,
                workers=asked.workers,
                flower=asked.keep,
                # The one setting that decides about a line, so it must be the generator's.
                settings={"PENSTOCK_MAX_LINE_BYTES": str(MAX_LINE)},
            ) as service,
        ):
            up.say(f"Penstock  API and {asked.workers} workers, after {time.monotonic() - begun:.1f} s\n")
            equal = import_and_check(servers, service, EventFile(asked.events))
            if asked.keep:
                stay(servers, service)
        if not equal:
            raise Failed(f"the import is not what it should be (see above). The logs are in {logs}.")
    up.say(f"All of it as expected, {time.monotonic() - begun:.1f} s from the first server's start to the last's stop.")


@contextlib.contextmanager
def log_folder(*, keep: bool) -> Iterator[Path]:
    """Give a folder for the service's logs: that of ``up``, or one that is left behind by a failure only."""
    if keep:
        for old in up.LOGS.glob("*.log"):
            old.unlink()
        yield up.LOGS
        return
    folder = up.STATE / f"demo-{os.getpid()}"
    try:
        yield folder
    except (Failed, StartFailed):
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def stay(servers: Servers, service: Service) -> None:
    """Be ``up`` until a signal, which ends the demo as it would end otherwise."""
    with contextlib.suppress(up.Stopped), servers.family.file(up.STACK_FILE):
        up.write_stack(servers, service)
        up.summarize(service)
        while True:
            if service.watch():
                up.write_stack(servers, service)
            time.sleep(WATCH_SECONDS)


def import_and_check(servers: Servers, service: Service, file: EventFile) -> bool:
    """Upload the file, import it, print what came of it, and return whether that is what should."""
    # A collection of its own: a database that the environment gave may hold those of earlier demos.
    collection = f"demo-{secrets.token_hex(3)}"
    receipt = upload(servers, f"{collection}.ndjson", file)
    client = Client(service)
    location = start_import(client, servers, collection)
    status = follow_import(service, client, location)
    if status["status"] != "complete":
        message = f"the import ended as {status['status']}: {status['error']}. The logs are in {service_logs(service)}."
        raise Failed(message)
    report_speed(status, file.events)
    with console.status("Holding every row of the table against the file ..."):
        checks = check_receipt(client, location, status, receipt)
        checks += check_table(servers.database_url, location, status, file, receipt)
    print_checks(checks)
    return all(check.is_equal for check in checks)
