"""
``python3 run.py bench timeframes``: what a timeframe reads of a collection, and what it costs to have it so.

Every table has an index of the times between which ranges of its blocks lie (BRIN). Events that came in roughly the
order of their times are found by it; for others a collection may have an index of its own (``penstock admin
index-time``), which makes imports slower. Counted are blocks, which hardly mind what else the machine does.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from common.ledger.filtering import select_events
from common.model.query import Query
from deploy.local import demo
from deploy.local.servers import Servers
from tests.bench import measuring, report
from tests.bench.contenders import Contender, penstock, run_import
from tests.bench.events import REPEAT_EVERY, distinct, lines
from tests.bench.ground import BUCKET, Ground, open_ground
from tests.bench.measuring import Load, tell

SCHEMA = 1
#: Lines of the object that makes the collections: an index can be asked for where there is one.
_FIRST = 2 * REPEAT_EVERY
#: The windows by name, as shares of the time between the first event and the last.
WINDOWS = {"1 in 1000": 0.001, "1 in 100": 0.01, "1 in 10": 0.1}
#: Where a window begins, as a share of the time.
_BEGINS = 0.6
#: How the events come, and which indexes on times there are. None is asked for by switching off the BRIN one.
WAYS = [("in order", "none"), ("in order", "brin"), ("shuffled", "brin"), ("shuffled", "btree")]
#: Collections by what they have: of their own, an index, or not.
_WITHOUT, _WITH = "bench-without", "bench-with"
_SEED = 1


class Look(NamedTuple):
    """What one reading of a window took."""

    seconds: float
    #: Share of the table's blocks.
    share: float
    events: int
    #: The nodes that read the table.
    scan: str


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="run.py bench timeframes", description="Measure what timeframes read, and what an index of times costs."
    )
    parser.add_argument("--events", type=int, default=1_000_000, metavar="N", help="lines (default: 1000000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="readings and imports (default: 3)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="worker processes (default: 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON document, to be kept and compared")
    asked = parser.parse_args(argv)
    if asked.events < _FIRST:
        parser.error(f"at least {_FIRST} lines")
    if min(asked.rounds, asked.workers) < 1:
        parser.error("--rounds and --workers must be 1 or more")
    return asked


def bench(asked: argparse.Namespace) -> dict[str, Any]:
    """Start everything, measure, stop, and return the document."""
    with demo.log_folder(keep=False) as logs, Servers.start(announce=tell) as servers:
        return measure(servers, logs, asked)


def measure(servers: Servers, logs: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Measure on these servers, and return the whole document."""
    with (
        open_ground(servers, logs, events=asked.events, dlt_events=0, workers=asked.workers, say=tell) as ground,
        _uploaded(ground, "shuffled", shuffled(asked.events)) as mixed,
        _uploaded(ground, "first", lines(_FIRST)) as first,
    ):
        for collection in (_WITHOUT, _WITH):
            run_import(ground, first, collection=collection)
        ground.service.run("api.admin", "index-time", "local", _WITH)
        looks: dict[str, dict[str, list[Look]]] = {}
        for order, index in WAYS:
            key, collection = ground.key if order == "in order" else mixed, _WITH if index == "btree" else _WITHOUT
            if index != "brin" or order != "in order":  # that one reads what the one before has loaded
                _load(ground, key, collection)
            looks[f"{order}, {index}"] = _look(ground, collection, index, asked.rounds)
        loads = measuring.measure(ground, _importers(mixed), asked.rounds, tell)
        return {
            "schema": SCHEMA,
            "reading": {way: {name: _told(found) for name, found in of.items()} for way, of in looks.items()},
            "importing": _compared(loads),
            "settings": {**vars(asked), "overrides": measuring.overrides()},
            "machine": measuring.machine(),
            "versions": measuring.versions(ground),
            "postgres": ground.postgres_settings(),
        }


def shuffled(count: int) -> list[bytes]:
    """Return the lines of the file in an order that has nothing to do with their times, the same each time."""
    mixed = list(lines(count))
    random.Random(_SEED).shuffle(mixed)
    return mixed


@contextlib.contextmanager
def _uploaded(ground: Ground, name: str, body: Sequence[bytes] | Iterator[bytes]) -> Iterator[str]:
    """Upload lines, and give the object's key for as long as the block lasts."""
    key = f"{ground.key}.{name}"
    with contextlib.closing(ground.s3()) as client:
        client.upload_fileobj(io.BytesIO(b"".join(body)), BUCKET, key)
        try:
            yield key
        finally:
            client.delete_object(Bucket=BUCKET, Key=key)


# --- reading


def _load(ground: Ground, key: str, collection: str) -> None:
    ground.clear()
    penstock(ground, key=key, collection=collection)
    ground.check("events", distinct(ground.count))
    ground.vacuum()


def _look(ground: Ground, collection: str, index: str, rounds: int) -> dict[str, list[Look]]:
    """Read every window so many times, by turns."""
    ((begin, end),) = ground.execute("SELECT min(time), max(time) FROM events")
    number = ground.number_of(collection)
    windows = {name: _window(begin, end, share) for name, share in WINDOWS.items()}
    found: dict[str, list[Look]] = {name: [] for name in windows}
    for _, name in measuring.by_turns(list(windows), rounds):
        found[name].append(_explain(ground, number, windows[name], use_index=index != "none"))
    for name, looks in found.items():
        tell(f"{collection:14} {index:6}{name:>10}: {looks[-1].share:6.1%} of the blocks, {looks[-1].scan}")
    return found


def _window(begin: datetime, end: datetime, share: float) -> Query:
    start = begin + (end - begin) * _BEGINS
    return Query(start=start, end=start + max((end - begin) * share, timedelta(milliseconds=1)))


def _explain(ground: Ground, number: int, query: Query, *, use_index: bool) -> Look:
    """Read a window by the condition that exports and listings use, and count what Postgres touches for it."""
    selection = select_events(number, query)
    with contextlib.closing(ground.connect()) as connection, connection.cursor() as cursor:
        # As the service's own sessions: see common.ledger.database.
        cursor.execute("SET jit = off; SET timezone = 'UTC'")
        if not use_index:
            cursor.execute("SET enable_bitmapscan = off; SET enable_indexscan = off; SET enable_indexonlyscan = off")
        cursor.execute("SELECT pg_relation_size('events') / current_setting('block_size')::int")
        (blocks,) = cursor.fetchone() or (0,)
        explain = "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON)"
        cursor.execute(f"{explain} SELECT payload FROM events WHERE {selection.where}", selection.values)
        ((((told,)),),) = cursor.fetchall()
    plan = told["Plan"]
    touched = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return Look(told["Execution Time"] / 1000, touched / blocks, int(plan["Actual Rows"]), " < ".join(_nodes(plan)))


def _nodes(plan: dict[str, Any]) -> Iterator[str]:
    """Yield the nodes of a plan with the indexes they use, from the top."""
    yield " ".join(filter(None, [plan["Node Type"], plan.get("Index Name")]))
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


def _told(looks: list[Look]) -> dict[str, Any]:
    return {
        "events": looks[0].events,
        "shareOfBlocks": round(median(look.share for look in looks), 4),
        "milliseconds": report.spread([look.seconds * 1000 for look in looks]),
        "scan": looks[-1].scan,
    }


# --- importing


def _importers(key: str) -> list[Contender]:
    """Return imports of the shuffled lines into a collection without an index of its own, and into one with."""
    whats = {_WITHOUT: "no index of its own", _WITH: "an index of its own on times"}
    return [
        Contender(name, what, partial(penstock, key=key, collection=name), "events") for name, what in whats.items()
    ]


def _compared(loads: list[Load]) -> dict[str, Any]:
    bare = {load.round: load for load in loads if load.name == _WITHOUT}
    found = {}
    for name in (_WITHOUT, _WITH):
        own = [load for load in loads if load.name == name]
        cpu = median(sum(load.cpu_seconds.values()) / load.events for load in own)
        found[name] = {
            "eventsPerSecond": report.spread([load.rate for load in own]),
            # Round by round, since the machine drifts from one to the next.
            "ratio": report.spread([load.rate / bare[load.round].rate for load in own]),
            "cpuMicrosecondsPerEvent": round(cpu * 1e6, 2),
            "rounds": [report.round_of(load) for load in own],
        }
    return found


def print_report(found: dict[str, Any], console: Console) -> None:
    """Print the figures as tables."""
    reading = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("Events came", "index of times", "window"):
        reading.add_column(title, no_wrap=True)
    for title in ("events", "of the blocks", "ms", "min .. max"):
        reading.add_column(title, justify="right", no_wrap=True)
    for way, windows in found["reading"].items():
        order, _, index = way.partition(", ")
        for name, one in windows.items():
            times = one["milliseconds"]
            reading.add_row(
                order,
                index,
                name,
                f"{one['events']:,}",
                f"{one['shareOfBlocks']:.2%}",
                f"{times['median']:,.1f}",
                f"{times['min']:,.1f} .. {times['max']:,.1f}",
            )
    console.print(reading)
    importing = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    importing.add_column("Import, shuffled", no_wrap=True)
    for title in ("events/s", "min .. max", "ratio", "min .. max", "CPU us"):
        importing.add_column(title, justify="right", no_wrap=True)
    for name, one in found["importing"].items():
        rates, ratios = one["eventsPerSecond"], one["ratio"]
        importing.add_row(
            name.removeprefix("bench-") + " btree",
            f"{rates['median']:,.0f}",
            f"{rates['min']:,.0f} .. {rates['max']:,.0f}",
            f"{ratios['median']:.2f}",
            f"{ratios['min']:.2f} .. {ratios['max']:.2f}",
            f"{one['cpuMicrosecondsPerEvent']:.2f}",
        )
    console.print()
    console.print(importing)
    settings = found["settings"]
    console.print(
        f"\n{settings['events']:,} lines; windows are shares of the time between the first event and the last. Blocks"
        f" by EXPLAIN (ANALYZE, BUFFERS), those of indexes too. {settings['workers']} workers. Medians of"
        f" {settings['rounds']} rounds, ratios taken in each round.",
        soft_wrap=True,
    )
    others = [load["others"] for one in found["importing"].values() for load in one["rounds"]]
    for line in report.about_the_machine(found, others):
        console.print(line, soft_wrap=True)
