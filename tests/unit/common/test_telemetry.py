"""Lines of the log: ours and the libraries' in one form, and in another for a person at a terminal."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import warnings
from typing import Any

import pytest

from common.telemetry import bind, configure_logs, get_logger, unbind
from deploy.local.commands import ROOT

pytestmark = pytest.mark.usefixtures("logs_as_they_were")

PASSWORD = "CANARY-in-a-local"


class Terminal(io.StringIO):
    """As much of a terminal as anybody asks for."""

    def isatty(self) -> bool:
        return True


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def fail() -> None:
    password = PASSWORD
    if password:
        raise RuntimeError


def test_a_line_is_one_json_object_with_what_a_reader_looks_for_first(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs()
    bind(import_id="i", chunk=3)
    get_logger("workers.imports.load").info("chunk_loaded", imported=7, odd="\ud800\n", raw=b"\xff")
    unbind()
    get_logger("workers.imports.load").info("later")
    first, second = lines(capsys.readouterr().err)

    assert list(first)[:4] == ["time", "level", "logger", "event"]
    assert first["time"].endswith("Z")
    assert (first["level"], first["logger"], first["event"]) == ("info", "workers.imports.load", "chunk_loaded")
    assert (first["import_id"], first["chunk"], first["imported"], first["odd"]) == ("i", 3, 7, "\ud800\n")
    assert "import_id" not in second


def test_a_librarys_line_has_the_same_form_and_the_ids_bound(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs()
    bind(task_id="t")
    logging.getLogger("celery.worker").info("%s\nready.", "w", extra={"data": {"args": PASSWORD}})
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("look out", stacklevel=1)
    told, warned = lines(capsys.readouterr().err)

    assert (told["level"], told["logger"], told["event"], told["task_id"]) == (
        "info",
        "celery.worker",
        "w\nready.",
        "t",
    )
    assert PASSWORD not in str(told)
    assert (warned["level"], warned["logger"]) == ("warning", "py.warnings")


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_traceback_is_in_the_line_and_shows_no_locals(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(form=form)
    for logger in (get_logger("api.desk"), logging.getLogger("flask")):
        try:
            fail()
        except RuntimeError:
            logger.exception("it_failed")
    text = capsys.readouterr().err

    assert text.count("in fail") == 2
    assert PASSWORD not in text
    if form == "json":
        assert all("RuntimeError" in line["exception"] for line in lines(text))


def test_an_error_that_ends_the_process_is_a_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs()
    try:
        fail()
    except RuntimeError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    (line,) = lines(capsys.readouterr().err)

    assert (line["level"], line["event"]) == ("critical", "process_ended")
    assert "RuntimeError" in line["exception"]


def test_an_error_that_ends_a_thread_or_is_raised_where_nobody_can_catch_it_is_a_line_too() -> None:
    script = """
import threading
from common.telemetry import configure_logs
configure_logs()
def fail():
    raise RuntimeError("in a thread")
thread = threading.Thread(target=fail, name="sweep-watch")
thread.start()
thread.join()
class Odd:
    def __del__(self):
        raise ValueError("at its end")
Odd()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    ended, ignored = lines(done.stderr)

    assert (ended["event"], ended["thread"], ended["level"]) == ("thread_ended", "sweep-watch", "error")
    assert "RuntimeError: in a thread" in ended["exception"]
    assert ignored["event"] == "error_ignored"
    assert "ValueError: at its end" in ignored["exception"]


def test_at_the_debug_level_we_say_more_and_libraries_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("debug")
    get_logger("api.access").debug("request")
    for name in ("botocore.auth", "urllib3.connectionpool", "kombu", "s3transfer"):
        logging.getLogger(name).debug("signed: %s", PASSWORD)
    logging.getLogger("botocore.hooks").info("chatter")

    assert [line["event"] for line in lines(capsys.readouterr().err)] == ["request"]


def test_configured_twice_it_says_everything_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("debug")
    configure_logs("warning")
    get_logger("api").info("unheard")
    logging.getLogger("celery").info("unheard")
    get_logger("api").warning("heard")

    assert [line["event"] for line in lines(capsys.readouterr().err)] == ["heard"]


@pytest.mark.parametrize(("form", "as_text"), [("auto", True), ("text", True), ("json", False)])
def test_on_a_terminal_lines_are_for_people(form: str, as_text: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    configure_logs(form=form)
    bind(import_id="9f")
    get_logger("api.desk").info("import_accepted", collection="purchases")
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]  # the Terminal

    assert shown.startswith("{") != as_text
    for word in ("import_accepted", "purchases", "9f", "api.desk"):
        assert word in shown
    assert ("\x1b[" in shown) == as_text, "colours are for terminals"


def test_elsewhere_auto_is_json_and_text_has_no_colours(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(form="auto")
    get_logger("api").info("as_json")
    configure_logs(form="text")
    get_logger("api").info("as_text")
    first, second = capsys.readouterr().err.splitlines()

    assert json.loads(first)["event"] == "as_json"
    assert "as_text" in second
    assert "\x1b[" not in second
