"""What the pure tests share."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator

import pytest
import structlog

from common.telemetry import unbind


@pytest.fixture
def logs_as_they_were() -> Iterator[None]:
    """Let a test set logs up, and take that back: it is the whole process's."""
    root = logging.getLogger()
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    handlers, level = root.handlers, root.level
    # An app that an earlier test made has captured warnings, and pytest has taken that back: it counts as done.
    logging.captureWarnings(capture=False)
    yield
    root.handlers = handlers
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    unbind()
