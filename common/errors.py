"""Three families of error, by what has to be done about them.

::

    PenstockError
    ├── Refusal      tell the caller: the request is not taken, nothing was begun
    ├── Transient    again, later: nothing is wrong with the work itself
    └── Terminal     end the job and say why
        └── SourceFailed    one of its objects cannot be read, or no further: the others go on first

Each carries two texts: ``public`` is shown to callers and never holds a secret or an address of ours; the
exception's own text (``str``) is for the operator's log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class PenstockError(Exception):
    """The root of what Penstock raises on purpose."""

    def __init__(self, code: str, public: str, internal: str = "") -> None:
        """Take a stable machine word, a sentence for the caller and, if it says more, a text for the log."""
        super().__init__(internal or public)
        self.code = code
        self.public = public


class Refusal(PenstockError):
    """A request we do not take. A room renders it in its own dialect; nothing was stored."""

    def __init__(self, code: str, public: str, *, field: str | None = None, **details: Any) -> None:
        """Name the request's ``field`` at fault, dotted, where there is one; ``details`` are shown too."""
        super().__init__(code, public)
        self.field = field
        self.details: Mapping[str, Any] = details


class Transient(PenstockError):
    """Something outside failed in a way that passes. Whoever catches it does the work again later."""

    def __init__(self, public: str, internal: str = "", *, code: str = "unavailable") -> None:
        """Take the sentence for a caller who has to wait, and the driver's own words for the log."""
        super().__init__(code, public, internal)


class Terminal(PenstockError):
    """The job cannot go on, however often it is tried. The job's row gets ``code`` and ``public``."""


class SourceFailed(Terminal):
    """An object of the job cannot be read, or no further. What came before is kept, and the other objects go on."""
