"""Programs of others, each in a virtual environment of its own: their packages are none of Penstock's business."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import run


class Unreachable(run.Stop):
    """No index of packages answers, or none has these."""


@dataclass(frozen=True)
class Apart:
    """An environment, made of a lock with hashes when it is first asked for."""

    name: str
    lock: Path

    @property
    def venv(self) -> Path:
        return run.ROOT / ".penstock" / self.name

    @property
    def bin(self) -> Path:
        return self.venv / "bin"

    def is_installed(self) -> bool:
        """Return whether the environment is there, as the lock wants it."""
        stamp = self.venv / "stamp"
        return stamp.exists() and stamp.read_text() == self._stamp()

    def install(self) -> None:
        """Make the environment unless it is there; whoever asks meanwhile waits. Raises `run.Stop`, `Unreachable`."""
        with run.one_at_a_time():
            if not self.is_installed():
                begun = time.monotonic()
                self._make()
                (self.venv / "stamp").write_text(self._stamp())
                size = sum(path.lstat().st_size for path in self.venv.rglob("*")) // 10**6
                print(f"{self.name}: {size} MB in {time.monotonic() - begun:.0f} s, once", flush=True)

    def _make(self) -> None:
        venv = [run.base_python(), "-m", "venv", "--without-pip", "--clear", str(self.venv)]
        run.check(venv, f"could not make {self.venv}")
        # One more try tells that nobody is there; pip's own five take half a minute for it.
        options = ["-q", "--disable-pip-version-check", "--no-input", "--retries", "1", "--require-hashes"]
        pip = [*run.pip_for(self.bin / "python"), "install", *options, "-r", str(self.lock)]
        done = subprocess.run(pip, stderr=subprocess.PIPE, text=True, check=False)
        sys.stderr.write(done.stderr)
        if done.returncode:
            # All that pip says of an index that it could not ask.
            kind = Unreachable if "(from versions: none)" in done.stderr else run.Stop
            raise kind(f"could not install {self.lock.name}: {done.stderr.strip().splitlines()[-1]}")

    def _stamp(self) -> str:
        return hashlib.sha256(self.lock.read_bytes() + f"{platform.python_version()} {self.venv}".encode()).hexdigest()
