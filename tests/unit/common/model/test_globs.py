"""Patterns of keys, against a plain and slow reading of the same rules."""

from __future__ import annotations

import time
from functools import cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.model.globs import Glob, is_glob


def slowly(pattern: str, key: str) -> bool:
    """Match by trying everything."""
    pattern += "**" if pattern.endswith("/") else ""

    @cache
    def match(i: int, j: int) -> bool:
        if i == len(pattern):
            return j == len(key)
        if pattern.startswith("**/", i) and (i == 0 or pattern[i - 1] == "/"):
            return match(i + 3, j) or any(key[n] == "/" and match(i + 3, n + 1) for n in range(j, len(key)))
        if pattern.startswith("**", i):
            return match(i + 2, j) or (j < len(key) and match(i, j + 1))
        if pattern[i] == "*":
            return match(i + 1, j) or (j < len(key) and key[j] != "/" and match(i, j + 1))
        if j == len(key):
            return False
        return match(i + 1, j + 1) and (key[j] == pattern[i] or (pattern[i] == "?" and key[j] != "/"))

    return match(0, 0)


@given(st.text("ab/*?", max_size=9).filter(lambda text: "***" not in text), st.text("ab/", max_size=8))
@example("a/**/b", "a/b")
@example("**/**/*a**b", "b/a/b")
def test_a_pattern_matches_what_a_plain_reading_of_its_rules_matches(pattern: str, key: str) -> None:
    assert Glob(pattern).matches(key) == slowly(pattern, key)


@given(st.text("ab/*?", max_size=9), st.text("ab/", max_size=8))
def test_what_matches_begins_with_the_prefix_that_is_listed(pattern: str, key: str) -> None:
    if Glob(pattern).matches(key):
        assert key.startswith(Glob(pattern).prefix)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("logs/*.json", ["logs/a.json", "logs/.json"], ["logs/a/b.json", "logs/a.json.gz", "other/a.json"]),
        ("logs/**", ["logs/a", "logs/a/b"], ["logs", "log/a"]),
        ("logs/**/*.json", ["logs/a.json", "logs/a/b/c.json"], ["logs/a.csv", "a.json"]),
        ("logs/2024-*/", ["logs/2024-01/a", "logs/2024-02/b/c"], ["logs/2024-01", "logs/2025-01/a"]),
        ("day-?.csv", ["day-1.csv", "day-ü.csv"], ["day-.csv", "day-10.csv", "day-/.csv"]),
        ("a[1].(x)+$", ["a[1].(x)+$"], ["a1.x"]),
        ("*\n*", ["a\nb"], ["ab"]),
    ],
)
def test_the_forms_that_people_write(pattern: str, matching: list[str], other: list[str]) -> None:
    assert [key for key in matching + other if Glob(pattern).matches(key)] == matching
    assert is_glob(pattern) == (pattern != "a[1].(x)+$")


def test_a_pattern_made_to_be_slow_is_not() -> None:
    started = time.process_time()

    assert not Glob("*a" * 500 + "*b").matches("a" * 1024)
    assert time.process_time() - started < 0.5
