"""Loads ``sql/*.sql`` into named statements.

A statement begins at a line ``-- name: the_name``; the comment lines below say what it is for and stay in the
text that Postgres sees. Parameters are named, ``%(like_this)s``. Nothing composes SQL at run time.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def load_queries(aggregate: str) -> dict[str, str]:
    """Return the statements of ``sql/<aggregate>.sql`` by name."""
    text = (files("common.ledger") / "sql" / f"{aggregate}.sql").read_text()
    _, *parts = _NAME.split(text)
    return dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))
