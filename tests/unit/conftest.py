"""What the pure tests share."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from common.telemetry import unbind


@pytest.fixture
def logs_as_they_were() -> Iterator[None]:
    """Let a test set logs up, and take that back: it is the whole process's."""
    root, hook = logging.getLogger(), sys.excepthook
    handlers, level = root.handlers, root.level
    yield
    root.handlers, sys.excepthook = handlers, hook
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    unbind()
