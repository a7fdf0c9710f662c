"""Logs: one line an event, JSON, with a static name and keywords; ids are bound once for a request or a task.

Nothing secret may be a keyword. Errors are logged by their own text only: a traceback's locals could hold keys.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def configure_logs(level: str = "info") -> None:
    """Send our own lines to standard error as JSON, and keep the libraries' at warnings. Safe to run twice."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    # At its debug level the S3 client prints signed headers; no setting of ours may ever turn that on.
    for name in ("botocore", "boto3", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )


def get_logger(name: str) -> Any:
    """Return a logger whose lines carry the module's name."""
    return structlog.get_logger(module=name)


def bind(**ids: object) -> None:
    """Add ids to every line that this thread logs from here on."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**ids)
