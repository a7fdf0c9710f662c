"""dlt, in a virtual environment of its own: none of its thirty packages is Penstock's business."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.apart import Apart
from tests.bench.ground import Wrong

SCRIPT = Path(__file__).with_name("dlt_script.py")
APART = Apart("bench-dlt", Path(__file__).with_name("dlt.lock"))


def load(url: str, database_url: str, lines: int) -> tuple[float, dict[str, Any]]:
    """Let dlt load the first lines; the time is the script's own, so that starting Python does not count."""
    asked = {"url": url, "databaseUrl": database_url, "lines": lines}
    with tempfile.TemporaryDirectory(prefix="penstock-dlt-") as folder:
        # A home of its own: no configuration of the user's steers it, and its working files go away.
        environment = {"PATH": os.environ["PATH"], "HOME": folder, "RUNTIME__DLTHUB_TELEMETRY": "false"}
        done = subprocess.run(
            [APART.bin / "python", SCRIPT],
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
