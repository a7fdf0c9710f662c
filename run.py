#!/usr/bin/env python3
"""
The one bootstrap: from a bare Python 3.11 to a running Penstock.

Standard library only, as root or not, with neither the venv package nor make nor
Docker. The first command makes ``.venv`` and installs ``requirements.lock`` with its
hashes; from then on a command costs a comparison of one stamp file before it turns
into the process it stands for (``execve``, so that signals reach it directly).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
LOCK = ROOT / "requirements.lock"
STAMP = VENV / "penstock-stamp"
OLDEST_PYTHON = (3, 11)

#: The lock is resolved by uv: pip's own ``freeze`` or ``lock`` leaves out what only another patch
#: release needs (async-timeout below 3.11.3, the Python of Debian 12, which then fails at import).
UV = "uv==0.13.8"
LOCK_HEADER = "# Made by `python3 run.py lock` from {}. Do not edit.\n"
#: What is locked, each ``.in`` into the ``.lock`` beside it: the project; and what the benchmark and the tests need of
#: others, apart from the project.
LOCKS = [ROOT / name for name in ("requirements.in", "tests/bench/dlt.in", "tests/journeys/awscli.in")]

COMMANDS = {
    "demo": "start everything, import a million events, check every row, stop",
    "up": "start the servers and the service, and stay (--workers N, --port P)",
    "test": "run the tests; what follows goes to pytest",
    "bench": "measure imports beside COPY, SQL by hand and dlt; bench formats, memory, export, timeframes (--help)",
    "lint": "ruff, ruff format, mypy and import-linter, all four",
    "penstock": "the service's own command: projects and keys (penstock admin --help)",
    "lock": "resolve requirements.in into requirements.lock again, and those of the benchmark and the tests",
}
MODULES = {
    "demo": "deploy.local.demo",
    "up": "deploy.local.up",
    "test": "pytest",
    "bench": "tests.bench",
    "penstock": "api.command",
}
#: All tests: those that have to meet a worker at an instant, as most journeys have, by one process, the others by two
#: with servers of their own, a file at a time. One alone keeps 1.1 of two cores busy. Those that run benchmarks have a
#: command of their own: test -m bench.
ALL_TESTS = (["-n", "2", "--dist", "loadfile", "-m", "not alone and not bench"], ["-m", "alone", "tests/journeys"])


class Stop(Exception):
    """The command cannot go on; its text tells the reader what to do."""


def main(argv: list[str]) -> int:
    """Run one command; what follows its name belongs to what it starts."""
    if sys.version_info < OLDEST_PYTHON:
        raise Stop(f"Penstock needs Python 3.11 or newer; this is {platform.python_version()}.")
    os.chdir(ROOT)
    command, rest = parse(argv)
    if command == "lock":
        return lock()
    ensure_venv()
    if command == "test" and not rest:
        return test()
    return lint(rest) if command == "lint" else become([str(VENV_PYTHON), "-m", MODULES[command], *rest])


def parse(argv: list[str]) -> tuple[str, list[str]]:
    """Split the command from the arguments it passes on untouched."""
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Penstock's bootstrap.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n" + "\n".join(f"  {name:9}{text}" for name, text in COMMANDS.items()),
    )
    parser.add_argument("command", choices=COMMANDS, metavar="command")
    known = parser.parse_args(argv[:1])
    return str(known.command), argv[1:]


# --- the virtual environment


def ensure_venv() -> None:
    """Make ``.venv`` match the lock and this Python; does nothing when it already does."""
    wanted = stamp()
    if is_current(wanted):
        return
    with one_at_a_time():
        if not is_current(wanted):
            make_venv()
            STAMP.write_text(wanted)


def stamp() -> str:
    """Name what a venv depends on: the lock's bytes, the Python, and the place (a venv cannot be moved)."""
    digest = hashlib.sha256(LOCK.read_bytes())
    digest.update(f"{platform.python_version()} {VENV}".encode())
    return digest.hexdigest()


def is_current(wanted: str) -> bool:
    """Tell whether the venv was made, to its end, for this stamp."""
    return VENV_PYTHON.exists() and STAMP.exists() and STAMP.read_text() == wanted


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let a second ``run.py`` wait while the first one installs (`demo` and `test` in two terminals)."""
    folder = ROOT / ".penstock"
    folder.mkdir(exist_ok=True)
    with (folder / "venv.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def make_venv() -> None:
    """
    Build the venv afresh, so that a package no longer in the lock cannot hide a missing one.

    ``--without-pip`` because Debian without python3-venv has no ensurepip, and because its pip refuses to
    install into the system ("externally-managed-environment") but gladly into a venv named by ``--python``.
    """
    print(f"run.py: making .venv with Python {platform.python_version()} (about 15 s, once)", flush=True)
    check([base_python(), "-m", "venv", "--without-pip", "--clear", str(VENV)], "could not make .venv")
    pip = [*pip_for(VENV_PYTHON), "install", "-q", "--disable-pip-version-check", "--no-input"]
    check([*pip, "--require-hashes", "-r", str(LOCK)], "could not install requirements.lock")


def base_python() -> str:
    """Return the interpreter below any venv: with .venv's own, ``--clear`` would saw off its branch."""
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def pip_for(python: Path) -> list[str]:
    """Return a pip that installs for ``python``: the host's, else one that ensurepip puts into the venv."""
    if quiet([base_python(), "-m", "pip", "--python", str(python), "--version"]):
        return [base_python(), "-m", "pip", "--python", str(python)]
    if quiet([str(python), "-m", "ensurepip"]):
        return [str(python), "-m", "pip"]
    raise Stop(
        f"No pip: {base_python()} has no pip 22.3 or newer and no ensurepip.\n"
        "Install one of them and run this again. Debian and Ubuntu: apt-get install python3-pip\n"
        "(or python3-venv); Fedora: dnf install python3-pip; Alpine: apk add py3-pip."
    )


# --- the commands


def lint(rest: list[str]) -> int:
    """Run all four checks even when one fails: one run shows all there is to mend."""
    if rest:
        raise Stop("lint takes no arguments.")
    checks = (
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["lint-imports", "--no-logo"],
    )
    failed = []
    for tool, *arguments in checks:
        title = " ".join([tool, *arguments])
        print(f"--- {title}", flush=True)
        if subprocess.run([str(VENV / "bin" / tool), *arguments], env=environment(), check=False).returncode:
            failed.append(title)
    print(f"--- failed: {'; '.join(failed)}" if failed else "--- all four passed")
    return 1 if failed else 0


def test() -> int:
    """Run all tests, those of the second part even when one of the first fails."""
    pytest = [str(VENV_PYTHON), "-m", MODULES["test"]]
    # A process that a signal has ended has a number below 0: no largest one, and no sum, would tell of it.
    codes = [subprocess.run([*pytest, *part], env=environment(), check=False).returncode for part in ALL_TESTS]
    return 1 if any(codes) else 0


def lock() -> int:
    """Resolve the newest versions for every 3.11 and later, with hashes and without any index's address."""
    with tempfile.TemporaryDirectory(prefix="penstock-lock-") as scratch:
        venv = Path(scratch) / "venv"
        check([base_python(), "-m", "venv", "--without-pip", str(venv)], "could not make a scratch venv")
        check([*pip_for(venv / "bin" / "python"), "install", "-q", UV], f"could not install {UV}")
        for source in LOCKS:
            resolve(venv / "bin" / "uv", source, source.with_suffix(".lock"), fresh=Path(scratch) / "fresh.lock")
    return 0


def resolve(uv: Path, source: Path, target: Path, *, fresh: Path) -> None:
    """Let uv resolve one file of requirements into its lock, ``fresh`` first, so that a failure changes nothing."""
    fresh.unlink(missing_ok=True)  # uv would prefer the pins it finds there
    command = [str(uv), "pip", "compile", "--quiet", "--universal"]
    command += ["--python-version", ".".join(map(str, OLDEST_PYTHON)), "--generate-hashes"]
    command += ["--no-emit-index-url", "--no-emit-find-links", "--no-annotate", "--no-header"]
    check([*command, str(source), "-o", str(fresh)], f"uv could not resolve {source.name}")
    text = fresh.read_text()
    if "://" in text:
        raise Stop(f"{target.name} would name an address of this machine's index; it was left as it is.")
    target.write_text(LOCK_HEADER.format(source.name) + text)
    print(f"run.py: {target.name} now holds {text.count('==')} pins")


# --- processes


def environment() -> dict[str, str]:
    """Return this environment with the repository on the path: the project is run, not installed."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
    paths = [str(ROOT), *filter(None, [own.get("PYTHONPATH")])]
    return {**own, "PYTHONPATH": os.pathsep.join(paths)}


def become(command: list[str]) -> NoReturn:
    """Turn into ``command``: Ctrl-C and SIGTERM must reach it and not a parent that waits for it."""
    sys.stdout.flush()
    os.execve(command[0], command, environment())  # noqa: S606 -- a shell between would take the signals


def check(command: list[str], complaint: str) -> None:
    """Run ``command`` to its end, its output on the terminal; stop with ``complaint`` when it fails."""
    if code := subprocess.run(command, check=False).returncode:
        raise Stop(f"{complaint} ({Path(command[0]).name} ended with {code}; its words are above).")


def quiet(command: list[str]) -> bool:
    """Tell whether ``command`` succeeds, and let nobody hear it."""
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Stop as stop:
        sys.exit(f"run.py: {stop}")
    except KeyboardInterrupt:
        sys.exit(130)
