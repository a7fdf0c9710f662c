"""The benchmark of timeframes: every way to read a window finds the same events. No rate is judged."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from deploy.local.servers import Servers
from tests.bench import timeframes
from tests.bench.__main__ import main
from tests.bench.events import lines

EVENTS = 20_000


@pytest.fixture(scope="module")
def found(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a short run finds, after a journey through JSON."""
    asked = timeframes.parse(["--events", str(EVENTS), "--rounds", "2", "--workers", "1"])
    return dict(json.loads(json.dumps(timeframes.measure(servers, tmp_path_factory.mktemp("logs"), asked))))


def test_shuffled_lines_are_the_same_lines_in_another_order() -> None:
    mixed = timeframes.shuffled(500)

    assert sorted(mixed) == sorted(lines(500))
    assert mixed != list(lines(500))
    assert mixed == timeframes.shuffled(500)


def test_an_index_changes_what_is_read_and_not_what_is_found(found: dict[str, Any]) -> None:
    reading = found["reading"]
    assert set(reading) == {", ".join(way) for way in timeframes.WAYS}
    for one, other in (("in order, none", "in order, brin"), ("shuffled, brin", "shuffled, btree")):
        for window, share in timeframes.WINDOWS.items():
            assert reading[one][window]["events"] == reading[other][window]["events"]
            assert reading[one][window]["events"] == pytest.approx(EVENTS * share, rel=0.2, abs=10)


def test_only_who_has_an_index_reads_less_than_all(found: dict[str, Any]) -> None:
    narrow = {way: windows["1 in 1000"] for way, windows in found["reading"].items()}

    assert narrow["in order, none"]["shareOfBlocks"] == 1
    assert narrow["in order, none"]["scan"] == "Seq Scan"
    assert narrow["shuffled, btree"]["shareOfBlocks"] < 0.2
    assert "events_time_" in narrow["shuffled, btree"]["scan"]


def test_both_imports_stand_beside_each_other(found: dict[str, Any]) -> None:
    """Who does not store all is `Wrong`, and there is no report at all."""
    assert [one["ratio"]["median"] > 0 for one in found["importing"].values()] == [True, True]
    assert found["importing"]["bench-without"]["ratio"]["median"] == 1


def test_the_tables_name_every_way_and_every_window(found: dict[str, Any]) -> None:
    printed = io.StringIO()
    timeframes.print_report(found, Console(file=printed, width=120))

    for word in ("in order", "shuffled", "brin", "btree", *timeframes.WINDOWS):
        assert word in printed.getvalue()


def test_what_cannot_be_asked_is_refused_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["timeframes", "--events", "1"])
    assert "run.py bench timeframes: error:" in capsys.readouterr().err
