"""Whatever an object is written in and compressed with: its workers may be killed, and every row is there once."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import signal
from collections.abc import Callable
from random import Random
from typing import NamedTuple

import pytest
from backports import zstd

from tests.journeys.oracle import Object, make_object
from tests.journeys.stack import Fault, Stack
from tests.journeys.test_walkers import audit_walk


class Written(NamedTuple):
    """An object, and the payloads that it has to come to, in order."""

    content: bytes
    payloads: list[bytes]


def as_array(source: Object) -> Written:
    content = b"[" + b" ,\n  ".join(line.payload for line in source.events) + b"]\n"
    return Written(content, [line.payload.strip(b" \t") for line in source.firsts])


def as_csv(lines: int) -> Written:
    """Every third record has a line break in quotes, one in ten the id of an earlier one."""
    random = Random(20)
    records: dict[str, tuple[str, str]] = {}
    text = ["id,note,place.city\n"]
    for number in range(lines):
        unique = str(random.randrange(number) if number and random.random() < 0.1 else number)
        note, city = ("two\nlines, and a comma" if number % 3 == 0 else f"note {number}"), "x" * random.randrange(80)
        text.append(f'{unique},"{note}",{city}\n')
        records.setdefault(unique, (note, city))
    payloads = [{"id": key, "note": note, "place": {"city": city}} for key, (note, city) in records.items()]
    return Written(
        "".join(text).encode(), [json.dumps(payload, separators=(",", ":")).encode() for payload in payloads]
    )


def kills(stack: Stack) -> list[Fault]:
    """Kill everything that reads, by turns: a worker, the walker, a process of a pool."""

    def kill_pool() -> None:
        for pid in stack.workers_up()[-1].pool:
            os.kill(pid, signal.SIGKILL)

    return [
        Fault(5, lambda: stack.kill_worker(0)),
        Fault(20, lambda: os.kill(stack.walker().main, signal.SIGKILL)),
        Fault(40, kill_pool),
        Fault(60, lambda: stack.kill_worker(1)),
    ]


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress, bz2.compress])
def test_compressed_lines_outlive_their_workers(
    stack: Stack, collection: str, compress: Callable[[bytes], bytes]
) -> None:
    source = make_object(1, 25_000)
    import_id = stack.start_native(stack.put(compress(source.content)), collection)
    stack.follow(import_id, *kills(stack), least=2)

    audit_walk(stack, import_id, source)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("kind", ["array", "csv"])
def test_what_is_walked_outlives_its_workers(
    stack: Stack, collection: str, kind: str, compress: Callable[[bytes], bytes]
) -> None:
    written = as_array(make_object(1, 20_000)) if kind == "array" else as_csv(25_000)
    import_id = stack.start_native(stack.put(compress(written.content)), collection)
    stack.follow(import_id, *kills(stack), least=2)

    status = stack.status(import_id)
    assert (status["status"], status["pieces"]) == ("completed", {"total": 1, "completed": 1, "failed": 0})
    assert status["counts"]["imported"] == len(written.payloads)
    assert status["counts"]["lines"] == status["counts"]["imported"] + status["counts"]["duplicates"]
    assert stored(stack, import_id) == written.payloads


def test_objects_beneath_a_prefix_outlive_their_workers_and_the_first_by_key_wins(
    stack: Stack, collection: str
) -> None:
    """The same lines in three objects, each in another form: all are the first one's."""
    source = make_object(1, 8_000)
    folder = f"of-{collection}"
    for name, content in (
        ("/a", gzip.compress(source.content)),
        ("/b", source.content),
        ("/c", as_array(source).content),
    ):
        stack.put(content, key=folder + name)
    import_id = stack.start_native(folder + "/", collection)
    stack.follow(import_id, *kills(stack), least=2)

    status = stack.status(import_id)
    with_id = [line for line in source.firsts if line.key is not None]
    (own,) = stack.rows(
        "SELECT count(*) FILTER (WHERE source_ordinal = 0) AS firsts FROM events"
        " WHERE import_number = (SELECT number FROM imports WHERE id = %(id)s)",
        id=import_id,
    )
    without_id = sum(line.key is None for line in source.events)
    assert status["pieces"] == {"total": 3, "completed": 3, "failed": 0}
    assert own.firsts == len(source.firsts)
    assert status["counts"]["imported"] == len(with_id) + 3 * without_id
    assert status["counts"]["lines"] == 2 * len(source.lines) + len(source.events)


def stored(stack: Stack, import_id: str) -> list[bytes]:
    rows = stack.rows(
        "SELECT payload::text AS payload FROM events"
        " WHERE import_number = (SELECT number FROM imports WHERE id = %(id)s) ORDER BY byte_offset",
        id=import_id,
    )
    return [row.payload.encode() for row in rows]
