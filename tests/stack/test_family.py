"""Nothing we start outlives us, however we end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.local.family import Family, StartFailed, free_port, on_free_port
from deploy.local.reaper import runs

ROOT = Path(__file__).resolve().parents[2]
ENV = {"PATH": os.environ["PATH"]}

#: A launcher whose child has a child of its own that ignores what a terminal and a supervisor send.
LAUNCHER = """
    import sys, time
    from pathlib import Path
    from deploy.local.family import Family

    GRANDCHILD = "import signal, time; signal.signal(15, 1); print('x', flush=True); time.sleep(60)"
    CHILD = f'''
    import subprocess, sys, time
    grandchild = subprocess.Popen([sys.executable, "-c", {GRANDCHILD!r}], stdout=subprocess.PIPE)
    grandchild.stdout.read(1)
    print(grandchild.pid, flush=True)
    time.sleep(60)
    '''
    family = Family()
    folder = family.folder("penstock-test-")
    child = family.start([sys.executable, "-c", CHILD], log=folder / "log", env={})
    child.wait_ready(lambda: child.said().strip() != "", what="child", within=10)
    held = family.file(folder.parent / f"{folder.name}.json")
    held.__enter__().touch()
    print(family._reaper.pid, child.pid, child.said().strip(), folder, flush=True)
    time.sleep(60)
"""


def wait_until(true: Callable[[], bool], within: float = 8.0) -> bool:
    deadline = time.monotonic() + within
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return true()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_children_grandchildren_and_files_go_with_a_killed_launcher(number: signal.Signals) -> None:
    launcher = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(LAUNCHER)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert launcher.stdout is not None
    *pids, folder = launcher.stdout.readline().split()
    assert len(pids) == 3
    assert Path(folder).exists()
    assert Path(f"{folder}.json").exists()
    launcher.send_signal(number)
    launcher.wait()
    launcher.stdout.close()

    assert wait_until(lambda: not any(runs(int(pid)) for pid in pids))
    assert not Path(folder).exists()
    assert not Path(f"{folder}.json").exists()


def test_a_child_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    """PR_SET_PDEATHSIG means the thread: a supervisor's thread that ends would take what it restarted."""
    family = Family()
    started = []

    def start() -> None:
        started.append(family.start(["sleep", "60"], log=tmp_path / "log", env=ENV))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    time.sleep(0.1)
    (child,) = started

    assert not child.has_ended()
    child.stop(signal.SIGTERM, within=5)
    family.close()


def test_a_start_that_fails_shows_the_end_of_the_log(tmp_path: Path) -> None:
    family = Family()
    child = family.start(["sh", "-c", "echo no such luck; exit 3"], log=tmp_path / "log", env=ENV)

    with pytest.raises(StartFailed, match="no such luck"):
        child.wait_ready(lambda: False, what="it", within=5)
    child.bury()
    family.close()


def test_a_port_that_was_taken_meanwhile_is_given_up_for_another() -> None:
    ports: list[int] = []

    def start(port: int) -> int:
        ports.append(port)
        if len(ports) < 3:
            raise StartFailed("bind: Address already in use")
        return port

    assert on_free_port(start) == ports[2]
    assert len(set(ports)) == 3


def test_ports_lie_below_the_ephemeral_range() -> None:
    assert free_port() < 32_768
