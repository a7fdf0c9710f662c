"""Ids: three spaces that never meet, equal only for what is equal, and the derived ones in order."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.model.events import Identity, derived_id, time_id
from common.model.times import parse_time

IDENTITY = Identity(b"k" * 32)
CANONICAL = "f81d4fae-7dec-41d0-a765-00a0c91e6bf6"

#: UUIDs of all variants, written well and nearly well.
uuids = st.uuids().map(str) | st.integers(0, 2**128 - 1).map(lambda n: str(UUID(int=n)))
almost_uuids = st.tuples(uuids, st.integers(0, 35), st.sampled_from("0aAgG-\n é")).map(
    lambda drawn: drawn[0][: drawn[1]] + drawn[2] + drawn[0][drawn[1] + 1 :]
)
texts = st.text() | uuids | almost_uuids | uuids.map(str.upper) | uuids.map(lambda text: text.replace("-", ""))
positions = st.tuples(st.integers(0, 2**48 - 1), st.integers(0, 2**23 - 1), st.integers(0, 2**56 - 1))


def is_canonical(text: str) -> bool:
    """Say the rule by the standard library's UUID."""
    try:
        return str(UUID(text)) == text and UUID(text).bytes[8] >> 6 == 0b10
    except ValueError:
        return False


@given(texts)
def test_a_canonical_uuid_is_itself_and_any_other_string_is_hashed(text: str) -> None:
    made = IDENTITY.of_string(text)

    assert len(made) == 16
    assert made[8] >> 6 == (0b10 if is_canonical(text) else 0b11)
    assert not is_canonical(text) or made == UUID(text).bytes


@given(st.integers(-(10**600), 10**600))
def test_integers_are_hashed_into_the_space_of_hashes(number: int) -> None:
    made = IDENTITY.of_integer(number)

    assert len(made) == 16
    assert made[8] >> 6 == 0b11
    assert made != IDENTITY.of_string(str(number))


@given(positions)
def test_derived_ids_have_a_space_of_their_own(position: tuple[int, int, int]) -> None:
    made = derived_id(*position)

    assert len(made) == 16
    assert made[8] >> 7 == 0


@given(positions, positions)
def test_derived_ids_sort_as_the_lines_stand(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    assert (derived_id(*one) < derived_id(*other)) == (one < other)
    assert (derived_id(*one) == derived_id(*other)) == (one == other)


@given(positions, st.integers(0, 2))
def test_neighbours_sort_as_the_lines_stand(position: tuple[int, int, int], part: int) -> None:
    later = list(position)
    later[part] += 1
    if later[part] < (2**48, 2**23, 2**56)[part]:
        assert derived_id(*position) < derived_id(*later)


@pytest.mark.parametrize("position", [(2**48, 0, 0), (0, 2**23, 0), (0, 0, 2**56), (-1, 0, 0), (0, -1, 0)])
def test_a_position_that_does_not_fit_is_an_error_and_no_other_lines_id(
    position: tuple[int, int, int],
) -> None:
    with pytest.raises((OverflowError, ValueError)):
        derived_id(*position)


@given(st.lists(texts, max_size=6) | st.lists(st.uuids().map(str), min_size=1) | st.lists(almost_uuids))
def test_many_strings_get_the_ids_that_each_gets_alone(many: list[str]) -> None:
    assert IDENTITY.of_strings(many) == [IDENTITY.of_string(text) for text in many]


@pytest.mark.parametrize(
    "many",
    [
        [f"{CANONICAL}\n{CANONICAL}"],
        [CANONICAL, f"{CANONICAL}\n{CANONICAL}", ""],
        [CANONICAL[:20], CANONICAL[21:], ""],
        [CANONICAL, CANONICAL[:-1] + "\n"],
    ],
)
def test_newlines_inside_ids_do_not_make_them_look_like_uuids(many: list[str]) -> None:
    assert IDENTITY.of_strings(many) == [IDENTITY.of_string(text) for text in many]


@pytest.mark.parametrize("at", [8, 13, 18, 23])
def test_a_uuid_with_a_dash_out_of_place_is_no_uuid(at: int) -> None:
    moved = CANONICAL[: at - 1] + "-" + CANONICAL[at - 1] + CANONICAL[at + 1 :]

    assert len(moved) == len(CANONICAL)
    assert [made[8] >> 6 for made in IDENTITY.of_strings([moved] * 3)] == [0b11] * 3


def test_comparison_is_exact() -> None:
    forms = [CANONICAL, CANONICAL.upper(), CANONICAL.replace("-", ""), f"{{{CANONICAL}}}", f" {CANONICAL}"]
    made = [IDENTITY.of_string(text) for text in [*forms, "1", "01", "1.0", "a", "A", "é", "e\u0301"]]

    assert len({*made, IDENTITY.of_integer(1), IDENTITY.of_integer(-1)}) == len(made) + 2


def test_hashes_hang_on_the_key_and_stay_as_they_are() -> None:
    assert Identity(b"other key, 16 b.").of_string("a") != IDENTITY.of_string("a")
    # Stored ids depend on these: if they change, every import meets strangers.
    assert IDENTITY.of_string("a").hex() == "d7c2ad6849be0d3fdb13df01c700a0f7"
    assert IDENTITY.of_integer(1).hex() == "3b6a4470463f7633f5b1395cc4c572f8"


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Identity(b"short")


#: Of the years 1 to 9999: all that is read as a time.
FIRST, LAST = parse_time("0001-01-01"), parse_time("9999-12-31T23:59:59.999999")
assert FIRST is not None
assert LAST is not None
moments = st.integers(FIRST, LAST) | st.sampled_from([FIRST, LAST, -1, 0, 1])


@given(moments, moments)
def test_ids_of_moments_differ_as_these_do_and_sort_as_they_do(one: int, other: int) -> None:
    assert (time_id(one) < time_id(other)) == (one < other)
    assert (time_id(one) == time_id(other)) == (one == other)


@given(st.integers(FIRST, LAST - 1))
def test_to_the_microsecond(moment: int) -> None:
    assert int.from_bytes(time_id(moment + 1), "big") - int.from_bytes(time_id(moment), "big") == 1


@given(moments, texts, positions)
def test_the_id_of_a_moment_is_none_of_a_string_nor_of_a_place(
    moment: int, text: str, position: tuple[int, int, int]
) -> None:
    number, *rest = position
    made = time_id(moment)

    assert len(made) == 16
    assert made[8] >> 7 == 0  # neither a UUID nor a hash
    assert made != IDENTITY.of_string(text)
    # No sequence comes to the last of 48 bits.
    assert made > derived_id(min(number, 2**48 - 2), *rest)


@pytest.mark.parametrize("moment", [FIRST - 1])
def test_a_moment_before_the_year_1_is_an_error_and_no_other_id(moment: int) -> None:
    with pytest.raises(OverflowError):
        time_id(moment)
