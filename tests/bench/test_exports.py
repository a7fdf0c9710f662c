"""The benchmark of exports: every form holds what it should, in every round, beside psql. No rate is judged."""

from __future__ import annotations

import hashlib
import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deploy.local.servers import Servers
from tests.bench import exports
from tests.bench.__main__ import main
from tests.bench.ground import BUCKET, Wrong

EVENTS = 4000
PAYLOADS = [rb'{"a":"C:\\\\orders\\tby hand"}', '{"ö":25.00}'.encode(), b'{"a": 1e2}']
FORMS = {form.name: form for form in exports.FORMS}


@pytest.fixture(scope="module")
def found(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a short run finds, after a journey through JSON."""
    asked = exports.parse(["--events", str(EVENTS), "--rounds", "2"])
    return dict(json.loads(json.dumps(exports.measure(servers, tmp_path_factory.mktemp("logs"), asked))))


def test_every_form_is_written_in_every_round_and_stands_beside_psql(found: dict[str, Any]) -> None:
    """What is not written as it should be is `Wrong`, and there is no report at all."""
    assert set(found["forms"]) == set(FORMS)
    for name, one in {**found["bars"], **found["forms"]}.items():
        assert one["events"] == (EVENTS // 2 - 1 if name == "half" else EVENTS)
        assert [load["round"] for load in one["rounds"]] == [1, 2]
        assert one["ratioToPsql"]["median"] > 0
        assert one["cpuOfPsql"]["median"] > 0
    assert found["bars"]["psql"]["ratioToPsql"] == {"median": 1.0, "min": 1.0, "max": 1.0}


def test_the_time_until_the_answer_holds_the_service_s_own(found: dict[str, Any]) -> None:
    for one in found["forms"].values():
        assert all(0 < load["ownSeconds"] < load["seconds"] for load in one["rounds"])


def test_memory_is_told_of_every_form_of_both_collections(found: dict[str, Any]) -> None:
    for peaks in found["peakMemoryBytes"].values():
        assert set(peaks) == set(FORMS)
        assert all(2**24 < peak < 2**30 for peak in peaks.values())


def test_the_table_names_everybody_and_the_aim(found: dict[str, Any]) -> None:
    printed = io.StringIO()
    exports.print_report(found, Console(file=printed, width=120))

    for name in ("psql", "psql-s3", *FORMS):
        assert f"\n{name} " in printed.getvalue()
    assert " 0.6 " in printed.getvalue()


@pytest.fixture
def rows(servers: Servers) -> Any:
    """A database's address, and a query for some payloads."""
    name = "bench_copying"
    url = servers.create_database(name)
    yield url, " UNION ALL ".join(f"SELECT '{payload.decode()}'::json" for payload in PAYLOADS)
    servers.drop_database(name)


def test_both_copiers_write_the_same_file_and_its_lines_are_counted_as_they_are_stored(
    rows: tuple[str, str], tmp_path: Path
) -> None:
    url, query = rows
    copier = exports.Copier.find()
    if copier.run is exports._run_psycopg2:
        pytest.skip("there is no psql on this machine")
    copier.run(query, tmp_path / "one", url)
    exports._run_psycopg2(query, tmp_path / "other", url)

    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    with (tmp_path / "one").open("rb") as file:
        assert exports._count_copied(file) == (len(PAYLOADS), sum(len(payload) + 1 for payload in PAYLOADS))


def test_a_psql_that_fails_is_no_bar(rows: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(Wrong, match="could not copy"):
        exports.Copier.find().run("SELECT nothing FROM nowhere", tmp_path / "none", rows[0])


class Bucket:
    """Objects in memory, asked for as boto3's client is."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803  boto3's names
        assert Bucket == BUCKET
        content = self.objects[Key]
        body = io.BytesIO(content)
        body.iter_chunks = lambda size: iter(partial(body.read, size), b"")  # type: ignore[attr-defined]
        return {"Body": body}


def test_an_object_that_lacks_a_line_is_found_out() -> None:
    content = b"".join(payload + b"\n" for payload in PAYLOADS)
    status = {"compression": "none", "format": "ndjson"}
    told = {"events": 3, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    read = partial(exports._read_object, written=told, status=status)

    assert read(Bucket({"whole": content}), "whole") == (3, len(content))
    with pytest.raises(Wrong, match="holds 2 events"):
        read(Bucket({"short": content[len(PAYLOADS[0]) + 1 :]}), "short")


@pytest.mark.parametrize("wrong", [["--events", "100"], ["--rounds", "0"], ["--only", "nothing"]])
def test_what_cannot_be_asked_is_refused_with_a_sentence(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", *wrong])
    assert "run.py bench export: error:" in capsys.readouterr().err
