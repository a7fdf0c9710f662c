"""When a worker is deaf, and when it only looks so."""

from __future__ import annotations

import pytest

from workers.watchdog import Look, Silence, is_deaf, listen

PATIENCE = 60.0


def deaf_at(*looks: Look) -> float | None:
    """Return the time of the look at which a worker is found deaf."""
    silence: Silence | None = None
    for look in looks:
        silence = listen(silence, look, patience=PATIENCE)
        if is_deaf(silence, patience=PATIENCE):
            return look.at
    return None


def looks(to: int, *, claimable: bool = True, free: bool = True, started: int = 0, start: int = 0) -> list[Look]:
    """One look every two seconds."""
    return [Look(float(at), claimable, free, started) for at in range(start, to, 2)]


def test_who_starts_nothing_while_work_waits_and_a_process_is_free_is_deaf_after_the_patience() -> None:
    assert deaf_at(*looks(200)) == 60


@pytest.mark.parametrize(
    "change",
    [{"claimable": False}, {"free": False}, {"started": 1}],
    ids=["no work, or no broker", "every process at work", "a task started"],
)
def test_one_sign_of_the_contrary_and_the_time_begins_anew(change: dict[str, int]) -> None:
    began_anew = 52 if "started" in change else 54
    after = looks(200, start=54, started=change.get("started", 0))
    assert deaf_at(*looks(52), Look(52.0, *({"claimable": True, "free": True, "started": 0} | change).values()), *after)
    found = deaf_at(
        *looks(52), Look(52.0, *({"claimable": True, "free": True, "started": 0} | change).values()), *after
    )
    assert found == began_anew + 60


def test_who_is_busy_or_idle_or_progresses_is_never_deaf() -> None:
    assert deaf_at(*looks(1000, claimable=False)) is None
    assert deaf_at(*looks(1000, free=False)) is None
    assert deaf_at(*(Look(float(at), True, True, at // 50) for at in range(0, 1000, 2))) is None


def test_who_was_stopped_for_long_is_looked_at_for_a_while_before_it_is_judged() -> None:
    assert deaf_at(*looks(10), *looks(300, start=200)) == 260


def test_nothing_is_judged_by_a_single_look() -> None:
    assert deaf_at(Look(1e9, True, True, 0)) is None
