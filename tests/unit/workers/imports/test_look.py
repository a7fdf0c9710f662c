"""The size of chunks follows the length of lines."""

from __future__ import annotations

import pytest

from common.model.chunks import MOST_LINES
from common.model.formats import Layout
from workers.imports.look import range_bytes

MIB = 1024 * 1024


@pytest.mark.parametrize("length", [1, 3, 10, 41, 280, 65_536])
def test_a_chunk_has_few_enough_lines_and_no_more_bytes_than_set(length: int) -> None:
    sample = (b"x" * (length - 1) + b"\n") * (65_536 // length)
    found = range_bytes(sample, Layout(), most=8 * MIB)

    assert found <= 8 * MIB
    assert found / length <= MOST_LINES * 1.01
    assert (found == 8 * MIB) == (length > 41)


def test_an_empty_object_and_a_tiny_setting_are_no_special_cases() -> None:
    assert range_bytes(b"", Layout(), most=8 * MIB) == 1
    assert range_bytes(b"a\nb\n", Layout(), most=1) == 1
