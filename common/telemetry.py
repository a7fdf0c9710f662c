"""Logs: one line an event, on standard error, our own and the libraries' alike: JSON, or text where a person reads it.

Our events have a static name and keywords; ids are bound once for a request or a task and stand on every line of it.
Nothing secret may be a keyword. A traceback is the text that Python prints: the values of locals could hold keys.
"""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

#: What a reader looks for first, in this order.
_FIRST = ("time", "level", "logger", "event")
_OURS = ("api", "common", "workers")
_HANDLER = "penstock"
#: At their lower levels these print signed headers and addresses; no setting of ours may ever turn that on.
_SILENT = ("botocore", "boto3", "s3transfer", "urllib3", "smart_open")

_EVERY_LINE: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", key="time"),
]


def configure_logs(level: str = "info", form: str = "auto") -> None:
    """Send every line of this process to standard error. Safe to run twice.

    ``level`` is ours; libraries speak from info on, or from ``level`` where that is higher. ``form`` is json, text,
    or auto: text where standard error is a terminal.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    lines = _StandardError()
    # Known by its name: gunicorn's arbiter hands its handler on to workers that import this module afresh.
    lines.set_name(_HANDLER)
    lines.setFormatter(_formatter(as_text=form == "text" or (form == "auto" and sys.stderr.isatty())))
    root = logging.getLogger()
    root.handlers = [*(other for other in root.handlers if other.name != _HANDLER), lines]
    root.setLevel(max(number, logging.INFO))
    for name in _OURS:
        logging.getLogger(name).setLevel(number)
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_ended_thread
    sys.unraisablehook = _log_unraisable
    structlog.configure(
        processors=[*_EVERY_LINE, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def get_logger(name: str) -> Any:
    """Return a logger whose lines carry the module's name."""
    if name == "__main__" and (spec := sys.modules[name].__spec__):
        name = spec.name  # of a module that is run by ``python -m``
    return structlog.get_logger(name)


def bind(**ids: object) -> None:
    """Add ids to every line that this thread logs until ``unbind``."""
    structlog.contextvars.bind_contextvars(**ids)


def unbind() -> None:
    """Forget all ids: what this thread does from here on is another piece of work."""
    structlog.contextvars.clear_contextvars()


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at that moment: a test may have put another in its place."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        pass


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        logging.getLogger(__name__).critical("process_ended", exc_info=(kind, error, trace))


def _log_ended_thread(args: threading.ExceptHookArgs) -> None:
    name = args.thread.name if args.thread else None
    error = args.exc_value or args.exc_type()
    get_logger(__name__).error("thread_ended", thread=name, exc_info=error)


def _log_unraisable(args: sys.UnraisableHookArgs) -> None:
    """Log what went wrong where nobody could catch it: in a finaliser, say. Its object is not shown."""
    get_logger(__name__).error("error_ignored", exc_info=args.exc_value or args.exc_type())


def _formatter(*, as_text: bool) -> logging.Formatter:
    rendering: list[Processor] = [structlog.processors.format_exc_info, _order, structlog.processors.JSONRenderer()]
    if as_text:
        # Its own choice of traceback shows locals as soon as rich is installed.
        plain = structlog.dev.plain_traceback
        rendering = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=plain, timestamp_key="time", pad_event_to=0
            )
        ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_EVERY_LINE,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
    )


def _order(_logger: Any, _name: str, line: EventDict) -> EventDict:
    return {**{key: line.get(key) for key in _FIRST}, **line}
