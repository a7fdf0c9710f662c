"""
``python3 run.py bench memory``: the most memory that a worker takes for very large objects.

Flat means: it depends neither on the size of the object nor on that of its longest line. Objects are made while they
are uploaded, and each import is checked to have stored every event.
"""

from __future__ import annotations

import argparse
import contextlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig
from rich.console import Console
from rich.table import Table

from deploy.local import demo
from deploy.local.servers import Servers
from tests.bench import measuring, report
from tests.bench.contenders import run_import
from tests.bench.events import distinct, lines
from tests.bench.ground import BUCKET, Ground, Wrong, open_ground
from tests.bench.measuring import tell
from tests.pieces import open_pieces

SCHEMA = 1
MIB = 1024 * 1024
#: What no process of a pool may pass.
LIMIT = 200_000_000
#: Slower than any machine should be, in bytes of lines a second; and what an import may take in any case.
SLOWEST, PATIENCE = 2 * MIB, 120.0
#: Lines that are made once; every further block has the same ones under other ids.
_BLOCK = 50_000
_ID = b'{"$unique_id":"'
_ROLES = ("worker", "walker")


@dataclass
class Large:
    """An object of some size, made anew at each reading."""

    name: str
    what: str
    ending: str
    #: Of its lines, in bytes.
    size: int
    #: From a size to its bytes in pieces.
    write: Callable[[int], Iterable[bytes]]
    #: How many of its lines are longer than a line may be.
    too_long: int = 0


def blocks(size: int) -> Iterator[bytes]:
    """Yield whole lines in blocks until they are so many bytes; no two have the same id, but for one in a hundred."""
    made = b"".join(lines(_BLOCK))
    for number in count():
        block = made.replace(_ID, _ID + b"%x-" % number)
        if len(block) >= size:
            last = block.find(b"\n", max(size - 1, 0))
            yield block[: last + 1]
            return
        yield block
        size -= len(block)


def compressed(size: int) -> Iterator[bytes]:
    """Yield the gzip of ``blocks``."""
    into = zlib.compressobj(1, wbits=31)
    for block in blocks(size):
        yield into.compress(block)
    yield into.flush()


def array(size: int) -> Iterator[bytes]:
    """Yield ``blocks`` as an array of an element a line."""
    before = b"["
    for block in blocks(size):
        yield before + block.rstrip(b"\n").replace(b"\n", b",\n")
        before = b",\n"
    yield b"]\n"


def with_long_line(size: int) -> Iterator[bytes]:
    """Yield a line of so many bytes with a few MB of usual lines before and behind it."""
    usual = b"".join(lines(_BLOCK))
    yield usual.replace(_ID, _ID + b"a-")
    yield b'{"note":"'
    for _ in range(size // MIB):
        yield b"x" * MIB
    yield b'"}\n'
    yield usual.replace(_ID, _ID + b"b-")


LARGE = [
    Large("ndjson", "lines", ".ndjson", 2000 * MIB, blocks),
    Large("gzip", "the same, by gzip", ".ndjson.gz", 2000 * MIB, compressed),
    Large("json", "an array", ".json", 1000 * MIB, array),
    Large("line", "one line among others", ".ndjson", 500 * MIB, with_long_line, 1),
]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    names = [large.name for large in LARGE]
    parser = argparse.ArgumentParser(
        prog="run.py bench memory", description="Measure the most memory that workers take for very large objects."
    )
    parser.add_argument("--size", type=float, default=1.0, metavar="X", help="part of the usual sizes (default: 1)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="worker processes (default: 2)")
    parser.add_argument("--only", nargs="+", default=names, choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--json", action="store_true", help="print one JSON document, to be kept and compared")
    asked = parser.parse_args(argv)
    if not 0.002 <= asked.size <= 100 or asked.workers < 1:
        parser.error("--size must be 0.002 to 100 and --workers 1 or more")
    return asked


def bench(asked: argparse.Namespace) -> dict[str, Any]:
    """Start everything, measure, stop, and return the document."""
    with demo.log_folder(keep=False) as logs, Servers.start(announce=tell) as servers:
        return measure(servers, logs, asked)


def measure(servers: Servers, logs: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Measure on these servers, and return the whole document."""
    with open_ground(servers, logs, events=1000, dlt_events=0, workers=asked.workers, say=tell) as ground:
        chosen = [large for large in LARGE if large.name in asked.only]
        return {
            "schema": SCHEMA,
            "limitBytes": LIMIT,
            "objects": {large.name: _measure_one(ground, large, asked.size) for large in chosen},
            "settings": {**vars(asked), "overrides": measuring.overrides()},
            "machine": measuring.machine(),
            "versions": measuring.versions(ground),
            "postgres": ground.postgres_settings(),
        }


def _measure_one(ground: Ground, large: Large, part: float) -> dict[str, Any]:
    size = round(large.size * part)
    ground.clear()
    with _uploaded(ground, large, size) as (key, stored):
        pids = measuring.peak_memory(ground, *_ROLES).keys()
        measuring.forget_peaks(ground, *_ROLES)
        status, seconds = run_import(ground, key, patience=PATIENCE + size / SLOWEST)
        peaks = {role: measuring.peak_memory(ground, role) for role in _ROLES}
    counts = status["counts"]
    _check(ground, large, status)
    if {pid for found in peaks.values() for pid in found} != set(pids):
        message = f"a process of a pool ended while {large.name} was imported"
        raise Wrong(message)
    of_all = ", ".join(f"{peak / MIB:.0f}" for found in peaks.values() for peak in found.values())
    tell(f"{large.name:8}{size / MIB:8,.0f} MiB of lines in {seconds:6.1f} s: {of_all} MiB")
    return {
        "what": large.what,
        "bytes": stored,
        "lineBytes": size,
        "seconds": round(seconds, 1),
        "counts": counts,
        "peakBytes": {role: list(found.values()) for role, found in peaks.items()},
    }


@contextlib.contextmanager
def _uploaded(ground: Ground, large: Large, size: int) -> Iterator[tuple[str, int]]:
    """Make the object, and give its key and size for as long as the block lasts."""
    key = f"{ground.key}.{large.name}{large.ending}"
    with contextlib.closing(ground.s3()) as client, open_pieces(large.write(size)) as body:
        client.upload_fileobj(body, BUCKET, key, Config=TransferConfig(multipart_chunksize=16 * MIB, max_concurrency=2))
        try:
            yield key, client.head_object(Bucket=BUCKET, Key=key)["ContentLength"]
        finally:
            client.delete_object(Bucket=BUCKET, Key=key)


def _check(ground: Ground, large: Large, status: dict[str, Any]) -> None:
    """Raise Wrong unless every line was stored, was a repeat, or was too long."""
    counts, whole = status["counts"], status["counts"]["lines"] - large.too_long
    state = "completed_with_errors" if large.too_long else "completed"
    stored = counts["imported"], counts["rejected"]
    expected = _distinct(whole), large.too_long
    if status["status"] != state or stored != expected:
        message = f"{large.name} ended as {status['status']} ({status['error']}): {counts}, where imported and rejected"
        raise Wrong(f"{message} should be {expected}.")
    ground.check("events", expected[0])


def _distinct(count: int) -> int:
    """Return how many ids so many lines of ``blocks`` have: repeats are of lines of their own block."""
    return count // _BLOCK * distinct(_BLOCK) + distinct(count % _BLOCK)


def print_report(found: dict[str, Any], console: Console) -> None:
    """Print the figures as a table."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for title in ("MiB", "of lines", "lines", "seconds", "workers, MiB", "walker, MiB", "limit, MiB"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, one in found["objects"].items():
        peaks = {role: ", ".join(f"{peak / MIB:.0f}" for peak in of_role) for role, of_role in one["peakBytes"].items()}
        highest = max(peak for of_role in one["peakBytes"].values() for peak in of_role)
        limit = found["limitBytes"]
        table.add_row(
            name,
            f"{one['bytes'] / MIB:,.0f}",
            f"{one['lineBytes'] / MIB:,.0f}",
            f"{one['counts']['lines']:,}",
            f"{one['seconds']:.0f}",
            peaks["worker"],
            peaks["walker"],
            f"{limit / MIB:.0f} {'ok' if highest < limit else 'passed'}",
        )
    console.print(table)
    console.print("\nThe most that each process of a pool held while it worked (VmHWM).", soft_wrap=True)
    for line in report.about_the_machine(found, []):
        console.print(line, soft_wrap=True)
