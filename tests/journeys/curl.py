"""curl, as a caller of the service: the documents' own samples, and requests like them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from http.client import parse_headers
from io import BytesIO
from pathlib import Path

import pytest

from tests.journeys.stack import Answer, Stack

needs_curl = pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("bash")), reason="this machine has no curl, or no bash"
)

#: What the tests want of curl, and the samples do not say.
CURLRC = """
silent
show-error
noproxy = "*"
max-time = 60
dump-header = "headers"
output = "body"
"""


class Curl:
    """curl, with a stack in the place of the vendors."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        (folder / ".curlrc").write_text(CURLRC)
        service = stack.service
        #: What is filled in where a sample leaves it open.
        self.filled = {
            "https://api.getconnect.io": service.api,
            "https://api.scarf.sh": service.api,
            "YOUR_PROJECT_ID": service.project.id,
            "YOUR_API_KEY": service.api_key,
            "YOUR_ACCESS_KEY_ID": stack.key_id,
            "YOUR_SECRET_ACCESS_KEY": stack.canary,
            "NOT_TELLING": stack.canary,
            "{token}": service.api_key,
            "{owner}": service.project.name,
        }
        self._headers = {
            "bearer": [f"Authorization: Bearer {service.api_key}"],
            "connect": [f"X-Project-Id: {service.project.id}", f"X-API-Key: {service.api_key}"],
            "nexosis": [f"api-key: {service.api_key}"],
        }

    def fill(self, sample: str) -> str:
        for left_open, value in self.filled.items():
            sample = sample.replace(left_open, value)
        return sample

    def run(self, script: str, *, ends: int = 0) -> Answer:
        """Run a sample, which ends with this status, and return the answer that its one call got."""
        for name in ("headers", "body"):
            (self.folder / name).unlink(missing_ok=True)
        environment = {"PATH": os.environ["PATH"], "CURL_HOME": str(self.folder)}
        command = ["bash", "-euc", self.fill(script)]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        assert done.returncode == ends, done.stderr
        return self._read()

    def _read(self) -> Answer:
        # Before the answer there may be others, such as 100 Continue.
        said = (self.folder / "headers").read_bytes().strip().split(b"\r\n\r\n")[-1]
        status, _, rest = said.partition(b"\r\n")
        headers = parse_headers(BytesIO(rest + b"\r\n\r\n"))
        body = self.folder / "body"
        content = body.read_bytes() if body.exists() else b""
        is_json = headers.get_content_type() == "application/json" and content
        return Answer(int(status.split()[1]), dict(headers.items()), json.loads(content) if is_json else content)

    def ask(self, path: str, *arguments: str, wire: str = "bearer") -> Answer:
        """Call with the key as a wire wants it; a path, or an address that the service gave."""
        url = path if path.startswith("http") else self.stack.service.api + path
        headers = [part for header in self._headers[wire] for part in ("-H", header)]
        return self.run(shlex.join(["curl", *headers, *arguments, url]))
