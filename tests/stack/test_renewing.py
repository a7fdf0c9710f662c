"""SIGHUP renews the web with the code that lies on the disk by then; code that does not load changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from deploy.local.commands import ROOT, web_command
from deploy.local.family import free_port
from tests.journeys.stack import wait_until
from tests.stack.operating import ask


class Web(NamedTuple):
    """A gunicorn on a copy of the code."""

    tree: Path
    master: subprocess.Popen[bytes]
    url: str
    log: Path

    def answer(self) -> str:
        return ask(f"{self.url}/healthz")[1]

    def change(self, path: str, old: str, new: str) -> None:
        text = (self.tree / path).read_text()
        assert old in text
        (self.tree / path).write_text(text.replace(old, new, 1))

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    for folder in ("api", "common", "deploy"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    port, log = free_port(), tmp_path / "web.log"
    environment = {
        # Nobody is there: nothing of this asks them.
        "DATABASE_URL": "postgresql://127.0.0.1:1/nobody",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "PENSTOCK_SEALING_KEYS": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "PATH": os.environ["PATH"],
        "PORT": str(port),
    }
    with log.open("wb") as said:
        master = subprocess.Popen(web_command(), cwd=tmp_path, env=environment, stdout=said, stderr=said)
    started = Web(tmp_path, master, f"http://127.0.0.1:{port}", log)
    try:
        wait_until(lambda: started.answer() or master.poll() is not None, what="the web answers")
        yield started
    finally:
        master.terminate()
        try:
            master.wait(30)
        finally:
            master.kill()


def test_a_sighup_brings_code_that_needs_what_the_old_had_not_and_refuses_what_does_not_load(web: Web) -> None:
    assert json.loads(web.answer()) == {"status": "ok"}

    web.change("common/settings.py", "MIB = 1024 * 1024", "MIB = 1024 * 1024\nGREETING = 'new'")
    web.change("api/health.py", "import threading", "import threading\nfrom common.settings import GREETING")
    web.change("api/health.py", '{"status": "ok"}', '{"status": GREETING}')
    web.change("deploy/gunicorn.conf.py", "import Settings", "import GREETING, Settings")
    web.master.send_signal(signal.SIGHUP)
    wait_until(lambda: "new" in web.answer() or web.master.poll() is not None, what="the new code answers")

    web.change("common/settings.py", "GREETING = 'new'", "GREATING = 'broken'")
    web.master.send_signal(signal.SIGHUP)
    wait_until(lambda: [line for line in web.lines() if "Not renewed" in line["event"]], what="the renewal is refused")
    assert "cannot import name 'GREETING'" in web.lines()[-1]["event"]
    assert "new" in web.answer()

    # Of another length: Python compares times by the second.
    web.change("common/settings.py", "GREATING = 'broken'", "GREETING = 'mended again'")
    web.master.send_signal(signal.SIGHUP)
    wait_until(lambda: "mended" in web.answer() or web.master.poll() is not None, what="the mended code answers")

    assert ask(f"{web.url}/nowhere")[0] == 404
    asked = wait_until(lambda: [line for line in web.lines() if line["event"] == "request"], what="the request is told")
    assert [line["status"] for line in asked] == [404], "once, however often our modules were loaded"
