"""Redis routes and tells how far things are; it may be emptied, full, slow or away, and costs nothing but speed."""

from __future__ import annotations

import socket
import time

import pytest
import redis

from common.live.connection import Live
from common.live.progress import ProgressBoard
from common.live.seen import Seen
from common.model.chunks import Counts, Entry
from tests.stage import Stage

IDS = [bytes([n]) * 16 for n in range(10)]
NOBODY = "redis://127.0.0.1:1/0"


@pytest.fixture
def seen(stage: Stage) -> Seen:
    return Seen(Live(stage.settings.redis_url, timeout_seconds=2), most_ids=100, seconds=60)


def test_an_id_is_new_once(seen: Seen) -> None:
    assert seen.mark(1, IDS) == [False] * 10
    assert seen.mark(1, [*IDS[5:], b"x" * 16]) == [True] * 5 + [False]
    assert seen.mark(2, IDS) == [False] * 10, "collections were mixed up"
    assert seen.mark(1, []) == []


def test_as_many_ids_as_a_chunk_can_hold_are_marked_in_one_step(stage: Stage) -> None:
    seen = Seen(Live(stage.settings.redis_url, timeout_seconds=10), most_ids=10**6, seconds=60)
    many = [n.to_bytes(16, "big") for n in range(100_000)]

    assert not any(seen.mark(1, many))
    assert all(seen.mark(1, many))


def test_above_the_bound_ids_are_looked_up_and_no_longer_marked(stage: Stage, seen: Seen) -> None:
    many = [n.to_bytes(16, "big") for n in range(95)]
    seen.mark(1, many)

    assert seen.mark(2, IDS) == [False] * 10
    assert seen.mark(2, IDS) == [False] * 10, "marked above the bound"
    assert seen.mark(1, many[:3]) == [True] * 3, "what was marked before is still known"


def test_trimming_forgets_what_was_used_longest_ago_until_there_is_room(stage: Stage, seen: Seen) -> None:
    old = [n.to_bytes(16, "big") for n in range(60)]
    young = [n.to_bytes(16, "big") for n in range(35)]
    seen.mark(1, old)
    seen.mark(2, young)
    with redis.Redis.from_url(stage.settings.redis_url) as client:
        client.zadd("penstock:seen:index", {"penstock:seen:1": 1, "penstock:seen:2": 2})

    seen.trim()

    assert not any(seen.mark(1, old[:5]))
    assert all(seen.mark(2, young))


def test_marks_that_expired_give_their_room_back(stage: Stage, seen: Seen) -> None:
    seen.mark(1, [n.to_bytes(16, "big") for n in range(95)])
    with redis.Redis.from_url(stage.settings.redis_url) as client:
        client.delete("penstock:seen:1")
    seen.trim()

    seen.mark(2, IDS)
    assert all(seen.mark(2, IDS))


def test_without_redis_everything_is_new_and_nothing_fails() -> None:
    seen = Seen(Live(NOBODY, timeout_seconds=0.2), most_ids=100, seconds=60)

    assert seen.mark(1, IDS) == [False] * 10
    seen.trim()


def test_a_redis_that_hangs_is_waited_for_once_and_asked_again_later() -> None:
    """A POST asks it several questions; each waited for the whole timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        live = Live(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", timeout_seconds=0.5)
        begun = time.monotonic()
        assert [live.ask(lambda client: client.get("x"), otherwise=b"no") for _ in range(20)] == [b"no"] * 20
        assert 0.5 <= time.monotonic() - begun < 5, "twenty waits are 10 s"

        time.sleep(0.5)
        begun = time.monotonic()
        live.ask(lambda client: client.get("x"), otherwise=None)
        assert time.monotonic() - begun >= 0.5, "it was not asked again"


def test_a_redis_that_refuses_is_told_of_once_in_a_while(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.live.connection._TOLD_FOR", 2.0)
    live = Live(NOBODY, timeout_seconds=0.2)

    def ask_on() -> int:
        for _ in range(20):
            live.ask(lambda client: client.get("x"), otherwise=None)
        told = capsys.readouterr()
        return (told.out + told.err).count("redis_away")

    assert ask_on() == 1
    assert ask_on() == 0
    time.sleep(2.0)
    assert ask_on() == 1


def entry(number: int, *, imported: int = 5, done_ms: int = 1000) -> Entry:
    return Entry(number, 100, Counts(lines=imported + 1, imported=imported, rejected=1), done_ms)


@pytest.fixture
def board(stage: Stage) -> ProgressBoard:
    return ProgressBoard(Live(stage.settings.redis_url, timeout_seconds=2))


def test_progress_is_the_sum_of_chunks_however_often_each_is_written(board: ProgressBoard) -> None:
    board.build("job", [])
    for number in (0, 1, 1, 0, 2):
        board.write("job", entry(number))

    progress = board.read("job", chunks_done=3, now_ms=2000)
    assert progress is not None
    assert (progress.chunks_done, progress.bytes_done) == (3, 300)
    assert progress.counts == Counts(lines=18, imported=15, rejected=3)
    assert board.size("job") == 3


def test_the_rate_counts_the_last_ten_seconds(board: ProgressBoard) -> None:
    board.build("job", [entry(0, done_ms=1_000), entry(1, done_ms=11_001), entry(2, done_ms=20_000)])

    progress = board.read("job", chunks_done=0, now_ms=21_000)
    assert progress is not None
    assert progress.imported_lately == 10


def test_progress_without_its_mark_is_not_believed(board: ProgressBoard) -> None:
    assert board.read("job", chunks_done=0, now_ms=0) is None
    board.write("job", entry(7))

    assert board.read("job", chunks_done=0, now_ms=0) is None
    assert board.size("job") == -1


def test_progress_that_knows_fewer_chunks_than_the_ledger_is_not_believed(board: ProgressBoard) -> None:
    board.build("job", [entry(0), entry(1)])

    assert board.read("job", chunks_done=2, now_ms=0) is not None
    assert board.read("job", chunks_done=3, now_ms=0) is None


def test_without_redis_there_is_no_progress_and_nothing_fails() -> None:
    board = ProgressBoard(Live(NOBODY, timeout_seconds=0.2))
    board.write("job", entry(0))
    board.build("job", [entry(0)])
    board.forget("job")

    assert board.read("job", chunks_done=0, now_ms=0) is None
    assert board.size("job") is None
