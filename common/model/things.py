"""Things that the lines of a project may name: each registered under its kind and its id."""

from __future__ import annotations

import re

from common.errors import Refusal

#: A kind and an id.
Thing = tuple[str, str]

#: Things of a project. Whoever reads lines has all of them in memory: some 2 MB.
MOST_THINGS = 10_000

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_ANY_UUID = re.compile(_UUID.pattern, re.ASCII | re.IGNORECASE)
_KIND = re.compile(r"[a-z][a-z0-9_-]{0,31}", re.ASCII)
_LONGEST_ID = 200


def thing_id(text: str) -> str:
    """Return an id in its one form: a UUID with dashes in lower case, anything else as it is."""
    return text.lower() if len(text) == 36 and _ANY_UUID.fullmatch(text) else text


def is_uuid(text: str) -> bool:
    """Tell whether an id, in its one form, is a UUID: only such are registered by being named."""
    return _UUID.fullmatch(text) is not None


def read_thing(kind: str, text: str) -> Thing:
    """Return the thing that can be registered under a kind and an id. Raises Refusal ``invalid_thing``."""
    if not _KIND.fullmatch(kind):
        raise Refusal("invalid_thing", "A kind has 1 to 32 of a-z, 0-9, _ and -, and begins with a letter.")
    if not 1 <= len(text) <= _LONGEST_ID or not text.isprintable() or text != text.strip():
        raise Refusal("invalid_thing", f"An id has 1 to {_LONGEST_ID} printable characters and no spaces around them.")
    return kind, thing_id(text)
