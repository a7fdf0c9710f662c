"""Filtered keys by answers that openssl gave, and by an encryption of the test's own; whatever is no key is nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.filtered import MAX_FILTERED_KEY, Master, open_filtered_key, read_filtered_key
from common.model.query import parse_query
from tests.keys import MASTER, altered, encrypted, filtered_key, strict_key
from tests.unit.common.model.test_query import NOW

PLAIN, STRICT = Master(MASTER, strict=False), Master(MASTER, strict=True)
COUNTING = "000102030405060708090A0B0C0D0E0F"
#: IV; what ``printf %s TEXT | openssl enc -aes-256-cbc -K $(printf %s MASTER | xxd -p -c 64) -iv IV | xxd -p`` of
#: OpenSSL 3.0 made of a text, with its usual padding; and what the text said, the first as compact JSON, with
#: ``"canQuery":true,"canPush":false`` behind its filters, the second with blanks and ``"filters": null``.
KNOWN: list[tuple[str, str, dict[str, Any], bool, bool]] = [
    (
        COUNTING,
        (
            "50e097ee1311d81ee3a671730a9c506215fa15e8dec7f92f5f26a0bedec6b0172c984dc2e0ff00801b1c93c841d29493"
            "c52101693804f5cec68175e97152ca1a5667e77017118af81275190228d67d0ed79a7f47f78bfc077e8b3093cdef9786"
        ),
        {"customer.id": 5, "kind": {"in": ["a", "b"]}},
        True,
        False,
    ),
    (
        COUNTING,
        (
            "7d1820ffe415618dcd2b4d86718c4f8dd80fd659c6dc40847a48f40a2e735bba"
            "980a0242223f57787181f8c88f87adaa0795aab9a8fe44ca99a16d8002379fc9"
        ),
        {},
        False,
        True,
    ),
]
#: The first text once more, its IV as ``openssl dgst -sha256 -hmac MASTER`` says.
KNOWN_STRICT = (
    "bc5e135812043e80c45a6d89877b2640-"
    "31abd04e4ca8df05b0a4e58924753258fb0c69f97adfc1c957bd6059a3676a5f9a2718316a7e74c5d67d75ae4f7a863e"
    "5365b26dc4858e53fba6ec84b53376c77fa3186507946374707adb80c2f999a190c649c10c809a74e31f532daad30d17"
)


def opened(text: str, master: Master = PLAIN) -> Any:
    shown = read_filtered_key(text)
    return shown and open_filtered_key(shown, master)


@pytest.mark.parametrize(("iv", "ciphertext", "filters", "may_query", "may_push"), KNOWN)
@pytest.mark.parametrize("case", [str.upper, str.lower])
def test_what_openssl_encrypted_says_what_it_said(
    iv: str, ciphertext: str, filters: Any, may_query: bool, may_push: bool, case: Any
) -> None:
    grant = opened(case(f"{iv}-{ciphertext}"))

    assert grant.conditions == parse_query({"filter": filters}, now=NOW).conditions
    assert (grant.may_query, grant.may_push) == (may_query, may_push)
    assert opened(f"{iv}-{ciphertext}", STRICT) is None


def test_a_strict_master_key_takes_what_openssl_made_by_its_rule() -> None:
    assert opened(KNOWN_STRICT, STRICT) == opened(KNOWN_STRICT) is not None
    assert strict_key({"filters": {"a": 1}, "canQuery": True})[:32] != COUNTING
    assert opened(strict_key({"filters": {"a": 1}, "canQuery": True}), STRICT).may_query


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ({}, (0, False, False)),
        ({"filters": None}, (0, False, False)),
        ({"canPush": True}, (0, False, True)),
        ({"filters": {}, "canQuery": True}, (0, True, False)),
        ({"filters": None, "canQuery": True}, (0, True, False)),
        ({"filters": {"a": {"gt": 1, "lt": 2}, "b": [1]}, "canQuery": True, "canPush": True}, (3, True, True)),
    ],
)
def test_a_member_that_is_missing_grants_nothing(said: Any, means: tuple[int, bool, bool]) -> None:
    grant = opened(filtered_key(said))

    assert (len(grant.conditions), grant.may_query, grant.may_push) == means


@pytest.mark.parametrize(
    "said",
    [
        [], None, 1, "x", {"canQuery": 1}, {"canQuery": "true"}, {"canQuery": None}, {"filters": []}, {"filters": "a"},
        {"canDelete": True}, {"canquery": True}, {"filters": {"id": 1}}, {"filters": {"a": {"like": 1}}},
        {"filters": {"timestamp": "2024"}}, {"filters": {"a": {}}}, {"filters": {str(n): 1 for n in range(101)}},
        {"filters": {"a": [1, "b"]}}, {"timeframe": "today"}, {"canQuery": True},
    ],
)  # fmt: skip
def test_what_grants_nothing_that_is_known_is_no_key(said: Any) -> None:
    assert opened(filtered_key(said)) is None


@pytest.mark.parametrize(
    "text",
    ["", "-", COUNTING, f"{COUNTING}-", f"-{COUNTING}", f"{COUNTING}-{'0' * 31}", f"{COUNTING}-{'0' * 33}",
     f"{COUNTING[2:]}-{'0' * 32}", f"{COUNTING}-{'g' * 32}", f"{COUNTING}-{'0' * 32}-{'0' * 32}",
     f" {COUNTING}-{'0' * 32}", f"{COUNTING}-{'0' * 32}\n", COUNTING + "-" + "\u0660" * 32,
     f"{COUNTING}-{'0' * (MAX_FILTERED_KEY + 32 - MAX_FILTERED_KEY % 32)}"],
)  # fmt: skip
def test_what_is_not_spelt_as_a_filtered_key_is_none(text: str) -> None:
    assert read_filtered_key(text) is None


@pytest.mark.parametrize(
    "padding", [b"", b" ", b"  ", b"\0", b"\x02\x01", b"\x11" * 17, b"\x10" * 15, b"\x01\x02", b"\x03\x01\x03"]
)
def test_padding_is_whole_or_it_is_no_key(padding: bytes) -> None:
    text = b'{"canPush": true'  # one block, but for its end
    for filler in range(16):
        padded = text + b" " * filler + b"}" + padding
        if len(padded) % 16 == 0:
            assert opened(encrypted(padded, pad=False)) is None
            return
    raise AssertionError(padding)


def test_text_that_is_no_json_is_no_key() -> None:
    for text in (
        b"",
        b"{",
        b"{}{}",
        b"\xff",
        b"nul",
        b'{"canPush":tru}',
        b'{"filters":{"a":1},"filters":null,"canQuery":true}',
        b'{"filters":{"a":1,"a":2},"canQuery":true}',
        b'{"canPush":false,"canPush":true}',
        b"[" * 4000,
        b'{"filters":' * 300,
        b"{'a':1}",
    ):
        assert opened(encrypted(text)) is None


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=96), st.booleans())
def test_no_bytes_make_it_fall_over(iv: bytes, ciphertext: bytes, strict: bool) -> None:
    text = f"{iv.hex()}-{ciphertext[: len(ciphertext) // 16 * 16].hex()}"

    assert opened(text, Master(MASTER, strict)) is None


@given(
    st.dictionaries(st.text("abc", min_size=1), st.integers() | st.text("xyz é", max_size=20), max_size=5), st.data()
)
def test_a_byte_changed_in_a_strict_key_makes_it_nothing(filters: dict[str, Any], data: st.DataObject) -> None:
    key = strict_key({"filters": filters, "canQuery": True, "canPush": False})
    assert opened(key, STRICT)

    raw = bytearray.fromhex(key.replace("-", ""))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    assert opened(f"{raw[:16].hex()}-{raw[16:].hex()}", STRICT) is None
    assert opened(key, Master(MASTER[::-1], strict=True)) is None


def test_who_knows_the_text_of_a_key_rids_it_of_its_filter_unless_its_master_is_strict() -> None:
    """What the README warns of: were it not so, strict keys would be for nothing."""
    rid = 0
    for length in range(16):
        text = json.dumps({"filters": {"owner": "x" * length}, "canQuery": True, "canPush": False}).encode()
        for key, master in ((encrypted(text), PLAIN), (strict_key(text), STRICT)):
            found = [opened(forged, master) for forged in altered(key, text)]
            wider = [grant for grant in found if grant and grant.may_query and not grant.conditions]
            assert not (master.strict and found != [None] * len(found))
            rid += bool(wider)
    assert rid, "of no text: what is the README about?"
