"""Behind: the step is done with each value in order, or the giver learns why not; the thread is gone afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.journeys.stack import wait_until
from workers.exports.behind import Behind


class Stop(Exception):
    """What a test raises."""


def nothing() -> None:
    """Do nothing."""


def failing(at: int) -> Callable[[int], None]:
    def step(value: int) -> None:
        if value == at:
            raise Stop

    return step


def run(step: Callable[[int], object], *, check: Callable[[], None] = nothing) -> None:
    """Give a hundred values."""
    with Behind(step, check=check, end=nothing) as behind:
        for value in range(100):
            behind.give(value)


def test_every_value_goes_through_the_step_in_its_order_before_it_is_left() -> None:
    taken: list[int] = []
    ended = threading.Event()

    with Behind(taken.append, check=nothing, end=ended.set) as behind:
        for value in range(100):
            behind.give(value)

    assert taken == list(range(100))
    assert ended.is_set()


@pytest.mark.parametrize("at", [0, 50, 99])
def test_what_the_step_raises_reaches_who_gives_and_nothing_more_goes_through(at: int) -> None:
    taken: list[int] = []
    fails = failing(at)

    def step(value: int) -> None:
        fails(value)
        taken.append(value)

    with pytest.raises(Stop):
        run(step)

    assert taken == list(range(at))


def test_an_error_of_who_gives_is_the_one_that_is_raised_and_what_waits_is_dropped() -> None:
    taken: list[int] = []
    begun = threading.Event()

    def step(value: int) -> None:
        begun.set()
        wait_until(lambda: behind._given_up, what="the giver has left")
        taken.append(value)

    behind = Behind(step, check=nothing, end=nothing)

    def fail() -> None:
        with behind:
            behind.give(1)
            behind.give(2)
            begun.wait(10)
            raise Stop

    with pytest.raises(Stop):
        fail()

    assert taken == [1]


def test_who_waits_for_a_place_in_vain_is_told_so() -> None:
    may_go_on = threading.Event()

    def give_up() -> None:
        may_go_on.set()
        raise Stop

    with pytest.raises(Stop):
        run(lambda _: may_go_on.wait(10), check=give_up)


def test_no_thread_is_left_whatever_happens() -> None:
    before = set(threading.enumerate())

    with pytest.raises(Stop):
        run(failing(3))
    run(failing(-1))

    assert set(threading.enumerate()) <= before


def test_a_process_that_is_told_to_stop_does_not_wait_for_a_step_that_takes_long() -> None:
    begun, may_go_on = threading.Event(), threading.Event()

    def step(_: int) -> None:
        begun.set()
        may_go_on.wait(30)

    def stop() -> None:
        begun.wait(10)
        raise SystemExit

    with pytest.raises(SystemExit):
        run(step, check=stop)

    assert not may_go_on.is_set()
    may_go_on.set()
