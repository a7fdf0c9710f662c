"""What desks tell of things that are made and of lists of them, without HTTP and without a dialect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Started(Generic[T]):
    """What a request for an import or an export came to."""

    #: As it was admitted: a request that is repeated gets the very same answer.
    status: T
    #: Whether its idempotency key had made it before.
    replayed: bool


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of a project's things, newest first."""

    items: list[T]
    #: What to ask for next, or None at the end.
    next_before: int | None


@dataclass(frozen=True, slots=True)
class NumberedPage(Generic[T]):
    """Some of a project's things, in the order that was asked for."""

    items: list[T]
    #: On all pages.
    total: int
