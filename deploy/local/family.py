"""
Child processes and folders that cannot outlive the process that made them.

Three nets, because each has a hole: the launcher stops its children in order (not when it is
killed); Linux signals them when it dies (not their own children); the reaper, a small process
that waits for the launcher's end, ends whole process groups and removes what was made.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

REAPER = Path(__file__).with_name("reaper.py")
POLL_SECONDS = 0.02
#: The words every server we start uses (the C library's) when somebody was faster at its port.
PORT_TAKEN = "ddress already in use"
PORT_ATTEMPTS = 5
#: Below Linux's ephemeral range (32768-60999). A client that retries a closed port *inside* that range can be
#: given the same port as its own source, connect to itself and so keep a restarting server off its port.
PORTS = range(15_000, 32_000)

PR_SET_PDEATHSIG = 1
# Loaded here, not in the child: between fork and exec nothing may be imported or allocated for long.
_LIBC = ctypes.CDLL(None)

T = TypeVar("T")


class StartFailed(Exception):
    """A process did not come up; the text holds the end of its log."""


class User(NamedTuple):
    """Whom a child runs as; Popen takes None for "as we do"."""

    uid: int | None
    gid: int | None
    groups: tuple[int, ...] | None


OURSELVES = User(None, None, None)


class Family:
    """The children and folders of this process, each known to the reaper before it can be orphaned."""

    def __init__(self) -> None:
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(REAPER)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
            env={},
        )
        self._telling = threading.Lock()
        self._folders: list[Path] = []

    def folder(self, prefix: str) -> Path:
        """
        Make a folder that goes away with this process.

        Others may pass through it (711, not 700): Postgres, as another user, has its data below.
        """
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=passable_temp()))
        self.tell(f"folder {folder}")
        self._folders.append(folder)
        folder.chmod(0o711)
        return folder

    @contextlib.contextmanager
    def file(self, path: Path) -> Iterator[Path]:
        """Let a file exist at most as long as the block, and this process, lasts."""
        self.tell(f"file {path}")
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)
            self.tell(f"removed {path}")

    def start(
        self,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str],
        cwd: Path = Path("/"),
        user: User = OURSELVES,
        last_signal: signal.Signals = signal.SIGKILL,
    ) -> Child:
        """
        Start a child in a process group of its own, its output appended to ``log``.

        The group keeps a terminal's Ctrl-C from reaching Postgres before the workers have stopped.
        ``last_signal`` is what it gets if we die.
        """
        with log.open("ab") as output:
            begin = output.tell()
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
                preexec_fn=die_with_parent(last_signal),
                user=user.uid,
                group=user.gid,
                extra_groups=user.groups,
            )
        self.tell(f"group {process.pid} {int(last_signal)}")
        return Child(self, process, log, begin)

    def tell(self, line: str) -> None:
        """Tell the reaper; if somebody has killed it, the other two nets must do."""
        assert self._reaper.stdin is not None
        with self._telling, contextlib.suppress(BrokenPipeError, ValueError):
            self._reaper.stdin.write(f"{line}\n".encode())
            self._reaper.stdin.flush()

    def close(self) -> None:
        """Remove the folders and let the reaper go. The children have been stopped before."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                self.tell(f"removed {folder}")
        self._folders.clear()
        assert self._reaper.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._reaper.stdin.close()
        self._reaper.wait()


class Child:
    """A process we started, and the group it leads."""

    def __init__(self, family: Family, process: subprocess.Popen[bytes], log: Path, begin: int) -> None:
        self._family = family
        self._process = process
        self._begin = begin
        self.log = log
        self.pid = process.pid

    def has_ended(self) -> bool:
        """Look without reaping: as long as the zombie is there, its pid and its group's are nobody else's."""
        if self._process.returncode is not None:
            return True
        with contextlib.suppress(ChildProcessError):
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        return True

    def send(self, number: signal.Signals) -> None:
        """Signal the process itself (its group hears nothing); no error if it has ended."""
        if not self.has_ended():
            os.kill(self.pid, number)

    def stop(self, number: signal.Signals, *, within: float) -> None:
        """Signal the process, wait, then bury it."""
        self.send(number)
        self.bury(within=within)

    def bury(self, *, within: float = 0.0) -> None:
        """Wait that long for the process to end, then kill what is left of its group, and reap."""
        deadline = time.monotonic() + within
        while not self.has_ended() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._family.tell(f"ended {self.pid}")
        self._process.wait()

    def said(self) -> str:
        """Return what this process has written to its log."""
        with self.log.open("rb") as log:
            log.seek(self._begin)
            return log.read().decode(errors="replace")

    def wait_ready(self, ready: Callable[[], bool], *, what: str, within: float) -> None:
        """Poll until ``ready()``; raise `StartFailed` when the process ends first or the time is up."""
        deadline = time.monotonic() + within
        while not ready():
            if self.has_ended():
                raise StartFailed(f"{what} ended while starting. {self._last_words()}")
            if time.monotonic() > deadline:
                raise StartFailed(f"{what} was not ready within {within:.0f} s. {self._last_words()}")
            time.sleep(POLL_SECONDS)

    def _last_words(self) -> str:
        lines = self.said().rstrip().splitlines()[-25:]
        return "\n  ".join(["Its log ends:", *lines]) if lines else "It said nothing."


def die_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """
    Return what a child calls before exec so that the kernel signals it when we die.

    It has to be ``preexec_fn``: that runs after the change of user, which would clear the setting. The kernel
    means the *thread* that started the child, so a child of any other thread than the main one would be
    killed when that thread is done: such a child is left to the reaper.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    parent = os.getpid()

    def ask_the_kernel() -> None:
        _LIBC.prctl(PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:
            os._exit(1)

    return ask_the_kernel


def on_free_port(start: Callable[[int], T]) -> T:
    """Start something on a free port; again on another when a stranger took it in between."""
    for attempt in range(PORT_ATTEMPTS):
        try:
            return start(free_port())
        except StartFailed as failure:
            if PORT_TAKEN not in str(failure) or attempt == PORT_ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    for port in random.sample(PORTS, 200):
        if port_is_free(port):
            return port
    raise StartFailed(f"no free port between {PORTS.start} and {PORTS.stop}")


def port_is_free(port: int) -> bool:
    """Tell whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def passable_temp() -> Path:
    """Return a folder for temporary files that every user can pass through (a root's TMPDIR may be 700)."""
    for folder in (Path(tempfile.gettempdir()), Path("/var/tmp"), Path("/tmp")):  # noqa: S108 -- for mkdtemp
        path = folder.resolve()
        if os.geteuid() != 0 or all(part.stat().st_mode & 0o001 for part in (path, *path.parents)):
            return path
    raise StartFailed("no temporary folder that every user may enter; set TMPDIR to one")
