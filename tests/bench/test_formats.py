"""The benchmark of formats: each holds the same events, and all of them are imported. No rate is judged."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from rich.console import Console

from deploy.local.servers import Servers
from tests.bench import formats
from tests.bench.__main__ import main
from tests.bench.events import distinct, lines

EVENTS = 1000


def _ids_of_lines(text: bytes) -> list[str]:
    return [json.loads(line)["$unique_id"] for line in text.splitlines()]


def _ids_of_rows(text: bytes) -> list[str]:
    return [row["$unique_id"] for row in csv.DictReader(io.StringIO(text.decode(), newline=""))]


READERS: dict[str, Callable[[bytes], list[str]]] = {
    "ndjson": _ids_of_lines,
    "gzip": lambda body: _ids_of_lines(gzip.decompress(body)),
    "zstd": lambda body: _ids_of_lines(zstd.decompress(body)),
    "json": lambda body: [event["$unique_id"] for event in json.loads(body)],
    "csv": _ids_of_rows,
    "csv-breaks": _ids_of_rows,
}


@pytest.mark.parametrize("form", formats.FORMS, ids=lambda form: form.name)
def test_every_format_holds_the_same_events(form: formats.Form) -> None:
    expected = _ids_of_lines(b"".join(lines(EVENTS)))

    assert READERS[form.name](form.write(lines(EVENTS))) == expected


def test_rows_hold_line_breaks_only_where_they_should() -> None:
    breaks, none = (formats.write_csv(lines(EVENTS), breaks=breaks).count(b"\n") for breaks in (True, False))

    assert none == EVENTS + 1
    assert breaks > none + EVENTS // 10


@pytest.fixture(scope="module")
def found(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a short run finds, after a journey through JSON."""
    asked = formats.parse(["--events", "4000", "--rounds", "2", "--workers", "1"])
    return dict(json.loads(json.dumps(formats.measure(servers, tmp_path_factory.mktemp("logs"), asked))))


def test_every_format_is_stored_in_every_round_and_stands_beside_plain_lines(found: dict[str, Any]) -> None:
    assert set(found["formats"]) == {form.name for form in formats.FORMS}
    for one in found["formats"].values():
        assert [load["counts"]["imported"] for load in one["rounds"]] == [distinct(4000)] * 2
        assert one["ratioToPlain"]["median"] > 0
    assert found["formats"]["ndjson"]["ratioToPlain"] == {"median": 1.0, "min": 1.0, "max": 1.0}


def test_the_table_names_every_format_and_its_aim(found: dict[str, Any]) -> None:
    printed = io.StringIO()
    formats.print_report(found, Console(file=printed, width=120))

    for form in formats.FORMS:
        assert form.name in printed.getvalue()
    assert " 0.8 " in printed.getvalue()


def test_plain_lines_are_always_among_them_and_what_cannot_be_asked_is_refused(
    capsys: pytest.CaptureFixture[str], servers: Servers, tmp_path: Path
) -> None:
    asked = formats.parse(["--events", "300", "--rounds", "1", "--workers", "1", "--only", "gzip"])
    assert set(formats.measure(servers, tmp_path, asked)["formats"]) == {"ndjson", "gzip"}
    with pytest.raises(SystemExit):
        main(["formats", "--only", "nothing"])
    assert "run.py bench formats: error:" in capsys.readouterr().err
