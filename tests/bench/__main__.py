"""
``python3 run.py bench``: how fast Penstock imports, beside what the database can do and what people write instead.

Everybody loads the same file into the same Postgres, by turns, and is checked each time to have stored every event
once. What counts is the ratio to plain COPY of the same rows: rates are the machine's as much as ours.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psycopg2
from rich.console import Console

import run
from deploy.local import demo, up
from deploy.local.family import StartFailed
from deploy.local.finding import NotFound
from deploy.local.servers import Servers
from tests.bench import dlt_contender, exports, formats, measuring, memory, report, timeframes
from tests.bench.contenders import CONTENDERS, chosen
from tests.bench.events import REPEAT_EVERY
from tests.bench.ground import open_ground
from tests.bench.measuring import overrides, tell

NAMES = ["copy", *(contender.name for contender in CONTENDERS)]


def main(argv: list[str] | None = None) -> int:
    """Run a benchmark; 0 if everybody stored what they should, 1 if not, 130 when a signal stopped it."""
    argv = sys.argv[1:] if argv is None else argv
    others = argv[0] if argv and argv[0] in KINDS else ""
    kind = KINDS[others]
    asked = kind.parse(argv[1:] if others else argv)
    for number in up.STOP_SIGNALS:
        signal.signal(number, up.stop_once)
    try:
        found = kind.bench(asked)
    except up.Stopped:
        tell("The benchmark was stopped.")
        return 130
    except (NotFound, StartFailed, run.Stop, demo.Failed, psycopg2.Error) as failure:
        tell(f"The benchmark failed: {failure}")
        return 1
    if asked.json:
        print(json.dumps(found, indent=2))
    else:
        kind.print_report(found, Console(highlight=False, width=None if sys.stdout.isatty() else 120))
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="run.py bench",
        description="Measure imports beside plain COPY and others.",
        epilog="bench formats: gzip, CSV and others beside plain lines. bench memory: what large objects take. "
        "bench export: exports beside psql. bench timeframes: what an index of times brings and costs.",
    )
    parser.add_argument("--events", type=int, default=500_000, metavar="N", help="lines (default: 500000)")
    parser.add_argument("--dlt-events", type=int, default=100_000, metavar="N", help="lines for dlt (default: 100000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="loads by each (default: 3)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="worker processes (default: 2)")
    parser.add_argument("--only", nargs="+", default=[], choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--skip", nargs="+", default=[], choices=NAMES, metavar="NAME", help="the same names")
    parser.add_argument("--json", action="store_true", help="print one JSON document, to be kept and compared")
    asked = parser.parse_args(argv)
    if min(asked.events, asked.dlt_events) < 2 * REPEAT_EVERY:
        parser.error(f"at least {2 * REPEAT_EVERY} lines, so that some are repeats")
    if min(asked.rounds, asked.workers) < 1:
        parser.error("--rounds and --workers must be 1 or more")
    return asked


def bench(asked: argparse.Namespace) -> dict[str, Any]:
    """Start everything, measure, stop, and return the document."""
    if "dlt" in [contender.name for contender in chosen(asked.only, asked.skip)]:
        dlt_contender.APART.install()
    with demo.log_folder(keep=False) as logs, Servers.start(announce=tell) as servers:
        return measure(servers, logs, asked)


def measure(servers: Servers, logs: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Measure on these servers, and return the whole document."""
    sizes = {"events": asked.events, "dlt_events": asked.dlt_events, "workers": asked.workers}
    with open_ground(servers, logs, **sizes, say=tell) as ground:
        rates = measuring.prepare(ground)
        loads = measuring.measure(ground, chosen(asked.only, asked.skip), asked.rounds, tell)
        return report.document(
            loads,
            mean_line=ground.size / ground.count,
            settings={
                **vars(asked),
                "bytes": ground.size,
                "copyFormat": next(iter(ground.rows)),
                "copyFormatRates": {form: round(rate) for form, rate in rates.items()},
                "overrides": overrides(),
            },
            peakMemoryBytes=measuring.peak_memory(ground),
            machine=measuring.machine(),
            versions=measuring.versions(ground),
            postgres=ground.postgres_settings(),
        )


class Kind(NamedTuple):
    """A benchmark: reads its command line, measures, and prints what was found."""

    parse: Callable[[list[str]], argparse.Namespace]
    bench: Callable[[argparse.Namespace], dict[str, Any]]
    print_report: Callable[[dict[str, Any], Console], None]


#: By the word that asks for it.
KINDS = {
    "": Kind(parse, bench, report.print_report),
    "formats": Kind(formats.parse, formats.bench, formats.print_report),
    "export": Kind(exports.parse, exports.bench, exports.print_report),
    "timeframes": Kind(timeframes.parse, timeframes.bench, timeframes.print_report),
    "memory": Kind(memory.parse, memory.bench, memory.print_report),
}


if __name__ == "__main__":
    sys.exit(main())
