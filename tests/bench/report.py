"""Figures for people and for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.contenders import CONTENDERS
from tests.bench.measuring import Load

#: Bumped when a field's meaning changes, so that nobody compares what cannot be compared.
SCHEMA = 1
#: Share of the machine in others' use from which rates mislead: whoever runs more processes gets more of what is left.
BUSY = 0.1


def document(loads: list[Load], *, mean_line: float, **facts: Any) -> dict[str, Any]:
    """Return everything that was found, for programs; ``facts`` are added as they are."""
    limits = copy_rates(loads)
    contenders = {
        contender.name: _summary(own, limits, mean_line) | {"what": contender.what}
        for contender in CONTENDERS
        if (own := [load for load in loads if load.name == contender.name])
    }
    return {
        "schema": SCHEMA,
        "headline": _headline(contenders),
        "copy": spread(list(limits.values())) if limits else None,
        "contenders": contenders,
        **facts,
    }


def _headline(contenders: dict[str, Any]) -> dict[str, float | None]:
    """Return Penstock's rate as a share of COPY's, and what COPY needs of CPU as a share of what Penstock needs.

    With every core busy the two are about the same; the second one hardly minds others on the machine.
    """
    copies = [one["cpuMicrosecondsPerEvent"] for name, one in contenders.items() if name.startswith("copy-")]
    ours = contenders.get("penstock")
    if not ours or not copies:
        return {"penstockToCopy": None, "cpuOfCopyToPenstock": None}
    cpu = min(copies) / max(ours["cpuMicrosecondsPerEvent"], 0.01)
    return {"penstockToCopy": ours["ratioToCopy"]["median"], "cpuOfCopyToPenstock": round(cpu, 3)}


def copy_rates(loads: list[Load]) -> dict[int, float]:
    """Return by round the best rate of COPY."""
    rates: dict[int, float] = {}
    for load in loads:
        if load.name.startswith("copy-"):
            rates[load.round] = max(rates.get(load.round, 0.0), load.rate)
    return rates


def _summary(loads: list[Load], limits: dict[int, float], mean_line: float) -> dict[str, Any]:
    rates = spread([load.rate for load in loads])
    # Round by round, since the machine drifts from one to the next.
    ratios = [load.rate / limits[load.round] for load in loads if load.round in limits]
    cpu = median(sum(load.cpu_seconds.values()) / load.events for load in loads)
    return {
        "events": loads[0].events,
        "eventsPerSecond": rates,
        "megabytesPerSecond": round(rates["median"] * mean_line / 1e6, 1),
        "ratioToCopy": spread(ratios) if ratios else None,
        "cpuMicrosecondsPerEvent": round(cpu * 1e6, 2),
        "rounds": [round_of(load) for load in loads],
    }


def round_of(load: Load) -> dict[str, Any]:
    """Return what one load has to say."""
    return {
        "round": load.round,
        "seconds": round(load.seconds, 3),
        "eventsPerSecond": round(load.rate),
        "cpuSeconds": load.cpu_seconds,
        "others": load.others,
        **load.more,
    }


def spread(values: list[float]) -> dict[str, float]:
    """Return the median, the least and the greatest."""
    digits = 3 if max(values) < 10 else 0
    return {name: round(of(values), digits) for name, of in _STATISTICS.items()}


_STATISTICS: dict[str, Callable[[list[float]], float]] = {"median": median, "min": min, "max": max}


def print_report(found: dict[str, Any], console: Console) -> None:
    """Print the document for people."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for title in ("events", "events/s", "min .. max", "MB/s", "of COPY", "min .. max", "CPU us"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, one in found["contenders"].items():
        rates, ratios = one["eventsPerSecond"], one["ratioToCopy"]
        table.add_row(
            name,
            f"{one['events']:,}",
            f"{rates['median']:,.0f}",
            f"{rates['min']:,.0f} .. {rates['max']:,.0f}",
            f"{one['megabytesPerSecond']:.1f}",
            f"{ratios['median']:.2f}" if ratios else "",
            f"{ratios['min']:.2f} .. {ratios['max']:.2f}" if ratios else "",
            f"{one['cpuMicrosecondsPerEvent']:.2f}",
        )
    console.print(table)
    for line in _notes(found):
        console.print(line, soft_wrap=True)


def _notes(found: dict[str, Any]) -> Iterator[str]:
    """Yield what a reader has to know beside the table."""
    settings = found["settings"]
    ratio, cpu = found["headline"].values()
    if ratio is not None:
        yield f"\n[bold]Penstock reaches {ratio:.2f} of plain COPY[/] (the best number of streams of each round)."
        yield f"COPY needs {cpu:.2f} of the CPU time that Penstock needs."
    peaks = ", ".join(f"{peak / 2**20:,.0f} MiB" for peak in found["peakMemoryBytes"].values())
    yield f"Peak memory of {settings['workers']} worker processes: {peaks}."
    yield from about_the_machine(
        found, [load["others"] for one in found["contenders"].values() for load in one["rounds"]]
    )
    yield (
        f"{settings['events']:,} lines, {settings['bytes'] / 1e6:,.1f} MB; one in a hundred has an earlier one's id."
        " Events are distinct ids, in penstock-again lines. Medians of"
        f" {settings['rounds']} rounds, ratios taken in each round. COPY sent {settings['copyFormat']} rows."
    )


def about_the_machine(found: dict[str, Any], others: list[float]) -> Iterator[str]:
    """Yield on what it was measured; ``others`` is the share of CPU time that others took, load by load."""
    machine, postgres = found["machine"], found["postgres"]
    memory = f"{machine['memoryBytes'] / 2**30:,.0f} GiB"
    yield f"{machine['cores']} cores ({machine['cpu']}), {memory}, Linux {machine['kernel']}."
    if others and median(others) > BUSY:
        share = f"{median(others):.0%}"
        yield f"[bold]Others took {share} of its CPU time[/] (median): the share of CPU time is what to believe."
    yield f"Versions: {', '.join(f'{name} {value}' for name, value in found['versions'].items())}."
    yield f"Postgres: {', '.join(f'{name} {value}' for name, value in postgres.items() if name != 'server_version')}."
