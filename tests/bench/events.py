"""The file that every contender loads: usual events of the demo's generator, one in a hundred with an earlier id."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.local.generator import FEWEST_EVENTS, EventFile

#: Every so many lines one has the id of an earlier line, as in the demo.
REPEAT_EVERY = 100


def lines(count: int) -> Iterator[bytes]:
    """Yield so many lines, each with its line end.

    No odd and no bad lines as in the demo: a script that stops at a line without an id would be no bar, and one that
    takes care of all of them no plain script. Repeats stay, because they are what makes loading more than COPY.
    """
    file = EventFile(max(count, FEWEST_EVENTS))
    for at in range(count):
        number = _usual(at)
        payload = file.event(number).payload
        if at % REPEAT_EVERY == REPEAT_EVERY - 1:
            payload = payload.replace(file.uuid(number).encode(), file.uuid(_usual(_earlier(at))).encode(), 1)
        yield payload + b"\n"


def distinct(count: int) -> int:
    """Return how many different ids the first ``count`` lines have."""
    return count - count // REPEAT_EVERY


def _usual(at: int) -> int:
    """Return the number of the ``at``-th usual event: the odd ones are below 100 in each 1000, repeats at 57 of 100."""
    hundred, rest = divmod(at, 99)
    return hundred // 9 * 1000 + (hundred % 9 + 1) * 100 + rest + (rest >= 57)


def _earlier(at: int) -> int:
    """Return an earlier line that is no repeat: ten times of eleven one from anywhere, else one near by."""
    repeat = at // REPEAT_EVERY
    near = repeat % 11 == 5
    first = at - 1 - repeat % 40 if near else repeat * 7_919 % at
    return first - (first % REPEAT_EVERY == REPEAT_EVERY - 1)
