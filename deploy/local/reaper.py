"""
The last one out: outlives the launcher by a moment, ends what it started and removes its files.

Run as a script by `family.Family`, which tells it, line by line on its standard input, what to
look after. A SIGKILL of the launcher closes that pipe; nothing the launcher could write in a
``finally`` runs then, and the death signal of Linux (PR_SET_PDEATHSIG) reaches only its direct
children: not a pool process of Celery, and no folder. Standard library only, imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

#: Postgres gives its backends 5 s after SIGQUIT before it kills them itself; only then may we.
GRACE_SECONDS = 6.0
POLL_SECONDS = 0.05


def main() -> None:
    """Note what to look after until the launcher ends, then put it away."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    left = listen(sys.stdin)
    # First, and at once: a new launcher may be about to write a file of the same name.
    for file in left.files:
        file.unlink(missing_ok=True)
    end_groups(left.groups)
    remove_folders(left.folders)


class Left(NamedTuple):
    """What the launcher has not put away itself."""

    #: Process groups, each with the signal that ends it.
    groups: dict[int, int]
    files: set[Path]
    folders: set[Path]


def listen(lines: Iterable[str]) -> Left:
    """Note what begins and ends, and return what is left when the pipe closes."""
    left = Left({}, set(), set())
    for line in lines:
        verb, _, rest = line.rstrip("\n").partition(" ")
        match verb:
            case "group":
                group, number = rest.split()
                left.groups[int(group)] = int(number)
            case "ended":
                left.groups.pop(int(rest), None)
            case "file":
                left.files.add(Path(rest))
            case "folder":
                left.folders.add(Path(rest))
            case "removed":
                left.files.discard(Path(rest))
                left.folders.discard(Path(rest))
            case _:
                pass  # half a line, cut by the death of who wrote it
    return left


def end_groups(groups: dict[int, int]) -> None:
    """Send each group its signal, wait for the leaders, then SIGKILL to whoever is left in the groups."""
    for group, number in groups.items():
        send(group, number)
    deadline = time.monotonic() + GRACE_SECONDS
    while any(runs(group) for group in groups) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    for group in groups:
        send(group, signal.SIGKILL)


def runs(pid: int) -> bool:
    """
    Tell whether a process runs; a zombie does not.

    Orphans go to process 1, and in many containers that one reaps nobody, so zombies stay for ever.
    """
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in "ZX"


def send(group: int, number: int) -> None:
    """Signal a process group, if anybody is in it still."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def remove_folders(folders: set[Path]) -> None:
    """Remove the folders; more than once, since a server that is ending may still write a last file."""
    deadline = time.monotonic() + GRACE_SECONDS
    for folder in folders:
        while folder.exists() and time.monotonic() < deadline:
            shutil.rmtree(folder, ignore_errors=True)
            time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
