"""How long work that failed in passing waits before it is due again."""

from __future__ import annotations

import random

#: Seconds. The longest pause is short enough that a recovered S3 or Postgres is noticed within a minute.
_FIRST, _LONGEST = 1.0, 60.0


def delay_after(attempt: int) -> float:
    """Return seconds to wait after the given attempt, counted from 1: doubling, half of it by chance."""
    ceiling = min(_FIRST * 2 ** (attempt - 1), _LONGEST)
    return random.uniform(ceiling / 2, ceiling)  # noqa: S311  jitter, no secret
