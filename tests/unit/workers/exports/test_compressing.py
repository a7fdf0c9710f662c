"""An object is what went in, compressed as its name says, for whoever reads it with what everybody has."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from common.model.formats import Compression
from workers.exports.compressing import compressor_of

UNDO: dict[Compression, Callable[[bytes], bytes]] = {
    Compression.NONE: bytes,
    Compression.GZIP: gzip.decompress,
    Compression.ZSTD: zstd.decompress,
}


def compressed(compression: Compression, pieces: list[bytes]) -> bytes:
    compressor = compressor_of(compression)
    return b"".join([*map(compressor.compress, pieces), compressor.flush()])


@pytest.mark.parametrize("compression", UNDO)
@given(pieces=st.lists(st.binary(max_size=40) | st.integers(0, 50_000).map(lambda size: b"line\n" * size), max_size=6))
def test_an_object_decompresses_to_what_went_in(compression: Compression, pieces: list[bytes]) -> None:
    assert UNDO[compression](compressed(compression, pieces)) == b"".join(pieces)


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_what_is_like_itself_gets_smaller(compression: Compression) -> None:
    assert len(compressed(compression, [b"line\n" * 10_000])) < 1_000


@pytest.mark.parametrize("compression", UNDO)
def test_each_object_has_a_compressor_of_its_own(compression: Compression) -> None:
    one, other = compressor_of(compression), compressor_of(compression)

    first, second = one.compress(b"first"), other.compress(b"second")

    assert UNDO[compression](first + one.flush()) == b"first"
    assert UNDO[compression](second + other.flush()) == b"second"
