"""gunicorn's own lines: in the form of all others, and without what a caller sent."""

from __future__ import annotations

import json
import logging
import runpy

import pytest
from gunicorn.config import Config

from deploy.local.commands import ROOT


@pytest.fixture
def logger(monkeypatch: pytest.MonkeyPatch, logs_as_they_were: None) -> object:
    for name, value in {"DATABASE_URL": "d", "REDIS_URL": "r", "PENSTOCK_SEALING_KEYS": "k"}.items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(str(ROOT / "deploy/gunicorn.conf.py"))["logger_class"](Config())


@pytest.mark.parametrize(
    ("said", "logged"),
    [
        (
            "Invalid request from ip=127.0.0.1: Invalid HTTP Header: 'X-API-Key: CANARY'",
            "Invalid request from ip=127.0.0.1: Invalid HTTP Header",
        ),
        (
            "Invalid request from ip=2001:db8::1: Invalid HTTP request line: 'GET /?CANARY'\n: CANARY",
            "Invalid request from ip=2001:db8::1: Invalid HTTP request line",
        ),
        ("Worker (pid:7) was sent SIGKILL!", "Worker (pid:7) was sent SIGKILL!"),
    ],
)
def test_a_warning_says_what_was_wrong_and_not_what_stood_there(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str], said: str, logged: str
) -> None:
    logger.warning(said)
    line = json.loads(capsys.readouterr().err)

    assert (line["level"], line["logger"], line["event"]) == ("warning", "gunicorn.error", logged)


def test_an_error_is_one_line_with_its_traceback_and_without_the_query(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        raise ValueError("it broke")
    except ValueError:
        logger.exception("Error handling request %s %s", "GET", "/api/imports?key=CANARY")
    (text,) = capsys.readouterr().err.splitlines()
    line = json.loads(text)

    assert (line["level"], line["event"]) == ("error", "Error handling request GET /api/imports")
    assert "ValueError: it broke" in line["exception"]
    assert "CANARY" not in text
