"""dlt, in a virtual environment of its own: none of its thirty packages is Penstock's business."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import run
from tests.bench.ground import Wrong

LOCK = Path(__file__).with_name("dlt.lock")
SCRIPT = Path(__file__).with_name("dlt_script.py")
VENV = run.ROOT / ".penstock" / "bench-dlt"
PYTHON = VENV / "bin" / "python"


def is_installed() -> bool:
    """Return whether the environment is there, as the lock wants it."""
    stamp = VENV / "stamp"
    return stamp.exists() and stamp.read_text() == _stamp()


def install() -> None:
    """Make the environment unless it is there. Raises `run.Stop`."""
    if is_installed():
        return
    run.check([run.base_python(), "-m", "venv", "--without-pip", "--clear", str(VENV)], f"could not make {VENV}")
    pip = [*run.pip_for(PYTHON), "install", "-q", "--disable-pip-version-check", "--no-input"]
    run.check([*pip, "--require-hashes", "-r", str(LOCK)], "could not install dlt; --skip dlt does without")
    (VENV / "stamp").write_text(_stamp())


def _stamp() -> str:
    return hashlib.sha256(LOCK.read_bytes() + f"{platform.python_version()} {VENV}".encode()).hexdigest()


def load(url: str, database_url: str, lines: int) -> tuple[float, dict[str, Any]]:
    """Let dlt load the first lines; the time is the script's own, so that starting Python does not count."""
    asked = {"url": url, "databaseUrl": database_url, "lines": lines}
    with tempfile.TemporaryDirectory(prefix="penstock-dlt-") as folder:
        # A home of its own: no configuration of the user's steers it, and its working files go away.
        environment = {"PATH": os.environ["PATH"], "HOME": folder, "RUNTIME__DLTHUB_TELEMETRY": "false"}
        done = subprocess.run(
            [PYTHON, SCRIPT],
            input=json.dumps(asked),
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        message = f"dlt ended with {done.returncode}: {done.stderr[-2000:]}"
        raise Wrong(message)
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer.pop("seconds"), answer
