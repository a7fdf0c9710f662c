"""The benchmark of memory: its objects are what they say, all of them are stored, and nobody passes the limit."""

from __future__ import annotations

import io
import json
import zlib
from typing import Any

import pytest
from rich.console import Console

from deploy.local.servers import Servers
from tests.bench import memory
from tests.bench.__main__ import main

SIZE = 20 * memory.MIB


def test_blocks_are_as_large_as_asked_and_repeat_no_more_ids_than_they_say() -> None:
    made = b"".join(memory.blocks(SIZE))
    ids = [json.loads(line)["$unique_id"] for line in made.splitlines()]

    assert SIZE <= len(made) < SIZE + 1000
    assert made.endswith(b"}\n")
    assert len(set(ids)) == memory._distinct(len(ids))


def test_the_others_hold_the_same_lines() -> None:
    plain = b"".join(memory.blocks(SIZE))

    assert zlib.decompress(b"".join(memory.compressed(SIZE)), wbits=31) == plain
    assert json.loads(b"".join(memory.array(SIZE))) == [json.loads(line) for line in plain.splitlines()]


def test_a_long_line_stands_between_others() -> None:
    made = b"".join(memory.with_long_line(SIZE))
    lengths = [len(line) for line in made.split(b"\n")[:-1]]

    assert max(lengths) == SIZE + len(b'{"note":""}')
    assert sum(length > 2**20 for length in lengths) == 1
    assert lengths.index(max(lengths)) == len(lengths) // 2


@pytest.fixture(scope="module")
def found(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a short run finds, after a journey through JSON."""
    asked = memory.parse(["--size", "0.004", "--workers", "1"])
    return dict(json.loads(json.dumps(memory.measure(servers, tmp_path_factory.mktemp("logs"), asked))))


def test_all_is_stored_and_who_did_it_stays_below_the_limit(found: dict[str, Any]) -> None:
    """Who does not store all is `Wrong`, and there is no report at all."""
    assert set(found["objects"]) == {large.name for large in memory.LARGE}
    for one in found["objects"].values():
        assert {role: len(peaks) for role, peaks in one["peakBytes"].items()} == {"worker": 1, "walker": 1}
        assert all(2**24 < peak < found["limitBytes"] for peaks in one["peakBytes"].values() for peak in peaks)


def test_the_table_names_every_object_and_the_limit(found: dict[str, Any]) -> None:
    printed = io.StringIO()
    memory.print_report(found, Console(file=printed, width=120))

    for large in memory.LARGE:
        assert large.name in printed.getvalue()
    assert printed.getvalue().count("191 ok") == len(memory.LARGE)


def test_what_cannot_be_asked_is_refused_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["memory", "--size", "0"])
    assert "run.py bench memory: error:" in capsys.readouterr().err
