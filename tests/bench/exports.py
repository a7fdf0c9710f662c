"""
``python3 run.py bench export``: a collection to S3 in every form, beside psql's copy of its rows to a file.

What counts is the ratio to psql of the same round, by the caller's clock: from POST to the answer that says
``completed``. What was written is read back each time, outside of what is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import IO, Any, NamedTuple

import psycopg2
from backports import zstd
from boto3.s3.transfer import TransferConfig
from psycopg2.extensions import parse_dsn
from rich.console import Console
from rich.table import Table

from deploy.local import demo
from deploy.local.demo import Client
from deploy.local.finding import NotFound, find_postgres
from deploy.local.servers import Servers
from tests.bench import measuring, report
from tests.bench.contenders import run_import
from tests.bench.events import REPEAT_EVERY, lines
from tests.bench.ground import BUCKET, Ground, Wrong, open_ground
from tests.bench.measuring import Load, clock, tell

SCHEMA = 1
MIB = 1024 * 1024
#: What the others are measured by, and what an export is to reach of its rate.
BAR, AIM = "psql", 0.6
#: What people do instead: the same, and the file to S3.
UPLOADED = "psql-s3"
#: Each poll costs the web process 3 ms or so of the two cores that the export needs.
POLL_SECONDS = 0.1
STALL_SECONDS = 300.0
#: How many times as many events the large collection has as the small one, where memory is compared.
TIMES = 10
_ROLE = "exporter"
_PIECE = 1024 * 1024
PART_BYTES = 8 * MIB


@dataclass(frozen=True)
class Form:
    """A way to export the collection."""

    name: str
    what: str
    #: What the request says besides collection and destination; the limit between the halves is put into it.
    asked: Callable[[int], dict[str, Any]]
    #: The least share of psql's rate that it should reach; None where none was set.
    aim: float | None = None
    #: SQL that its events fulfil, with that limit.
    where: str = "true"
    #: Bytes that each event gets.
    filled: int = 0


_FILL = {"id": "id", "time": "timestamp"}
_FILLED = ',"id":"f46390a5-75f0-4639-a581-64d78de207bb","timestamp":"2024-01-01T00:08:21.100Z"'
_COLUMNS = ["$unique_id", "$time", "order", "product", "quantity", "price", "customer.name", "customer.address.city"]

FORMS = [
    Form("ndjson", "the lines, one object", lambda _: {}, AIM),
    Form("gzip", "the same, by gzip", lambda _: {"compression": "gzip"}),
    Form("zstd", "the same, by Zstandard", lambda _: {"compression": "zstd"}),
    Form("parts", "objects of 64 MiB and a manifest", lambda _: {"partBytes": 64 * MIB}),
    Form("fill", "each with its id and its time", lambda _: {"fill": _FILL}, filled=len(_FILLED)),
    Form(
        "half",
        "those that a filter takes: one number of each is looked at",
        lambda limit: {"query": {"filter": {"order": {"lt": limit}}}},
        where="(payload ->> 'order')::bigint < {limit}",
    ),
    Form("csv", "records of the members at the top, whose names are found first", lambda _: {"format": "csv"}),
    Form("csv-columns", "records of eight members by name", lambda _: {"format": "csv", "columns": _COLUMNS}),
]


class Written(NamedTuple):
    """What a file or some objects hold."""

    events: int
    #: Of the lines; of CSV not known before.
    size: int | None


@dataclass
class Stored:
    """A collection that was imported, and what is known of it."""

    name: str
    number: int
    events: int
    #: Half of its events have a smaller ``order``.
    limit: int
    #: What each form has to hold.
    expected: dict[str, Written] = field(default_factory=dict)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    names = [form.name for form in FORMS]
    parser = argparse.ArgumentParser(
        prog="run.py bench export", description="Measure exports beside psql's \\copy of the same rows to a file."
    )
    parser.add_argument("--events", type=int, default=1_000_000, metavar="N", help="events (default: 1000000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="exports of each (default: 3)")
    parser.add_argument("--only", nargs="+", default=names, choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--json", action="store_true", help="print one JSON document, to be kept and compared")
    asked = parser.parse_args(argv)
    if asked.events < 2 * TIMES * REPEAT_EVERY:
        parser.error(f"at least {2 * TIMES * REPEAT_EVERY} events")
    if asked.rounds < 1:
        parser.error("--rounds must be 1 or more")
    return asked


def bench(asked: argparse.Namespace) -> dict[str, Any]:
    """Start everything, measure, stop, and return the document."""
    with demo.log_folder(keep=False) as logs, Servers.start(announce=tell) as servers:
        return measure(servers, logs, asked)


def measure(servers: Servers, logs: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Measure on these servers, and return the whole document."""
    forms = [form for form in FORMS if form.name in asked.only]
    count = _lines_for(asked.events)
    with (
        open_ground(servers, logs, events=count, dlt_events=0, workers=1, say=tell) as ground,
        tempfile.TemporaryDirectory() as folder,
    ):
        # Small before large: memory that a process has once had it keeps.
        peaks = {"small": _measure_memory(ground, forms, asked.events // TIMES)}
        stored = _import(ground, "bench-large", ground.key, asked.events)
        peaks["large"] = _export_each(ground, stored, forms)
        copier = Copier.find()
        copier.copy(ground, stored, Path(folder), upload=True)  # not measured, as the exports before
        loads = _measure_rounds(ground, stored, forms, copier, Path(folder), asked.rounds)
        return {
            "schema": SCHEMA,
            "forms": {form.name: _summary(form, loads) for form in forms},
            "bars": {
                BAR: _summary(Form(BAR, copier.what, lambda _: {}), loads),
                UPLOADED: _summary(Form(UPLOADED, "the same, and the file to S3 by boto3", lambda _: {}), loads),
            },
            "peakMemoryBytes": peaks,
            "settings": {**vars(asked), "bytes": ground.size, "overrides": measuring.overrides()},
            "machine": measuring.machine(),
            "versions": measuring.versions(ground),
            "postgres": ground.postgres_settings(),
        }


def _lines_for(events: int) -> int:
    """Return how many lines hold so many events: one in a hundred has an earlier one's id."""
    return events * REPEAT_EVERY // (REPEAT_EVERY - 1)


def _import(ground: Ground, collection: str, key: str, events: int) -> Stored:
    """Import an object into the empty table, and look at what is there now."""
    ground.clear()
    status, _ = run_import(ground, key, collection=collection)
    if status["counts"]["imported"] != events:
        message = f"the import stored {status['counts']}, where imported should be {events:,}"
        raise Wrong(message)
    ground.vacuum()
    ((limit,),) = ground.execute(
        "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY (payload ->> 'order')::bigint) FROM events"
    )
    stored = Stored(collection, ground.number_of(collection), events, limit)
    stored.expected = {form.name: _expected(ground, stored, form) for form in FORMS}
    return stored


def _expected(ground: Ground, stored: Stored, form: Form) -> Written:
    """Ask the table, in words that the service does not use."""
    where = f"collection_id = {stored.number} AND {form.where.format(limit=stored.limit)}"
    ((events, size),) = ground.execute(
        f"SELECT count(*), sum(octet_length(payload::text) + 1 + {form.filled}) FROM events WHERE {where}"
    )
    return Written(events, None if form.name.startswith("csv") else size)


# --- memory


def _measure_memory(ground: Ground, forms: list[Form], events: int) -> dict[str, int]:
    """Return the most that the exporter held for each form of a small collection."""
    key = f"{ground.key}.small"
    with contextlib.closing(ground.s3()) as client:
        client.upload_fileobj(io.BytesIO(b"".join(lines(_lines_for(events)))), BUCKET, key)
        try:
            return _export_each(ground, _import(ground, "bench-small", key, events), forms)
        finally:
            client.delete_object(Bucket=BUCKET, Key=key)


def _export_each(ground: Ground, stored: Stored, forms: list[Form]) -> dict[str, int]:
    """Export every form once, and return by its name the most bytes that the exporter held."""
    peaks = {}
    for form in forms:
        measuring.forget_peaks(ground, _ROLE)
        _export(ground, stored, form)
        (peaks[form.name],) = measuring.peak_memory(ground, _ROLE).values()
        tell(f"{form.name:12}{stored.events:>10,} events: {peaks[form.name] / MIB:.0f} MiB")
    return peaks


# --- exports


def _measure_rounds(
    ground: Ground, stored: Stored, forms: list[Form], copier: Copier, folder: Path, rounds: int
) -> list[Load]:
    work: dict[str, Callable[[], tuple[float, dict[str, Any]]]] = {BAR: partial(copier.copy, ground, stored, folder)}
    work[UPLOADED] = partial(copier.copy, ground, stored, folder, upload=True)
    work |= {form.name: partial(_export, ground, stored, form) for form in forms}
    loads = []
    for number, name in measuring.by_turns(list(work), rounds):
        events = stored.expected[name].events if name in stored.expected else stored.events
        load = clock(ground, name, number, work[name], events=events)
        tell(f"round {load.round}  {load.name:12}{load.rate:>9,.0f} events/s  {load.seconds:6.2f} s")
        loads.append(load)
    return loads


def _export(ground: Ground, stored: Stored, form: Form) -> tuple[float, dict[str, Any]]:
    """Export the collection over HTTP and check what came of it; the time is the caller's."""
    prefix = f"exports/{time.time_ns()}/"
    status, seconds = run_export(ground, stored.name, prefix, **form.asked(stored.limit))
    if status["status"] != "completed":
        message = f"the export ended as {status['status']}: {status['error']}"
        raise Wrong(message)
    started, finished = (datetime.fromisoformat(status[name]) for name in ("startedAt", "finishedAt"))
    with contextlib.closing(ground.s3()) as client:
        _check(client, form, stored.expected[form.name], status)
    return seconds, {
        "ownSeconds": (finished - started).total_seconds(),
        "bytes": sum(written["bytes"] for written in status["objects"]),
        "objects": len(status["objects"]),
    }


def run_export(ground: Ground, collection: str, prefix: str, **asked: Any) -> tuple[dict[str, Any], float]:
    """Export a collection over HTTP, and return its last status and for how long the caller waited."""
    client, url = Client(ground.service), f"{ground.service.api}/api/exports"
    destination = {
        "url": f"s3://{BUCKET}/{prefix}",
        "accessKeyId": ground.servers.s3_access_key_id,
        "secretAccessKey": ground.servers.s3_secret_access_key,
    }
    begun = time.monotonic()
    location = client.post(url, {"collection": collection, "destination": destination, **asked})
    while (status := client.get(location))["finishedAt"] is None:
        if time.monotonic() - begun > STALL_SECONDS:
            message = f"the export did not end within {STALL_SECONDS:.0f} s: {status['progress']}"
            raise Wrong(message)
        time.sleep(POLL_SECONDS)
    return status, time.monotonic() - begun


# --- what was written


def _check(client: Any, form: Form, expected: Written, status: dict[str, Any]) -> None:
    """Raise Wrong unless the objects are those told of and hold just what they should. Deletes them."""
    prefix = status["destination"]["url"].removeprefix(f"s3://{BUCKET}/")
    held = {one["Key"]: one["Size"] for one in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]}
    told = {written["key"]: written for written in status["objects"]}
    if set(held) != {*told, *filter(None, [status["manifest"]])}:
        message = f"{form.name}: there are {sorted(held)}, and told of are {sorted(told)} and {status['manifest']}"
        raise Wrong(message)
    found = [_read_object(client, key, written, status) for key, written in told.items()]
    events = sum(one.events for one in found)
    size = None if expected.size is None else sum(one.size or 0 for one in found)
    if (events, size) != expected:
        message = f"{form.name}: the objects hold {events:,} events, {size} bytes, where it should be {expected}"
        raise Wrong(message)
    if status["manifest"]:
        manifest = json.loads(client.get_object(Bucket=BUCKET, Key=status["manifest"])["Body"].read())
        if manifest["objects"] != status["objects"]:
            message = f"{form.name}: the manifest tells of other objects than the status"
            raise Wrong(message)
    for key in held:
        client.delete_object(Bucket=BUCKET, Key=key)


def _read_object(client: Any, key: str, written: dict[str, Any], status: dict[str, Any]) -> Written:
    """Return what an object holds. Raises Wrong where it is not what the status tells of it."""
    body, digest, size = client.get_object(Bucket=BUCKET, Key=key)["Body"], hashlib.sha256(), 0

    def pieces() -> Iterator[bytes]:
        nonlocal size
        for piece in body.iter_chunks(_PIECE):
            digest.update(piece)
            size += len(piece)
            yield piece

    text = _DECOMPRESSED[status["compression"]](pieces())
    found = _count_records(text) if status["format"] == "csv" else _count_lines(text)
    if (found.events, size, digest.hexdigest()) != (written["events"], written["bytes"], written["sha256"]):
        message = f"{key} holds {found.events:,} events, {size:,} bytes, {digest.hexdigest()}; told of is {written}"
        raise Wrong(message)
    return found


def _unpacked(pieces: Iterable[bytes], unpack: Any) -> Iterator[bytes]:
    for piece in pieces:
        yield unpack.decompress(piece)
    if not unpack.eof:
        message = "what was compressed ends in its middle"
        raise Wrong(message)


_DECOMPRESSED: dict[str, Callable[[Iterator[bytes]], Iterator[bytes]]] = {
    "none": lambda pieces: pieces,
    "gzip": lambda pieces: _unpacked(pieces, zlib.decompressobj(wbits=31)),
    "zstd": lambda pieces: _unpacked(pieces, zstd.ZstdDecompressor()),
}


def _count_lines(pieces: Iterable[bytes]) -> Written:
    events = size = 0
    for piece in pieces:
        events += piece.count(b"\n")
        size += len(piece)
    return Written(events, size)


def _count_records(pieces: Iterable[bytes]) -> Written:
    """Count the records below the header: a line break may stand in one."""
    with tempfile.TemporaryFile() as file:
        file.writelines(pieces)
        file.seek(0)
        with io.TextIOWrapper(file, newline="") as text:
            return Written(sum(1 for _ in csv.reader(text)) - 1, None)


# --- the bar


@dataclass(frozen=True)
class Copier:
    """Who copies the payloads to a file as the database's own client does."""

    what: str
    #: Takes the statement, the file and the database's URL.
    run: Callable[[str, Path, str], None]

    @classmethod
    def find(cls) -> Copier:
        """Return psql: that of the servers, or the machine's; where there is none, a stand-in, and say so."""
        with contextlib.suppress(NotFound):
            beside = find_postgres().path.with_name("psql")
            if beside.exists():
                return cls("psql, \\copy to a file", partial(_run_psql, str(beside)))
        if found := shutil.which("psql"):
            return cls("psql, \\copy to a file", partial(_run_psql, found))
        tell("There is no psql on this machine: psycopg2 does the same COPY to a file.")
        return cls("psycopg2, COPY to a file, for want of psql", _run_psycopg2)

    def copy(
        self, ground: Ground, stored: Stored, folder: Path, *, upload: bool = False
    ) -> tuple[float, dict[str, Any]]:
        """Copy every payload of the collection to a file, and from there to S3; check that the file has them all."""
        path = folder / "copied"
        path.unlink(missing_ok=True)
        query = f"SELECT payload FROM events WHERE collection_id = {stored.number}"
        begun = time.monotonic()
        self.run(query, path, ground.database_url)
        if upload:
            _upload(ground, path)
        seconds = time.monotonic() - begun
        with path.open("rb") as file:
            found = _count_copied(file)
        if found != stored.expected["ndjson"]:
            message = f"the file holds {found}, where it should be {stored.expected['ndjson']}"
            raise Wrong(message)
        return seconds, {"bytes": path.stat().st_size}


def _run_psql(psql: str, query: str, path: Path, url: str) -> None:
    given = {"PGDATABASE" if name == "dbname" else f"PG{name.upper()}": value for name, value in parse_dsn(url).items()}
    own = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    command = [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", f"\\copy ({query}) to '{path}'"]
    done = subprocess.run(command, env={**own, **given}, capture_output=True, text=True, check=False)
    if done.returncode:
        message = f"psql could not copy: {done.stderr.strip()}"
        raise Wrong(message)


def _run_psycopg2(query: str, path: Path, url: str) -> None:
    with (
        contextlib.closing(psycopg2.connect(url)) as connection,
        connection.cursor() as cursor,
        path.open("wb") as file,
    ):
        cursor.copy_expert(f"COPY ({query}) TO STDOUT", file)


def _upload(ground: Ground, path: Path) -> None:
    """Upload a file with boto3's own means, in parts as large and as many at a time as an export's."""
    with contextlib.closing(ground.s3()) as client:
        parts = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=3)
        client.upload_file(str(path), BUCKET, path.name, Config=parts)
        client.delete_object(Bucket=BUCKET, Key=path.name)


def _count_copied(file: IO[bytes]) -> Written:
    """Count lines and the bytes that they stand for: COPY's text form writes every backslash twice."""
    events = size = doubled = 0
    while piece := file.read(_PIECE):
        events += piece.count(b"\n")
        size += len(piece)
        doubled += piece.count(b"\\")
    return Written(events, size - doubled // 2)


# --- the report


def _summary(form: Form, loads: list[Load]) -> dict[str, Any]:
    bar = {load.round: load for load in loads if load.name == BAR}
    own = [load for load in loads if load.name == form.name]
    found = {
        "what": form.what,
        "aim": form.aim,
        "events": own[0].events,
        "bytes": own[0].more["bytes"],
        "seconds": report.spread([load.seconds for load in own]),
        "eventsPerSecond": report.spread([load.rate for load in own]),
        # Round by round, since the machine drifts from one to the next.
        "ratioToPsql": report.spread([bar[load.round].seconds / load.seconds for load in own]),
        # Hardly minds others on the machine, and leaves out a server that is somebody else's machine elsewhere.
        "cpuOfPsql": report.spread([_cpu_seconds(bar[load.round]) / _cpu_seconds(load) for load in own]),
        "cpuMicrosecondsPerEvent": round(median(sum(load.cpu_seconds.values()) / load.events for load in own) * 1e6, 2),
        "rounds": [report.round_of(load) for load in own],
    }
    if "ownSeconds" in own[0].more:
        found["ownSeconds"] = report.spread([load.more["ownSeconds"] for load in own])
    return found


def _cpu_seconds(load: Load) -> float:
    """Return what Postgres took, and who talks to it: S3, which is elsewhere as a rule, does not count here."""
    client = _ROLE if "ownSeconds" in load.more else "contender"
    return max(load.cpu_seconds.get("postgres", 0.0) + load.cpu_seconds[client], 0.01)


def print_report(found: dict[str, Any], console: Console) -> None:
    """Print the figures as a table."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for title in ("MB", "seconds", "own", "events/s", "of psql", "min .. max", "aim", "by CPU", "MiB, small", "large"):
        table.add_column(title, justify="right", no_wrap=True)
    peaks = found["peakMemoryBytes"]
    for name, one in {**found["bars"], **found["forms"]}.items():
        ratios, aim, own = one["ratioToPsql"], one["aim"], one.get("ownSeconds")
        table.add_row(
            name,
            f"{one['bytes'] / 1e6:,.1f}",
            f"{one['seconds']['median']:.2f}",
            f"{own['median']:.2f}" if own else "",
            f"{one['eventsPerSecond']['median']:,.0f}",
            f"{ratios['median']:.2f}",
            f"{ratios['min']:.2f} .. {ratios['max']:.2f}",
            "" if aim is None else f"{aim:.1f} {'ok' if ratios['median'] >= aim else 'missed'}",
            f"{one['cpuOfPsql']['median']:.2f}",
            *(f"{peaks[size][name] / MIB:.0f}" if own else "" for size in ("small", "large")),
        )
    console.print(table)
    settings = found["settings"]
    console.print(
        f"\n{settings['events']:,} events. Bar: {found['bars'][BAR]['what']}; with -s3, and that file uploaded by"
        " boto3. Seconds from the request to the answer that says completed; own: startedAt to finishedAt. Of psql: its"
        f" seconds for all events by those of the export, in each of {settings['rounds']} rounds; medians. By CPU: the"
        " same of the CPU seconds of Postgres and its client, without those of the S3 server. MiB: the most"
        f" that the exporter held, for {settings['events'] // TIMES:,} events and for all.",
        soft_wrap=True,
    )
    others = [load["others"] for one in found["forms"].values() for load in one["rounds"]]
    for line in report.about_the_machine(found, others):
        console.print(line, soft_wrap=True)
