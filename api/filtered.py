"""Filtered keys: what somebody may do with a project's events, encrypted with its master key. Pure.

``HEX(iv)-HEX(ciphertext)``: AES-256-CBC with PKCS7 padding, its key the 32 bytes of the master key, of the JSON
``{"filters": {..} or null, "canQuery": bool, "canPush": bool}``. Whoever has the master key makes them. Nobody tells
this service of them, and they end with it.

CBC has no MAC. Two things follow from that, which no reader of such keys can mend:

- Whoever could tell wrong padding from wrong JSON could read any key, at 128 tries a byte, and write others. So all
  faults are one answer, each a failure of its address, and all keys go the same way to their end: two master keys are
  tried whether a project has two or none, the library checks padding in constant time, and a text without any is read
  as JSON too. What remains is how the library says no, and how far JSON is read: 0.3 us of 6 between right and wrong
  padding of what says nothing, beside the milliseconds that a request takes.
- Whoever holds a key and guesses its text can put any 16 bytes, by the IV, before any rest of it that begins with a
  block: of most texts that makes a key without the filters. A *strict* master key takes only keys whose IV is the first
  16 bytes of HMAC-SHA256(master key, clear text). Those are like all others on the wire, and nobody else can make one.
"""

from __future__ import annotations

import hmac
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7

from common.errors import Refusal
from common.model.query import Condition, parse_query

#: What a master key looks like, and characters of the longest filtered key: nothing longer is looked at.
MASTER_KEY = re.compile("[A-Za-z0-9]{32}")
MAX_FILTERED_KEY = 8 * 1024

_FILTERED_KEY = re.compile("([0-9A-Fa-f]{32})-((?:[0-9A-Fa-f]{32})+)")
_BLOCK_BITS = 128
#: Conditions know no time.
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class FilteredKey(NamedTuple):
    """A filtered key as it was shown."""

    iv: bytes
    #: Whole blocks, one at least.
    ciphertext: bytes


class Master(NamedTuple):
    """What may have encrypted it."""

    key: str
    strict: bool


@dataclass(frozen=True, slots=True)
class Grant:
    """What a filtered key says."""

    #: What all events meet that it may see.
    conditions: tuple[Condition, ...]
    may_query: bool
    may_push: bool


class _ClearText(msgspec.Struct, forbid_unknown_fields=True):
    filters: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET
    canQuery: bool = False  # noqa: N815
    canPush: bool = False  # noqa: N815


def read_filtered_key(text: str) -> FilteredKey | None:
    """Return the parts of a filtered key, or None where the text is not spelt as one. It tells of nobody's key."""
    parts = _FILTERED_KEY.fullmatch(text) if len(text) <= MAX_FILTERED_KEY else None
    return FilteredKey(bytes.fromhex(parts[1]), bytes.fromhex(parts[2])) if parts else None


def open_filtered_key(shown: FilteredKey, master: Master) -> Grant | None:
    """Return what the key says; None, after the same steps, where this master key did not make it, or said nothing."""
    secret = master.key.encode()
    decryptor = Cipher(AES256(secret), CBC(shown.iv)).decryptor()
    padded = decryptor.update(shown.ciphertext) + decryptor.finalize()
    text, is_padded = _without_padding(padded)
    by_text = hmac.digest(secret, text, "sha256")[: len(shown.iv)]
    is_taken = is_padded & (hmac.compare_digest(by_text, shown.iv) | (not master.strict))
    grant = _read(text)
    return grant if is_taken else None


def _without_padding(padded: bytes) -> tuple[bytes, bool]:
    """Return the text and True; where the padding is wrong, what could be the longest text, and False."""
    unpadder = PKCS7(_BLOCK_BITS).unpadder()
    try:
        return unpadder.update(padded) + unpadder.finalize(), True
    except ValueError:
        return padded[:-1], False


def _read(text: bytes) -> Grant | None:
    try:
        said = msgspec.json.decode(text, type=_ClearText)
        json.loads(text, object_pairs_hook=_once_each)
        query = parse_query({"filter": said.filters or None}, now=_NEVER)
    except (msgspec.DecodeError, RecursionError, Refusal, ValueError):
        return None
    if said.canQuery and said.filters is msgspec.UNSET:
        return None  # who forgot the filter did not mean to show everything: null does
    return Grant(query.conditions, said.canQuery, said.canPush)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object whose names differ: of two filters nobody can tell which was meant. Raises ValueError."""
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a name is repeated")
    return found
