"""
``python3 run.py bench formats``: the same events in every format, each imported by turns, beside plain lines.

What counts is the ratio to NDJSON of the same round. The aims are what the formats were built for; a machine that is
busy with something else misses them, so they are told and not enforced.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from backports import zstd
from rich.console import Console
from rich.table import Table

from deploy.local import demo
from deploy.local.servers import Servers
from tests.bench import measuring, report
from tests.bench.contenders import Contender, penstock
from tests.bench.events import REPEAT_EVERY, distinct, lines
from tests.bench.ground import BUCKET, Ground, open_ground
from tests.bench.measuring import Load, tell

SCHEMA = 1
#: What the others are measured by.
PLAIN = "ndjson"
_TAGS = ["customer.tags"] * 3
_COLUMNS = ["$unique_id", "$time", "order", "product", "quantity", "price", "customer.name", "customer.address.city"]


@dataclass(frozen=True)
class Form:
    """A way to write the events down."""

    name: str
    what: str
    ending: str
    write: Callable[[Iterable[bytes]], bytes]
    #: The least share of the rate of plain lines that it should reach; None where none was set.
    aim: float | None = None


def write_lines(events: Iterable[bytes]) -> bytes:
    """Return them as they are."""
    return b"".join(events)


def write_gzip(events: Iterable[bytes]) -> bytes:
    """Return them compressed as ``gzip`` does it when nothing is said."""
    return gzip.compress(b"".join(events), compresslevel=6)


def write_zstd(events: Iterable[bytes]) -> bytes:
    """Return them as one frame of Zstandard, as ``zstd`` does it when nothing is said."""
    return zstd.compress(b"".join(events))


def write_array(events: Iterable[bytes]) -> bytes:
    """Return them as the elements of an array, one a line."""
    return b"[" + b",\n".join(event.rstrip(b"\n") for event in events) + b"]\n"


def write_csv(events: Iterable[bytes], *, breaks: bool) -> bytes:
    """Return them as rows under dotted names; ``breaks``: with the line breaks that one note in four holds.

    Without them the file can be cut anywhere; with them it has to be followed from its beginning.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS, *_TAGS, "note"])
    for line in events:
        event = json.loads(line)
        customer = event["customer"]
        row = [event[name] for name in _COLUMNS[:6]] + [customer["name"], customer["address"]["city"]]
        note = event["note"] if breaks else event["note"].replace("\n", " ")
        writer.writerow([*row, *customer["tags"], note])
    return text.getvalue().encode()


FORMS = [
    Form(PLAIN, "one JSON object a line", ".ndjson", write_lines),
    Form("gzip", "the same, by gzip", ".ndjson.gz", write_gzip, 0.8),
    Form("csv", "a row each", ".csv", partial(write_csv, breaks=False), 0.6),
    Form("json", "one array", ".json", write_array, 0.4),
    Form("zstd", "the lines, by Zstandard", ".ndjson.zst", write_zstd),
    Form("csv-breaks", "rows, some with line breaks in quotes", ".csv", partial(write_csv, breaks=True)),
]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    names = [form.name for form in FORMS]
    parser = argparse.ArgumentParser(prog="run.py bench formats", description="Measure each format beside plain lines.")
    parser.add_argument("--events", type=int, default=500_000, metavar="N", help="events (default: 500000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="imports of each (default: 3)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="worker processes (default: 2)")
    parser.add_argument("--only", nargs="+", default=names, choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--json", action="store_true", help="print one JSON document, to be kept and compared")
    asked = parser.parse_args(argv)
    if asked.events < 2 * REPEAT_EVERY:
        parser.error(f"at least {2 * REPEAT_EVERY} events, so that some are repeats")
    if min(asked.rounds, asked.workers) < 1:
        parser.error("--rounds and --workers must be 1 or more")
    return asked


def bench(asked: argparse.Namespace) -> dict[str, Any]:
    """Start everything, measure, stop, and return the document."""
    with demo.log_folder(keep=False) as logs, Servers.start(announce=tell) as servers:
        return measure(servers, logs, asked)


def measure(servers: Servers, logs: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Measure on these servers, and return the whole document."""
    forms = [form for form in FORMS if form.name in (PLAIN, *asked.only)]
    with open_ground(servers, logs, events=asked.events, dlt_events=0, workers=asked.workers, say=tell) as ground:
        with contextlib.ExitStack() as stack:
            objects = {form.name: stack.enter_context(_uploaded(ground, form)) for form in forms}
            contenders = [_contender(form, objects[form.name][0]) for form in forms]
            ground.clear()
            penstock(ground)  # not measured: caches fill, connections open
            loads = measuring.measure(ground, contenders, asked.rounds, tell)
        return {
            "schema": SCHEMA,
            "formats": {form.name: _summary(form, loads, objects[form.name][1]) for form in forms},
            "settings": {**vars(asked), "overrides": measuring.overrides()},
            "peakMemoryBytes": measuring.peak_memory(ground, "worker", "walker"),
            "machine": measuring.machine(),
            "versions": measuring.versions(ground),
            "postgres": ground.postgres_settings(),
        }


@contextlib.contextmanager
def _uploaded(ground: Ground, form: Form) -> Iterator[tuple[str, int]]:
    """Write the events down, and give the object's key and size for as long as the block lasts."""
    key, body = f"{ground.key}.{form.name}{form.ending}", form.write(lines(ground.count))
    with contextlib.closing(ground.s3()) as client:
        client.upload_fileobj(io.BytesIO(body), BUCKET, key)
        try:
            yield key, len(body)
        finally:
            client.delete_object(Bucket=BUCKET, Key=key)


def _contender(form: Form, key: str) -> Contender:
    return Contender(form.name, form.what, partial(penstock, key=key), "events")


def _summary(form: Form, loads: list[Load], size: int) -> dict[str, Any]:
    plain = {load.round: load for load in loads if load.name == PLAIN}
    own = [load for load in loads if load.name == form.name]
    return {
        "what": form.what,
        "bytes": size,
        "aim": form.aim,
        "events": distinct(own[0].more["counts"]["lines"]),
        "eventsPerSecond": report.spread([load.rate for load in own]),
        # Round by round, since the machine drifts from one to the next.
        "ratioToPlain": report.spread([load.rate / plain[load.round].rate for load in own]),
        "cpuMicrosecondsPerEvent": round(median(sum(load.cpu_seconds.values()) / load.events for load in own) * 1e6, 2),
        "rounds": [report.round_of(load) for load in own],
    }


def print_report(found: dict[str, Any], console: Console) -> None:
    """Print the figures as a table."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in ("MB", "events/s", "min .. max", "of NDJSON", "min .. max", "aim", "CPU us"):
        table.add_column(name, justify="right")
    for name, one in found["formats"].items():
        rates, ratios, aim = one["eventsPerSecond"], one["ratioToPlain"], one["aim"]
        table.add_row(
            name,
            f"{one['bytes'] / 1e6:,.1f}",
            f"{rates['median']:,.0f}",
            f"{rates['min']:,.0f} .. {rates['max']:,.0f}",
            f"{ratios['median']:.2f}",
            f"{ratios['min']:.2f} .. {ratios['max']:.2f}",
            "" if aim is None else f"{aim:.1f} {'ok' if ratios['median'] >= aim else 'missed'}",
            f"{one['cpuMicrosecondsPerEvent']:.2f}",
        )
    console.print(table)
    settings = found["settings"]
    console.print(
        f"\n{settings['events']:,} events, one in a hundred with an earlier one's id, {settings['workers']} workers and"
        f" a walker. Medians of {settings['rounds']} rounds, ratios taken in each round.",
        soft_wrap=True,
    )
    others = [load["others"] for one in found["formats"].values() for load in one["rounds"]]
    for line in report.about_the_machine(found, others):
        console.print(line, soft_wrap=True)
