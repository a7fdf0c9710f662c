"""What every room has in common: a line and an id for each request, forwarded headers, health checks."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import request
from flask.testing import FlaskClient

from api import health
from api.app import create_app
from common.ledger.database import Database
from common.ledger.migrate import migrate
from common.settings import Settings
from common.telemetry import bind
from deploy.local.servers import Servers
from tests.stage import Stage, event, ndjson

STRANGER, PROXY = "198.51.100.7", "203.0.113.9"
FORWARDED = {
    "X-Forwarded-For": "192.0.2.44",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "events.example.com",
}


@contextmanager
def door(settings: Settings, stage: Stage | None = None, **changes: Any) -> Iterator[FlaskClient]:
    """An app of its own settings."""
    app = create_app(replace(settings, **changes))
    if stage:
        app.extensions["penstock"].dispatch = stage.sent
    # Where the application believes to be asked from.
    app.add_url_rule("/where", "where", _where)
    yield app.test_client()
    app.extensions["penstock"].database.close()


def _where() -> dict[str, Any]:
    return {"address": request.remote_addr, "scheme": request.scheme, "host": request.host}


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def start(client: FlaskClient, stage: Stage, key: str, **more: Any) -> Any:
    url = stage.put(ndjson(event("a"))).url
    body = {"collection": "events", "source": {"url": url, "accessKeyId": "AK", "secretAccessKey": "CANARY"}}
    headers = {"Authorization": f"Bearer {key}", **more.pop("headers", {})}
    return client.post("/api/imports?note=CANARY", json=body, headers=headers, **more)


# --- one line a request, and its id


def test_a_request_is_one_line_that_says_who_asked_what_and_what_came_of_it(
    client: FlaskClient, stage: Stage, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bind(chunk="of what the thread did before")
    created = start(client, stage, key)
    accepted, line = told(capsys)

    assert created.status_code == 201, created.get_json()
    assert line.pop("milliseconds") > 0
    assert line.pop("time")
    assert line == {
        "level": "info",
        "logger": "api.access",
        "event": "request",
        "method": "POST",
        "route": "/api/imports",
        "status": 201,
        "request_id": created.headers["X-Request-Id"],
        "project_id": stage.caller.project_id,
        "key_id": key.split("_")[1],
        "import_id": created.get_json()["id"],
    }
    assert (accepted["event"], accepted["collection"]) == ("import_accepted", "events")
    for name in ("request_id", "project_id", "key_id", "import_id"):
        assert accepted[name] == line[name]

    client.get(f"/api/imports/{line['import_id']}", headers={"Authorization": f"Bearer {key}"})
    (read,) = told(capsys)
    assert (read["import_id"], read["route"]) == (line["import_id"], "/api/imports/<import_id>")
    assert read["request_id"] != line["request_id"]
    for headers in ({}, {"Authorization": f"Bearer {key[:-1]}"}):
        client.get(f"/api/imports/{line['import_id']}", headers=headers)
        (unknown,) = told(capsys)
        assert (unknown["status"], "import_id" in unknown) == (401, False), "a stranger writes under an import's id"
    client.get("/nowhere")
    (stranger,) = told(capsys)
    assert not {"import_id", "project_id", "key_id"} & set(stranger), "an id of the request before"


@pytest.mark.parametrize("given", ["a-caller.s_ID-1", "x" * 64, "12345678"])
def test_a_callers_request_id_is_kept(client: FlaskClient, given: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = client.get("/api/imports", headers={"X-Request-Id": given})
    (line,) = told(capsys)

    assert answer.headers["X-Request-Id"] == answer.get_json()["requestId"] == line["request_id"] == given


@pytest.mark.parametrize("given", ["", "short", "x" * 65, "has space", 'quote"d-id', "ключ-запроса", "12345678%0a"])
def test_an_odd_request_id_is_replaced(client: FlaskClient, given: str) -> None:
    first, second = (client.get("/healthz", headers={"X-Request-Id": given}).headers["X-Request-Id"] for _ in "12")

    assert len(first) == len(second) == 32
    assert given not in (first, second)
    assert first != second


def test_every_answer_has_a_request_id(
    client: FlaskClient, key: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = {"X-API-Key": key, "X-Project-Id": "0" * 32}
    answers = [
        client.get("/nowhere"),
        client.delete("/api/imports"),
        client.get("/api/imports", headers={"Host": "no host"}),
        client.get("/event-import/1", headers=connect),
        client.options("/api/imports"),
        client.head("/healthz"),
        client.get("/api/openapi.json"),
    ]
    monkeypatch.setattr(Database, "transaction", _break)
    answers.append(client.get("/api/imports", headers={"Authorization": f"Bearer {key}"}))
    with door(settings, database_url="postgresql://127.0.0.1:1/nobody") as away:
        monkeypatch.undo()
        answers.append(away.get("/api/imports", headers={"Authorization": f"Bearer {key}"}))

    assert [answer.status_code for answer in answers] == [404, 405, 400, 401, 401, 200, 200, 500, 503]
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == len(answers)


def _break(*_: object) -> None:
    raise RuntimeError("CANARY")


def test_neither_path_nor_query_nor_key_stand_in_the_log(
    client: FlaskClient, key: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"Authorization": f"Bearer {key}", "Cookie": "CANARY", "User-Agent": "CANARY"}
    client.get("/CANARY?key=CANARY", headers=headers)
    client.get("/api/imports/CANARY?key=CANARY", headers=headers)
    client.post("/api/imports", data=b'{"CANARY": "CANARY"}', headers=headers)
    monkeypatch.setattr(Database, "transaction", _break)
    client.get("/api/imports", headers=headers)
    text = capsys.readouterr().err

    assert len(text.splitlines()) == 5, "four requests, and an error told by its kind and place"
    assert "CANARY" not in text
    assert key.split("_", 2)[2] not in text
    assert [json.loads(line)["route"] for line in text.splitlines() if '"request"' in line] == [
        None,
        "/api/imports/<import_id>",
        "/api/imports",
        "/api/imports",
    ]


def test_health_checks_are_told_at_the_debug_level_only(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    for level, count in (("info", 0), ("debug", 2)):
        with door(settings, log_level=level) as client:
            client.get("/healthz")
            client.get("/readyz")
            assert len(told(capsys)) == count


# --- forwarded headers


def test_a_strangers_forwarded_headers_change_nothing(settings: Settings, stage: Stage, key: str) -> None:
    for proxies in ("", PROXY, "10.0.0.0/8,2001:db8::/32"):
        with door(settings, stage, proxies=proxies) as client:
            where = client.get("/where", headers=FORWARDED, environ_base={"REMOTE_ADDR": STRANGER}).get_json()
            created = start(client, stage, key, headers=FORWARDED, environ_base={"REMOTE_ADDR": STRANGER})

            assert where == {"address": STRANGER, "scheme": "http", "host": "localhost"}
            assert created.headers["Location"].startswith("http://localhost/api/imports/")


@pytest.mark.parametrize(
    ("proxies", "peer"),
    [
        (PROXY, PROXY),
        (f" 10.0.0.0/8 , {PROXY} ", PROXY),
        ("203.0.113.0/24", PROXY),
        ("203.0.113.0/24", f"::ffff:{PROXY}"),
        ("2001:db8::/32", "2001:db8::1"),
    ],
)
def test_a_named_proxy_is_believed(settings: Settings, stage: Stage, key: str, proxies: str, peer: str) -> None:
    with door(settings, stage, proxies=proxies) as client:
        where = client.get("/where", headers=FORWARDED, environ_base={"REMOTE_ADDR": peer}).get_json()
        created = start(client, stage, key, headers=FORWARDED, environ_base={"REMOTE_ADDR": peer})

    assert where == {"address": "192.0.2.44", "scheme": "https", "host": "events.example.com"}
    assert created.headers["Location"].startswith("https://events.example.com/api/imports/")
    assert created.get_json()["links"]["errors"].startswith("https://events.example.com/api/imports/")


@pytest.mark.parametrize("before", ["1.2.3.4, 5.6.7.8", "127.0.0.1", '"', "garbage,,", "\x7f"])
def test_of_several_hops_only_the_last_is_believed(settings: Settings, before: str) -> None:
    headers = {name: f"{before}, {value}" for name, value in FORWARDED.items()}
    with door(settings, proxies=PROXY) as client:
        where = client.get("/where", headers=headers, environ_base={"REMOTE_ADDR": PROXY}).get_json()

    assert where == {"address": "192.0.2.44", "scheme": "https", "host": "events.example.com"}


@pytest.mark.parametrize(
    ("forwarded", "caller"),
    [
        ("192.0.2.44, 10.0.0.1", "192.0.2.44"),
        ("192.0.2.44, 10.0.0.2, ::ffff:10.0.0.1", "192.0.2.44"),
        ("1.2.3.4, 192.0.2.44, 10.0.0.1", "192.0.2.44"),
        ("10.0.0.9, 192.0.2.44,10.0.0.1", "192.0.2.44"),
        ('"10.0.0.9, 192.0.2.44, 10.0.0.1', "192.0.2.44"),
        ("2001:db8::7, 10.0.0.1", "2001:db8::7"),
        ("192.0.2.44, garbage, 10.0.0.1", "10.0.0.1"),
        ("192.0.2.44, , 10.0.0.1", "10.0.0.1"),
        ("192.0.2.44, 10.0.0.1, garbage", PROXY),
        ("10.0.0.2, 10.0.0.1", "10.0.0.2"),
        ("10.0.0.2, 192.0.2.44", "192.0.2.44"),
    ],
)
def test_of_several_named_hops_the_first_that_is_not_named_is_the_caller(
    settings: Settings, forwarded: str, caller: str
) -> None:
    headers = {"X-Forwarded-For": forwarded}
    with door(settings, proxies=f"{PROXY}, 10.0.0.0/8") as client:
        where = client.get("/where", headers=headers, environ_base={"REMOTE_ADDR": PROXY}).get_json()

    assert where["address"] == caller


def test_an_operator_is_told_once_of_a_proxy_that_is_not_named(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with door(settings, proxies=PROXY) as client:
        client.get("/where", headers=FORWARDED, environ_base={"REMOTE_ADDR": PROXY})
        client.get("/where", environ_base={"REMOTE_ADDR": STRANGER})
        assert "forwarded_for_not_believed" not in capsys.readouterr().err
        for _ in range(3):
            client.get("/where", headers=FORWARDED, environ_base={"REMOTE_ADDR": STRANGER})
        (line,) = (line for line in told(capsys) if line["event"] != "request")

    assert (line["event"], line["peer"], line["setting"]) == (
        "forwarded_for_not_believed",
        STRANGER,
        "PENSTOCK_PROXIES",
    )


@pytest.mark.parametrize(
    "value", ["", ",", " , ", '"', "unknown", "1.2.3.4:80:", "[::1", "a b", "ev\tents", "http://x", "é"]
)
def test_malformed_forwarded_headers_of_a_proxy_are_left_out(
    settings: Settings, stage: Stage, key: str, value: str
) -> None:
    peer = {"REMOTE_ADDR": PROXY}
    headers = {"X-Forwarded-For": value, "X-Forwarded-Proto": value, "X-Forwarded-Host": value}
    with door(settings, stage, proxies=PROXY) as client:
        where = client.get("/where", headers=headers, environ_base=peer).get_json()
        created = start(client, stage, key, headers=headers, environ_base=peer)

    host = where.pop("host")
    assert where == {"address": PROXY, "scheme": "http"}
    assert created.status_code == 201, created.get_json()
    assert created.headers["Location"].startswith(f"http://{host}/")
    assert host in ("localhost", value)


def test_a_base_url_stands_above_what_a_proxy_says(settings: Settings, stage: Stage, key: str) -> None:
    with door(settings, stage, proxies=PROXY, base_url="https://public.example.com/events/") as client:
        created = start(client, stage, key, headers=FORWARDED, environ_base={"REMOTE_ADDR": PROXY})

    assert created.headers["Location"].startswith("https://public.example.com/events/api/imports/")


# --- idempotency keys


def test_an_idempotency_key_makes_one_thing_on_all_wires(client: FlaskClient, stage: Stage, key: str) -> None:
    once = {"Idempotency-Key": "once"}
    url = stage.put(b"").url
    s3 = {"collection": "c", "s3Path": url, "s3AccessKeyId": "AK", "s3SecretAccessKey": "S"}
    connect = {"X-Project-Id": stage.caller.project_id, "X-API-Key": key, **once}
    first = client.post("/event-import", json=s3, headers=connect)

    asked = {"collection": "c", "source": {"url": url, "accessKeyId": "AK", "secretAccessKey": "S"}}
    native = {"Authorization": f"Bearer {key}", **once}
    other = client.post("/api/imports", json=asked, headers=native)
    mapping = {"id": ["id", "$unique_id"], "time": ["timestamp", "$time"]}
    lines = {"format": "ndjson", "compression": "none"}
    mapped = client.post("/api/imports", json={**asked, **lines, "mapping": mapping}, headers=native)
    pushed = client.post("/events/c", data=b"{}", headers=connect)
    bucket, path = url.removeprefix("s3://").split("/", 1)
    wish = {"dataSetName": "c", "bucket": bucket, "path": path, "accessKeyId": "AK", "secretAccessKey": "S"}
    nexosis = {"api-key": key, **once}
    table = client.post("/v1/imports/s3", json=wish, headers=nexosis)
    put = client.put("/v1/data/other", data=b'{"data": [{"a": 1}]}', headers=nexosis)
    again = client.post("/event-import", json=s3, headers=connect)

    assert (first.status_code, again.status_code) == (201, 201)
    assert (first.headers["Location"], "true") == (again.headers["Location"], again.headers["Idempotent-Replayed"])
    for refused in (other, mapped):
        assert refused.get_json()["code"] == "idempotency_key_reused", "its lines would be read by other rules"
    assert [answer.status_code for answer in (other, mapped, pushed, table, put)] == [422] * 5


# --- health


def test_ready_means_that_the_database_has_every_table(settings: Settings, servers: Servers) -> None:
    url = servers.create_database("unready")
    with door(settings, database_url=url) as client:
        empty = client.get("/readyz")
        migrate(Database(url))
        _wait_for(client, "ok")
        database = Database(url)
        with database.transaction() as tx:
            tx.run("UPDATE migrations SET name = '0000_pre_other.sql' WHERE name LIKE '0001_pre%%'")
        database.close()
        older = _wait_for(client, "migrations_missing")

        assert (empty.status_code, empty.get_json()) == (503, {"status": "migrations_missing"})
        assert (older.status_code, older.headers["Retry-After"]) == (503, "2")
        assert client.get("/healthz").status_code == 200


def test_ready_is_answered_in_time_while_postgres_hangs(settings: Settings, servers: Servers) -> None:
    postmaster = servers.pids["postgres"]
    if postmaster is None:
        pytest.skip("Postgres was given by the environment; it is not ours to stop")

    def signal_all(number: signal.Signals) -> None:
        """Backends too: a connection that stands must not make the answer wait."""
        for pid in (postmaster, *map(int, Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split())):
            os.kill(pid, number)

    # Nobody else would wake it, should the answer wait for it.
    wake = threading.Timer(12, signal_all, [signal.SIGCONT])
    with door(settings) as client, ThreadPoolExecutor() as threads:
        assert client.get("/readyz").status_code == 200
        time.sleep(1.1)  # what was seen is good for a second
        wake.start()
        signal_all(signal.SIGSTOP)
        try:
            begun = time.monotonic()
            another = threads.submit(_ask_after, 0.5, client.application.test_client())
            hanging = client.get("/readyz")
            took = time.monotonic() - begun
            meanwhile = another.result()
        finally:
            wake.cancel()
            signal_all(signal.SIGCONT)

        assert (hanging.status_code, hanging.get_json()) == (503, {"status": "database_away"})
        # Both of a machine that has other things to do; unbounded, they would last until the wake-up.
        assert took < 10
        assert meanwhile < took - 1, "who asks while another looks does not wait"
        _wait_for(client, "ok")


def test_ready_ends_to_be_ok_while_a_look_hangs_that_has_connected(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No timeout of libpq's or of ours counts between the handshake and the first statement."""
    monkeypatch.setattr(health, "_LONGEST_SECONDS", 1.5)
    over = threading.Event()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        ThreadPoolExecutor() as threads,
        door(settings) as client,
    ):
        hanging = threads.submit(_welcome_and_fall_silent, server, over)
        try:
            assert client.get("/readyz").status_code == 200
            readiness = client.application.extensions["readiness"]
            address = (
                f"postgresql://nobody@127.0.0.1:{server.getsockname()[1]}/nothing?sslmode=disable&gssencmode=disable"
            )
            readiness._database = Database(address)
            time.sleep(1.1)  # what was seen is good for a second
            first = client.get("/readyz")
            second = client.get("/readyz")
            assert readiness._looker.is_alive(), "the look was to hang"
        finally:
            over.set()
            hanging.result()

        for answer in (first, second):
            assert (answer.status_code, answer.get_json()) == (503, {"status": "database_away"})
        readiness._looker.join(10)


def _welcome_and_fall_silent(server: socket.socket, over: threading.Event) -> None:
    """Let one client in as Postgres does, and answer none of its questions."""
    connection, _ = server.accept()
    with connection:
        connection.recv(4096)
        told = b"".join(
            b"S" + (4 + len(pair)).to_bytes(4, "big") + pair
            for pair in (b"client_encoding\0UTF8\0", b"server_version\x0018.0\0", b"DateStyle\0ISO, MDY\0")
        )
        connection.sendall(b"R\0\0\0\x08\0\0\0\0" + told + b"Z\0\0\0\x05I")
        over.wait(30)


def _ask_after(pause: float, client: FlaskClient) -> float:
    """Return how long the answer took."""
    time.sleep(pause)
    begun = time.monotonic()
    client.get("/readyz")
    return time.monotonic() - begun


def _wait_for(client: FlaskClient, status: str) -> Any:
    deadline = time.monotonic() + 10
    while (answer := client.get("/readyz")).get_json()["status"] != status:
        assert time.monotonic() < deadline, answer.get_json()
        time.sleep(0.05)
    return answer
