"""Rounds of loads, and what the machine did meanwhile."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import redis

from deploy.local import up
from deploy.local.commands import ROOT
from tests.bench.contenders import Contender, choose_format, penstock
from tests.bench.ground import Ground

T = TypeVar("T")

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Load:
    """One load by one contender."""

    name: str
    round: int
    seconds: float
    #: Events that count in the rate.
    events: int
    #: By role: of the servers, the service and ourselves.
    cpu_seconds: dict[str, float]
    #: Share of the machine's CPU time that others took meanwhile.
    others: float
    more: dict[str, Any]

    @property
    def rate(self) -> float:
        """Return events per second."""
        return self.events / self.seconds


def prepare(ground: Ground) -> dict[str, float]:
    """Warm everything up by an import and keep what it stored as rows for COPY; return the rates of its formats."""
    ground.clear()
    penstock(ground)
    for form in ("text", "binary"):
        ground.keep_rows(form)
    return choose_format(ground)


def measure(ground: Ground, contenders: list[Contender], rounds: int, say: Callable[[str], None]) -> list[Load]:
    """Let everybody load once a round, by turns, and check each time what was stored."""
    loads = []
    for number, contender in by_turns(contenders, rounds):
        load = _measure_once(ground, contender, number)
        say(f"round {load.round}  {load.name:16}{load.rate:>9,.0f} events/s  {load.seconds:6.2f} s")
        loads.append(load)
    return loads


def by_turns(everybody: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """Yield each with the number of each round, in an order that moves on by one from round to round."""
    for number in range(rounds):
        first = number % len(everybody)
        for one in [*everybody[first:], *everybody[:first]]:
            yield number + 1, one


def _measure_once(ground: Ground, contender: Contender, number: int) -> Load:
    ground.clear()
    contender.prepare(ground)
    ground.execute("CHECKPOINT")
    lines = contender.lines(ground)
    load = clock(ground, contender.name, number, lambda: contender.load(ground), events=contender.rated(lines))
    ground.check(contender.table, contender.stored(lines))
    return load


def clock(
    ground: Ground,
    name: str,
    number: int,
    work: Callable[[], tuple[float, dict[str, Any]]],
    *,
    events: int,
) -> Load:
    """Measure work on so many events, which tells how long it took and what else there is to say."""
    machine_before, before = _machine_seconds(), _cpu_seconds(ground)
    seconds, more = work()
    machine_after, after = _machine_seconds(), _cpu_seconds(ground)
    spent = {role: round(after[role] - before[role], 2) for role in after}
    busy, idle = (later - earlier for earlier, later in zip(machine_before, machine_after, strict=True))
    others = max(busy - sum(spent.values()), 0.0) / max(busy + idle, 0.01)
    return Load(name, number, seconds, events, spent, round(others, 3), more)


def overrides() -> dict[str, str]:
    """Return settings of the service that this environment changes; without them all are defaults."""
    named = {name: value for name, value in os.environ.items() if name.startswith("PENSTOCK_")}
    return {name: value for name, value in named.items() if not any(word in name for word in ("KEY", "SECRET"))}


def tell(text: str) -> None:
    """Say how it goes, beside the document."""
    up.say(text, to=sys.stderr)


# --- the machine


class _Process(NamedTuple):
    parent: int
    #: Of CPU time, its own and that of its children that have ended.
    ticks: int


def _cpu_seconds(ground: Ground) -> dict[str, float]:
    """Return by role the CPU seconds used so far. Unlike the clock they hardly mind what else the machine does."""
    pids = {role: [pid] for role, pid in ground.servers.pids.items() if pid} | ground.service.pids
    trees, again = _trees(pids), _trees(pids)
    while [tree.keys() for tree in trees.values()] != [tree.keys() for tree in again.values()]:
        # A process that ended while we looked was in neither its own time nor its parent's, or in both.
        trees, again = again, _trees(pids)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    ours = time.process_time() + ended.ru_utime + ended.ru_stime
    return {role: sum(tree.values()) / _TICKS for role, tree in again.items()} | {"contender": ours}


def _trees(pids: dict[str, list[int]]) -> dict[str, dict[int, int]]:
    """Return by role the ticks of the processes given and of all that descend from them."""
    looked = {int(path.name): _read_process(path) for path in Path("/proc").glob("[0-9]*")}
    alive = {pid: process for pid, process in looked.items() if process}
    trees = {}
    for role, roots in pids.items():
        family, found = {pid for pid in roots if pid in alive}, -1
        while len(family) != found:
            found = len(family)
            family |= {pid for pid, process in alive.items() if process.parent in family}
        trees[role] = {pid: alive[pid].ticks for pid in family}
    return trees


def _read_process(path: Path) -> _Process | None:
    try:
        fields = (path / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None  # ended meanwhile
    return _Process(int(fields[1]), sum(map(int, fields[11:15])))


def _machine_seconds() -> tuple[float, float]:
    """Return the seconds that all cores together were busy and idle so far."""
    first, _ = Path("/proc/stat").read_text().split("\n", 1)
    ticks = [int(field) / _TICKS for field in first.split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, idle


def peak_memory(ground: Ground, *roles: str) -> dict[str, int]:
    """Return the most bytes that each pool process has held so far (VmHWM), by its pid; of workers if not said."""
    peaks = {}
    for pid in _pool(ground, *(roles or ("worker",))):
        status = Path(f"/proc/{pid}/status").read_text()
        peaks[pid] = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    return peaks


def forget_peaks(ground: Ground, *roles: str) -> None:
    """Let the most that each pool process has held begin anew, at what it holds now."""
    for pid in _pool(ground, *roles):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def _pool(ground: Ground, *roles: str) -> list[str]:
    mains = [pid for role in roles for pid in ground.service.pids[role]]
    children = [child for pid in mains for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    # The other child is the sweep.
    return [child for child in children if b"workers.sweep" not in Path(f"/proc/{child}/cmdline").read_bytes()]


def machine() -> dict[str, Any]:
    """Return what the figures depend on besides the software; nothing that names the machine."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": models[0] if models else platform.machine(),
        "memoryBytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
    }


def versions(ground: Ground) -> dict[str, str]:
    """Return the versions of everything that takes part."""
    with redis.Redis.from_url(ground.service.environment["REDIS_URL"]) as client:
        info: dict[str, Any] = client.info("server")
    name = "valkey" if "valkey_version" in info else "redis"
    packages = {package: version(package) for package in ("celery", "psycopg2-binary", "msgspec", "redis", "boto3")}
    return {
        "penstock": _commit(),
        "python": platform.python_version(),
        "postgres": ground.postgres_settings()["server_version"],
        f"{name} server": str(info[f"{name}_version"]),
        **packages,
    }


def _commit() -> str:
    """Return the checkout's commit, with a mark if it has been changed since."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
