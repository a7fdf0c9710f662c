"""The benchmark itself: everybody stores what they should, and the report says what was measured. No rate is judged."""

from __future__ import annotations

import io
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deploy.local.servers import Servers
from tests.bench import dlt_contender, report
from tests.bench.__main__ import NAMES, main, measure, parse
from tests.bench.contenders import CONTENDERS, chosen
from tests.bench.events import distinct, lines
from tests.bench.ground import Wrong, open_ground
from tests.bench.measuring import Load, _measure_once

EVENTS, DLT_EVENTS = 4000, 500


def ignore(_text: str) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def found(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a short run finds, after a journey through JSON."""
    asked = parse(["--events", str(EVENTS), "--rounds", "2", "--workers", "1", "--skip", "dlt"])
    return dict(json.loads(json.dumps(measure(servers, tmp_path_factory.mktemp("logs"), asked))))


def test_everybody_stores_what_they_should_in_every_round(found: dict[str, Any]) -> None:
    """Who does not is `Wrong`, and there is no report at all."""
    assert set(found["contenders"]) == {contender.name for contender in CONTENDERS} - {"dlt"}
    for name, one in found["contenders"].items():
        expected = EVENTS if name in ("penstock-again", "penstock-no-ids") else distinct(EVENTS)
        assert one["events"] == expected
        assert [load["round"] for load in one["rounds"]] == [1, 2]
        assert all(load["seconds"] > 0 and load["eventsPerSecond"] > 0 for load in one["rounds"])


def test_the_receipts_are_those_of_the_file(found: dict[str, Any]) -> None:
    (counts, again) = (found["contenders"][name]["rounds"][0]["counts"] for name in ("penstock", "penstock-again"))

    assert (counts["imported"], counts["duplicates"]) == (distinct(EVENTS), EVENTS - distinct(EVENTS))
    assert (again["imported"], again["duplicates"]) == (0, EVENTS)


def test_the_document_says_on_what_it_was_measured(found: dict[str, Any]) -> None:
    assert found["schema"] == report.SCHEMA
    assert found["settings"]["events"] == EVENTS
    assert found["settings"]["copyFormat"] in ("text", "binary")
    assert found["postgres"]["fsync"] == found["postgres"]["synchronous_commit"] == "on"
    assert {"penstock", "python", "postgres", "celery", "psycopg2-binary"} <= set(found["versions"])
    assert found["machine"]["cores"] >= 1
    (peak,) = found["peakMemoryBytes"].values()
    assert 2**24 < peak < 2**31
    assert found["contenders"]["penstock"]["rounds"][0]["cpuSeconds"]["worker"] > 0


def test_the_headline_is_the_median_of_the_ratios_of_each_round() -> None:
    rates = {"penstock": [10, 10, 12], "copy-1": [20, 5, 10], "copy-2": [10, 40, 20]}
    loads = []
    for name, of_rounds in rates.items():
        for number, rate in enumerate(of_rounds, 1):
            cpu = {"all": rate * (4e-6 if name == "penstock" else 2e-6)}
            loads.append(Load(name, number, seconds=1.0, events=rate, cpu_seconds=cpu, others=0.0, more={}))
    found = report.document(loads, mean_line=100)

    assert found["headline"]["penstockToCopy"] == 0.5
    assert found["headline"]["cpuOfCopyToPenstock"] == 0.5
    assert found["contenders"]["penstock"]["ratioToCopy"] == {"median": 0.5, "min": 0.25, "max": 0.6}
    assert found["copy"] == {"median": 20, "min": 20, "max": 40}


def test_the_table_names_everybody_and_the_ratio(found: dict[str, Any]) -> None:
    printed = io.StringIO()
    report.print_report(found, Console(file=printed, width=120))

    for name in found["contenders"]:
        assert name in printed.getvalue()
    assert f"reaches {found['headline']['penstockToCopy']:.2f} of plain COPY" in printed.getvalue()


def test_who_stores_too_little_is_no_bar(servers: Servers, tmp_path: Path) -> None:
    (careful,) = chosen(["careful-sql"], [])

    with open_ground(servers, tmp_path, events=300, dlt_events=300, workers=1, say=ignore) as ground:
        _measure_once(ground, careful, 1)
        ground.execute(
            "DELETE FROM bench_scripts WHERE event_id = (SELECT min(event_id::text)::uuid FROM bench_scripts)"
        )
        with pytest.raises(Wrong, match="296 rows and 296 ids where both should be 297"):
            ground.check("bench_scripts", distinct(300))


def test_dlt_stores_each_id_once(servers: Servers, tmp_path: Path) -> None:
    if not dlt_contender.APART.is_installed():
        pytest.skip("dlt's environment is not there; `python3 run.py bench --only dlt` makes it")
    asked = parse(["--only", "dlt", "--events", str(EVENTS), "--dlt-events", str(DLT_EVENTS), "--rounds", "1"])
    found = measure(servers, tmp_path, asked)

    assert found["contenders"]["dlt"]["events"] == distinct(DLT_EVENTS)
    assert found["headline"]["penstockToCopy"] is None, "there was nothing to compare with"


@pytest.mark.parametrize("count", [200, 999, 5000])
def test_the_file_has_as_many_ids_as_it_says(count: int) -> None:
    ids = [json.loads(line)["$unique_id"] for line in lines(count)]

    assert len(set(ids)) == distinct(count)
    assert list(islice(lines(5000), 200)) == list(lines(200)), "dlt's part is the beginning of everybody's file"


@pytest.mark.parametrize(
    ("only", "skip", "expected"),
    [
        ([], [], [contender.name for contender in CONTENDERS]),
        (["copy", "dlt"], [], ["copy-1", "copy-2", "copy-3", "dlt"]),
        (["penstock", "copy"], ["copy-3"], ["penstock", "copy-1", "copy-2"]),
    ],
)
def test_contenders_can_be_chosen_by_name(only: list[str], skip: list[str], expected: list[str]) -> None:
    assert [contender.name for contender in chosen(only, skip)] == expected


@pytest.mark.parametrize("wrong", [["--events", "9"], ["--rounds", "0"], ["--only", "nobody"]])
def test_what_cannot_be_asked_is_refused_with_a_sentence(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(wrong)
    assert "run.py bench: error:" in capsys.readouterr().err
    assert "copy" in NAMES
