"""A step of the road in a thread of its own, so that the step before it goes on meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Full, Queue
from typing import Generic, Self, TypeVar

T = TypeVar("T")

#: Values that may wait: with blocks of 256 KiB, 2 MiB.
_MOST_WAITING = 8
#: Seconds between two looks at whether whoever waits here should still do so.
_LOOK_SECONDS = 0.5
#: Seconds for the step under way where the process is told to stop: it may be S3's putting together of an object.
_STOP_SECONDS = 1.0


class Behind(Generic[T]):
    """Has a step done with each value given, in their order, by one thread. A context manager.

    When it is left, either all values have been through the step, or it raises why not; when it is left by an error no
    further value goes through it. Either way the thread has ended: but where the process is told to stop, it ends with
    that if it is not quick.
    """

    def __init__(self, step: Callable[[T], None], *, check: Callable[[], None], end: Callable[[], None]) -> None:
        """Take the step, what raises once waiting for it is in vain, and what the thread does last."""
        self._step, self._check, self._end = step, check, end
        self._values: Queue[T | None] = Queue(_MOST_WAITING)
        self._failure: BaseException | None = None
        self._given_up = False
        self._thread = threading.Thread(target=self._work, name=type(self).__name__, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._given_up = error is not None
        patience = None if error is None or issubclass(error, Exception) else _STOP_SECONDS
        # Room is made as soon as the step comes to an end: what waits is left out.
        with suppress(Full):
            self._values.put(None, timeout=patience)
        self._thread.join(patience)
        if self._failure and not self._given_up:
            raise self._failure

    def give(self, value: T) -> None:
        """Give a value. Blocks while as many wait as may. Raises what the step raised, and what ``check`` does."""
        while True:
            if self._failure:
                raise self._failure
            try:
                self._values.put(value, timeout=_LOOK_SECONDS)
            except Full:
                self._check()
            else:
                return

    def _work(self) -> None:
        try:
            while (value := self._values.get()) is not None:
                if not self._given_up:
                    self._step(value)
        except BaseException as error:  # noqa: BLE001  raised again where the values come from
            self._failure = error
            while self._values.get() is not None:
                pass  # who gives waits for a place, and learns of it with the next one
        finally:
            self._end()
