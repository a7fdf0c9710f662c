"""The bootstrap: all tests are green only if each part of them is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import run


@pytest.mark.parametrize(
    ("codes", "answer"), [((0, 0), 0), ((1, 0), 1), ((0, 1), 1), ((-9, 0), 1), ((0, -15), 1), ((5, 0), 1)]
)
def test_a_part_that_fails_or_is_killed_fails_the_whole_and_the_other_runs_all_the_same(
    monkeypatch: pytest.MonkeyPatch, codes: tuple[int, int], answer: int
) -> None:
    left = [*codes]

    def end(*_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(returncode=left.pop(0))

    monkeypatch.setattr(run.subprocess, "run", end)

    assert run.test() == answer
    assert left == []
