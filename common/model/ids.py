"""Ids: 128 random bits, written as 32 hexadecimal digits, so that nobody can guess a neighbour's."""

from __future__ import annotations

import uuid

from common.errors import Refusal


def new_id() -> str:
    """Return a fresh id for a project, an import or an export."""
    return uuid.uuid4().hex


def parse_id(text: str) -> str | None:
    """Return the id in its one form, or None where ``text`` is no id. Takes the dashed spelling too."""
    try:
        return uuid.UUID(text).hex if len(text) in (32, 36) else None
    except ValueError:
        return None


def unknown_import(import_id: str) -> Refusal:
    """Return the one answer to an id that is unknown or another project's: they must not differ (P9)."""
    return Refusal("not_found", f"There is no import with the id {import_id[:64]!r} in this project.")
