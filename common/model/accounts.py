"""A project, as the account that made it sees it."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple


class Owned(NamedTuple):
    """A project of an account."""

    id: str
    #: The one name that no other project has.
    name: str
    #: What its maker called it.
    title: str
    #: Active imports that it may have; None for the service's own setting.
    import_limit: int | None
    created_at: datetime
