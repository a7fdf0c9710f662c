"""The named families that events belong to."""

from __future__ import annotations

from common.errors import Refusal

MAX_NAME = 255


def check_collection(name: str, *, field: str = "collection") -> str:
    """Return the name. Raises Refusal where it is empty, over 255 characters, or holds what no URL can carry."""
    if not name.strip():
        raise Refusal("invalid_collection", "The collection's name is empty.", field=field)
    if len(name) > MAX_NAME:
        raise Refusal("invalid_collection", f"The collection's name is longer than {MAX_NAME} characters.", field=field)
    if not name.isprintable() or "/" in name or name in (".", ".."):
        text = "The collection's name holds a slash or a character that cannot be printed."
        raise Refusal("invalid_collection", text, field=field)
    return name
