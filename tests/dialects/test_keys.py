"""Keys at the doors: revoked at once, their use noted, and floods of wrong ones kept off Postgres."""

from __future__ import annotations

import os
import signal
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import redis
from click.testing import CliRunner
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api import callers
from api.app import create_app
from api.callers import PUSH, create_key
from api.command import main
from common.ledger.database import Database
from common.settings import Settings
from deploy.local.servers import Servers
from tests.stage import Stage

pytestmark = pytest.mark.usefixtures("a_long_minute")

NEIGHBOUR = {"REMOTE_ADDR": "10.0.0.2"}
WRONG = "pk_000000000000_" + "a" * 43


def ask(client: FlaskClient, key: str | None, **environment: str) -> TestResponse:
    headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
    return client.get("/api/imports", headers=headers, environ_overrides=environment)


def ask_connect(client: FlaskClient, key: str, project: str, **environment: str) -> TestResponse:
    headers = {"X-Project-Id": project, "X-API-Key": key}
    return client.get(f"/event-import/{'0' * 32}", headers=headers, environ_overrides=environment)


def flood(ask_once: Callable[[], TestResponse], most: int = 200) -> int:
    """Ask until the answer is 429, and return how many were 401 before."""
    for n in range(most):
        if (answer := ask_once()).status_code == 429:
            return n
        assert answer.status_code == 401
    return most


def any_wrong(client: FlaskClient) -> Callable[[], TestResponse]:
    """Show another key each time."""
    numbers = iter(range(10**6))
    return lambda: ask(client, f"pk_{next(numbers):012x}_" + "a" * 43)


def last_used(stage: Stage, key: str) -> Any:
    (row,) = stage.query("SELECT last_used_at, xmin FROM api_keys WHERE id = %(id)s", id=key.split("_")[1])
    return row


@contextmanager
def app_with(stage: Stage, **settings: Any) -> Iterator[FlaskClient]:
    app = create_app(replace(stage.settings, **settings))
    yield app.test_client()
    app.extensions["penstock"].database.close()


@pytest.fixture
def no_database(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make every further look at the database a mistake of ours."""

    def fail(_: Database) -> None:
        raise AssertionError("Postgres was asked")

    return lambda: monkeypatch.setattr(Database, "_connection", fail)


def test_a_revoked_key_opens_nothing_from_the_next_request_on(client: FlaskClient, stage: Stage, key: str) -> None:
    assert ask(client, key).status_code == 200
    revoked = CliRunner(env={"DATABASE_URL": stage.settings.database_url}).invoke(main, ["admin", "revoke-key", key])
    assert revoked.exit_code == 0

    assert ask(client, key).status_code == 401
    assert flood(lambda: ask(client, key)) < 10, "a revoked key is no longer spared"


def test_wrong_keys_are_refused_above_the_limit_before_postgres_is_asked(
    client: FlaskClient, stage: Stage, no_database: Callable[[], None]
) -> None:
    assert flood(any_wrong(client)) == 100
    no_database()
    for answer in (ask(client, WRONG), ask(client, "nonsense")):
        assert answer.status_code == 429
        assert answer.get_json()["code"] == "too_many_failures"
        assert answer.mimetype == "application/problem+json"
        assert 0 < int(answer.headers["Retry-After"]) <= 3600
    answer = ask_connect(client, WRONG, stage.caller.project_id)
    assert answer.status_code == 429
    assert 0 < int(answer.headers["Retry-After"]) <= 3600
    assert "wrong" not in answer.get_json()["errorMessage"]
    assert set(answer.get_json()) == {"errorMessage", "retryAfter"}


def test_an_import_tells_which_key_made_it(client: FlaskClient, key: str, stage: Stage) -> None:
    source = {"url": "s3://bucket/key", "accessKeyId": "a", "secretAccessKey": "s"}
    headers = {"Authorization": f"Bearer {key}"}
    made = client.post("/api/imports", json={"collection": "c", "source": source}, headers=headers).get_json()
    stage.start(b"")
    theirs, ours = client.get("/api/imports", headers=headers).get_json()["items"]

    assert made["createdBy"] == ours["createdBy"] == {"keyId": key.split("_")[1]}
    assert theirs["createdBy"] == {"keyId": stage.caller.key_id}
    assert key.split("_", 2)[2] not in str(made)


def test_one_wrong_key_is_refused_before_its_address_is(client: FlaskClient, key: str) -> None:
    assert flood(lambda: ask(client, WRONG)) == 10
    assert flood(lambda: ask(client, WRONG[:-1] + "b")) == 0, "another secret of the same key"
    assert ask(client, key).status_code == 200
    assert ask(client, "pk_000000000001_" + "a" * 43).status_code == 401


def test_a_key_that_opened_before_is_served_beside_a_bad_neighbour(client: FlaskClient, key: str) -> None:
    assert ask(client, key).status_code == 200
    flood(any_wrong(client))
    flood(lambda: ask(client, key[:-1] + ("a" if key[-1] != "a" else "b")))

    assert ask(client, key).status_code == 200
    assert ask(client, key, **NEIGHBOUR).status_code == 200
    assert ask(client, None).status_code == 401


def test_a_key_that_opened_is_served_beside_a_bad_neighbour_after_a_restart_too(
    client: FlaskClient, stage: Stage, key: str
) -> None:
    assert ask(client, key).status_code == 200
    assert ask_connect(client, key, stage.caller.project_id).status_code == 404
    flood(any_wrong(client))

    with app_with(stage) as restarted:
        assert ask(restarted, key).status_code == 200
        assert ask_connect(restarted, key, stage.caller.project_id).status_code == 404
        assert ask(restarted, WRONG).status_code == 429
        assert ask(restarted, key[:-1] + ("a" if key[-1] != "a" else "b")).status_code == 429
        assert ask_connect(restarted, key, "0" * 32).status_code == 429


def test_a_revoked_key_is_spared_by_no_process(client: FlaskClient, stage: Stage, key: str) -> None:
    assert ask(client, key).status_code == 200
    stage.query("UPDATE api_keys SET revoked_at = now() WHERE id = %(id)s RETURNING id", id=key.split("_")[1])
    with app_with(stage) as restarted:
        assert flood(lambda: ask(restarted, key)) == 10, "a revoked key is no longer spared"
    assert flood(lambda: ask(client, key)) == 1, "by its own memory, once"


def test_a_mark_in_redis_stays_while_its_key_is_used_and_tells_nothing_of_it(
    client: FlaskClient, stage: Stage, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key_id, secret = key.split("_", 2)
    (row,) = stage.query("SELECT secret_sha256 FROM api_keys WHERE id = %(id)s", id=key_id)
    digest = bytes(row.secret_sha256)
    with redis.Redis.from_url(stage.settings.redis_url) as live:
        assert ask(client, WRONG).status_code == 401
        assert live.keys("penstock:opened:*") == [], "what did not open is remembered"
        assert ask(client, key).status_code == 200
        (mark,) = live.keys("penstock:opened:*")
        for secret_part in (key_id, secret, digest.hex(), b64encode(digest).decode(), stage.caller.project_id):
            assert secret_part not in f"{mark!r} {live.get(mark)!r}"

        live.delete(mark)
        assert ask(client, key).status_code == 200
        assert live.keys("penstock:opened:*") == [], "marked at each request"
        monkeypatch.setattr(callers, "_MARK_AGAIN_SECONDS", 0.0)
        assert ask(client, key).status_code == 200
        assert live.keys("penstock:opened:*") == [mark]


def test_another_address_is_not_touched(client: FlaskClient, key: str) -> None:
    flood(any_wrong(client))

    assert ask(client, key).status_code == 429, "it never opened here: who knows what it is"
    assert ask(client, key, **NEIGHBOUR).status_code == 200


def test_a_key_with_the_wrong_project_is_refused_and_with_the_right_one_served(
    client: FlaskClient, stage: Stage, key: str
) -> None:
    assert ask_connect(client, key, stage.caller.project_id).status_code == 404

    assert flood(lambda: ask_connect(client, key, "0" * 32)) == 10
    assert flood(lambda: ask_connect(client, key, "nonsense")) == 0
    assert ask_connect(client, key, stage.caller.project_id).status_code == 404


def test_who_shows_no_key_is_told_so_however_often(client: FlaskClient) -> None:
    assert flood(lambda: ask(client, None), most=120) == 120


def test_the_limit_is_a_setting_and_may_be_none(stage: Stage) -> None:
    with app_with(stage, auth_failures=3) as client:
        assert flood(any_wrong(client)) == 3
    stage.flush_redis()
    with app_with(stage, auth_failures=0) as client:
        assert flood(any_wrong(client), most=150) == 150


def test_without_redis_wrong_is_wrong_and_right_is_right(stage: Stage, key: str) -> None:
    with app_with(stage, redis_url="redis://127.0.0.1:1/0") as client:
        assert flood(any_wrong(client), most=120) == 120
        assert ask(client, key).status_code == 200


def test_a_redis_that_hangs_is_waited_for_once_and_not_by_a_key_that_has_just_opened(
    stage: Stage, servers: Servers, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def waits(shown: str, status: int) -> int:
        """Each wait that ends is a line of the log."""
        capsys.readouterr()
        assert ask(client, shown).status_code == status
        return capsys.readouterr().err.count("redis_away")

    pid = servers.pids["redis"]
    assert pid is not None, "this test needs a Redis of its own"
    with stage.runtime.database.transaction() as tx:
        second = create_key(tx, stage.caller.project_id, [PUSH])
    with app_with(stage, redis_timeout_seconds=1.0) as client:
        assert ask(client, key).status_code == 200
        os.kill(pid, signal.SIGSTOP)
        try:
            assert waits(key, 200) == 0
            assert waits(WRONG, 401) == 1, "it was waited for twice"
            assert waits(second, 200) <= 1, "it was waited for twice"
            assert waits(key, 200) == waits(second, 200) == 0
        finally:
            os.kill(pid, signal.SIGCONT)


def test_a_use_is_noted_and_a_failure_writes_nothing(client: FlaskClient, stage: Stage, key: str) -> None:
    before = last_used(stage, key)
    for wrong in (key[:-1] + ("a" if key[-1] != "a" else "b"), key):
        assert ask_connect(client, wrong, "0" * 32).status_code == 401
        assert last_used(stage, key) == before
    assert before.last_used_at is None

    assert ask(client, key).status_code == 200
    noted = last_used(stage, key)
    assert noted.last_used_at
    assert ask(client, key).status_code == 200
    assert last_used(stage, key) == noted, "once a minute"


def test_a_use_that_cannot_be_noted_delays_and_fails_nothing(client: FlaskClient, stage: Stage, key: str) -> None:
    for lock in (
        "SELECT id FROM api_keys WHERE id = %(id)s FOR UPDATE",
        "LOCK TABLE api_keys IN SHARE MODE",
    ):
        with stage.worker().database.transaction() as other:
            other.run(lock, id=key.split("_")[1])
            begun = time.monotonic()
            assert ask(client, key).status_code == 200
            assert time.monotonic() - begun < 30, "it waited as long as a lock may be waited for: a minute"
        assert last_used(stage, key).last_used_at is None


def test_a_database_that_only_reads_tells_all_it_knows(stage: Stage, settings: Settings, key: str) -> None:
    name = settings.database_url.rsplit("/", 1)[1].partition("?")[0]
    with stage.runtime.database.transaction() as tx:
        tx.run(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    try:
        with app_with(stage) as client:
            assert ask(client, key).status_code == 200
    finally:
        with stage.runtime.database.transaction() as tx:
            tx.run(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    assert last_used(stage, key).last_used_at is None
