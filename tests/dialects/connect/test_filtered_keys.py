"""Master keys and the filtered keys made with them: what they show, what they open, and that all faults look alike."""

from __future__ import annotations

import json
import random
import re
from base64 import b64encode
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api import callers
from api.callers import FILTERED_QUERY, QUERY, create_master_key
from api.collecting import CollectionDesk
from api.connect import parse
from common.errors import Refusal
from common.ledger import projects
from common.model.ids import new_id
from common.model.query import MAX_CONDITIONS, Query, parse_query
from tests.dialects.connect.test_event_import import headers
from tests.keys import MASTER, encrypted, filtered_key, strict_key
from tests.stage import Stage
from tests.unit.common.model.test_query import NOW
from workers.exports.write import write_export

pytestmark = pytest.mark.usefixtures("a_long_minute")

ROOT = Path(__file__).parents[3]
VALUES: list[Any] = [None, 1, 25, 25.5, -3, "x", "xy", "", "25", True, False, [1], {"b": 1}, {"b": "x"}, {"b": None}]
QUERY_OF_ALL = {"filters": None, "canQuery": True}


@pytest.fixture
def master(stage: Stage) -> str:
    """The id of the project's only master key, ``MASTER``."""
    return make_master(stage)


def make_master(stage: Stage, **more: Any) -> str:
    with stage.runtime.database.transaction() as tx:
        return create_master_key(tx, stage.runtime.sealer, stage.caller.project_id, **{"key": MASTER, **more})[0]


def revoke(stage: Stage, key_id: str) -> None:
    with stage.runtime.database.transaction() as tx:
        projects.revoke_key(tx, key_id)


def keyed(stage: Stage, filters: Any, *, push: bool = False) -> dict[str, str]:
    """Return the headers of a filtered key that may query."""
    return headers(stage, filtered_key({"filters": filters, "canQuery": True, "canPush": push}))


def small(client: FlaskClient, sent: dict[str, str], asked: Any = None, collection: str = "c") -> set[int]:
    """Return the ids of what an export answers with."""
    query = {} if asked is None else {"query": json.dumps({"filter": asked})}
    answer = client.get(f"/events/{collection}/export", query_string=query, headers=sent)
    assert answer.status_code == 200, answer.text
    return {event["id"] for event in answer.get_json()["results"]}


def large(client: FlaskClient, stage: Stage, sent: dict[str, str], asked: Any = None) -> set[int]:
    """Return the ids of what an export puts into S3."""
    prefix = f"{new_id()}/"
    keys = {"s3AccessKeyId": "a", "s3SecretAccessKey": "s"}
    body = {"query": {"filter": asked}, "s3Path": f"s3://{stage.bucket}/{prefix}", **keys}
    answer = client.post("/events/c/export", json=body, headers=sent)
    assert answer.status_code == 201, answer.text
    export_id = answer.headers["Location"].rpartition("/")[2]
    write_export(stage.runtime, export_id)
    (written,) = stage.found(prefix).values()
    status = client.get(f"/events/c/export/{export_id}", headers=sent).get_json()
    assert (status["status"], status["totalBytes"]) == ("Complete", len(written))
    return {json.loads(line)["id"] for line in written.splitlines()}


def store(client: FlaskClient, sent: dict[str, str], events: Iterable[dict[str, Any]]) -> None:
    assert client.post("/events", json={"c": [*events]}, headers=sent).status_code == 200


def drawn_filter(chance: random.Random) -> dict[str, Any]:
    """Return up to two conditions on few paths, so that two filters often meet at one."""

    def wanted() -> Any:
        scalar = chance.choice([None, 1, 25, "x", True])
        order = chance.choice(["gt", "gte", "lt", "lte"])
        text = chance.choice(["contains", "startsWith", "endsWith"])
        return chance.choice(
            [scalar, {"neq": scalar}, {"exists": chance.random() < 0.5}, {order: 5}, {text: "x"}, [1, 25]]
        )

    return {chance.choice(["a", "a", "b", "a.b"]): wanted() for _ in range(chance.randint(0, 2))}


# --- what it shows ----------------------------------------------------------------------------------------------


def test_a_filtered_keys_export_is_the_plain_one_less_what_its_filter_does_not_meet(
    client: FlaskClient, stage: Stage, key: str, master: str
) -> None:
    chance = random.Random(7)
    events = [{"id": n, **{name: chance.choice(VALUES) for name in "ab" if chance.random() < 0.8}} for n in range(150)]
    # Some that Postgres cannot look into: Python judges them.
    events += [{"id": 150 + n, "a": chance.choice(VALUES), "odd": "\0"} for n in range(50)]
    store(client, headers(stage, key), events)
    shown_less = 0
    for turn in range(60):
        own, asked = drawn_filter(chance), drawn_filter(chance)
        plain = small(client, headers(stage, key), asked)
        query = parse_query({"filter": own}, now=NOW)
        meant = {event["id"] for event in events if event["id"] in plain and query.matches(json.dumps(event).encode())}
        assert small(client, keyed(stage, own), asked) == meant, (own, asked)
        if turn < 12:
            assert large(client, stage, keyed(stage, own), asked) == meant, (own, asked)
        shown_less += len(meant) < len(plain)
    assert shown_less > 20


@pytest.mark.parametrize(
    ("own", "asked"),
    [({"a": 1}, {"a": 2}), ({"a": {"lt": 2}}, {"a": {"lt": 9}}), ({"a": {"neq": 2}}, {"a": {"neq": 3}})],
)
def test_a_query_of_the_same_path_and_operator_does_not_take_the_keys_place(
    client: FlaskClient, stage: Stage, key: str, master: str, own: Any, asked: Any
) -> None:
    store(client, headers(stage, key), [{"id": n, "a": n} for n in (1, 2, 3)])
    both = {1} if own != {"a": 1} else set()

    assert small(client, keyed(stage, own), asked) == both
    assert large(client, stage, keyed(stage, own), asked) == both


def test_without_filters_it_shows_everything(client: FlaskClient, stage: Stage, key: str, master: str) -> None:
    store(client, headers(stage, key), [{"id": 1}, {"id": 2}])
    for filters in (None, {}):
        assert small(client, keyed(stage, filters)) == large(client, stage, keyed(stage, filters)) == {1, 2}


def test_every_use_case_that_shows_events_shows_those_of_the_key_or_none(
    client: FlaskClient, stage: Stage, key: str
) -> None:
    store(client, headers(stage, key), [{"id": n, "a": n} for n in (1, 2)])
    conditions = parse_query({"filter": {"a": 1}}, now=NOW).conditions
    caller = replace(stage.caller, scopes=frozenset({FILTERED_QUERY}), conditions=conditions)
    desk, exports = CollectionDesk(stage.runtime), stage.export_desk

    (exported,) = exports.small_export(caller, "c", Query(), fill=parse.FILL)
    assert b'"a":1' in exported
    (shown,) = desk.read_events(caller, "c", lambda _: Query()).items
    assert b'"a":1' in shown.payload
    for refused in (
        lambda: exports.list_exports(caller),
        lambda: exports.cancel_export(caller, new_id()),
        lambda: stage.desk.list_imports(caller),
        lambda: desk.list_collections(caller),
        lambda: desk.read_collection(caller, "c"),
        lambda: desk.delete_collection(caller, "c"),
    ):
        with pytest.raises(Refusal) as refusal:
            refused()
        assert refusal.value.code == "forbidden"
        assert FILTERED_QUERY not in refusal.value.public


def test_with_the_keys_conditions_a_query_has_as_many_as_any(
    client: FlaskClient, stage: Stage, key: str, master: str
) -> None:
    store(client, headers(stage, key), [{"id": 1}])
    sent = keyed(stage, {f"n{n}": None for n in range(MAX_CONDITIONS - 1)})

    assert small(client, sent, {"m": None}) == large(client, stage, sent, {"n1": None}) == {1}
    query = {"query": json.dumps({"filter": {"m": None, "n1": None}})}
    refused = client.get("/events/c/export", query_string=query, headers=sent)
    assert (refused.status_code, refused.get_json()["errors"][0]["field"]) == (422, "query.filter")


def test_an_idempotency_key_is_not_answered_with_the_export_of_who_sees_more(
    client: FlaskClient, stage: Stage, key: str, master: str
) -> None:
    store(client, headers(stage, key), [{"id": 1}])
    body = {"s3Path": f"s3://{stage.bucket}/x/", "s3AccessKeyId": "a", "s3SecretAccessKey": "s"}
    senders = [headers(stage, key), keyed(stage, {"a": 1}), keyed(stage, {"a": 2})]
    for n, first in enumerate(senders):
        for second in senders:
            again = {"Idempotency-Key": f"{n}"}
            made = client.post("/events/c/export", json=body, headers={**first, **again})
            repeated = client.post("/events/c/export", json=body, headers={**second, **again})
            assert made.status_code == 201
            assert (repeated.status_code == 201) == (first is second)


def test_the_readmes_own_key_opens_for_any_master_key(client: FlaskClient, stage: Stage, key: str) -> None:
    block = re.search(
        r"(?s)\.\. code-block:: python\n\n(    import hmac.*?)\n    headers", (ROOT / "README.rst").read_text()
    )
    assert block
    makers: dict[str, Any] = {}
    exec(dedent(block[1]), makers)
    store(client, headers(stage, key), [{"id": n, "customer": {"id": n}} for n in (4, 5)])
    for strict, master in ((True, "s" * 32), (False, MASTER)):
        make_master(stage, key=master, strict=strict)
        assert small(client, headers(stage, makers["filtered_key"](master, {"customer.id": 5}))) == {5}


# --- what it opens ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [str.upper, str.lower])
def test_it_may_do_what_it_says_and_never_delete(
    client: FlaskClient, stage: Stage, key: str, master: str, case: Callable[[str], str]
) -> None:
    store(client, headers(stage, key), [{"id": 1}])
    for query in (True, False):
        for push in (True, False):
            sent = headers(stage, case(filtered_key({"filters": None, "canQuery": query, "canPush": push})))
            pushed = client.post("/events/c", json={"id": 1}, headers=sent)
            assert pushed.status_code == (200 if push else 403)
            assert client.get("/events/c/export", headers=sent).status_code == (200 if query else 403)
            assert client.delete("/collections/c", headers=sent).status_code == 403


def test_a_master_key_opens_all_of_its_project_and_its_work_names_it(
    client: FlaskClient, stage: Stage, key: str, master: str
) -> None:
    for shown in (MASTER, filtered_key({"canPush": True})):
        started = client.post(
            "/event-import",
            json={"collection": "i", "s3Path": "s3://bucket/key", "s3AccessKeyId": "a", "s3SecretAccessKey": "s"},
            headers=headers(stage, shown),
        )
        assert stage.status(started.headers["Location"].rpartition("/")[2]).key_id == master
    sent = headers(stage, MASTER)
    store(client, sent, [{"id": 1}])
    assert small(client, sent) == large(client, stage, sent) == {1}
    assert client.delete("/collections/c", headers=sent).status_code == 204
    (row,) = stage.query("SELECT last_used_at FROM api_keys WHERE id = %(id)s", id=master)
    assert row.last_used_at


def test_both_live_master_keys_open_and_a_revoked_one_nothing_any_more(
    client: FlaskClient, stage: Stage, key: str, master: str
) -> None:
    store(client, headers(stage, key), [{"id": 1}])
    other = "b" * 32
    second = make_master(stage, key=other)
    of_first, of_second = ([one, filtered_key(QUERY_OF_ALL, master=one)] for one in (MASTER, other))
    for text in (*of_first, *of_second):
        assert small(client, headers(stage, text)) == {1}
    revoke(stage, master)
    for text in of_first:
        assert refused(client, stage, text)
    for text in of_second:
        assert small(client, headers(stage, text)) == {1}
    revoke(stage, second)
    assert all(refused(client, stage, text) for text in (*of_first, *of_second))
    both = "SELECT sealed FROM master_keys WHERE id IN (%(a)s, %(b)s)"
    assert [row.sealed for row in stage.query(both, a=master, b=second)] == [None, None], "what opens nothing is kept"


def refused(client: FlaskClient, stage: Stage, shown: str) -> bool:
    return client.get("/events/c/export", headers=headers(stage, shown)).status_code == 401


def test_a_strict_master_key_takes_only_what_nobody_can_have_altered(
    client: FlaskClient, stage: Stage, key: str
) -> None:
    store(client, headers(stage, key), [{"id": 1}])
    make_master(stage, strict=True)

    assert small(client, headers(stage, strict_key(QUERY_OF_ALL))) == {1}
    assert small(client, headers(stage, MASTER)) == {1}
    assert refused(client, stage, filtered_key(QUERY_OF_ALL))


def test_no_other_wire_knows_them(client: FlaskClient, stage: Stage, master: str) -> None:
    for shown in (MASTER, filtered_key(QUERY_OF_ALL)):
        answer = client.get("/api/imports", headers={**headers(stage, shown), "Authorization": f"Bearer {shown}"})
        assert answer.status_code == 401


def test_a_wire_takes_them_only_where_it_says_so(client: FlaskClient, stage: Stage, master: str) -> None:
    known: callers.Callers = client.application.extensions["penstock-callers"]
    for shown in (MASTER, filtered_key(QUERY_OF_ALL)):
        place = {"address": "10.2.0.1", "project": stage.caller.project_id}
        assert known.identify(shown, **place, takes_master_keys=True).key_id == master
        with pytest.raises(Refusal, match="wrong"):
            known.identify(shown, **place)
        with pytest.raises(Refusal, match="wrong"):
            known.identify(shown, address="10.2.0.1", takes_master_keys=True)


def test_what_asks_for_queries_alone_does_not_open_to_a_key_with_conditions(
    client: FlaskClient, stage: Stage, master: str
) -> None:
    known: callers.Callers = client.application.extensions["penstock-callers"]
    place = {"address": "10.2.0.1", "project": stage.caller.project_id}
    for filters, opens in (({"a": 1}, False), ({}, True)):
        shown = filtered_key({"filters": filters, "canQuery": True})
        caller = known.identify(shown, **place, takes_master_keys=True)
        assert bool(caller.scopes & {QUERY}) == opens
        assert caller.narrow(Query()) == parse_query({"filter": filters}, now=NOW)


# --- all faults are one -----------------------------------------------------------------------------------------


def with_last_byte(key: str, byte: int) -> str:
    return f"{key[:-2]}{int(key[-2:], 16) ^ byte:02X}"


FAULTS: dict[str, Callable[[], str]] = {
    "empty": lambda: "",
    "no hex": lambda: filtered_key(QUERY_OF_ALL).replace("0", "G").replace("1", "G") + "GG",
    "half a byte": lambda: filtered_key(QUERY_OF_ALL)[:-1],
    "no whole block": lambda: filtered_key(QUERY_OF_ALL)[:-2],
    "a block less": lambda: filtered_key(QUERY_OF_ALL)[:-32],
    "no ciphertext": lambda: filtered_key(QUERY_OF_ALL).partition("-")[0] + "-",
    "a short IV": lambda: filtered_key(QUERY_OF_ALL)[2:],
    "too long": lambda: filtered_key({**QUERY_OF_ALL, "filters": {"a": "x" * 4096}}),
    "no padding": lambda: encrypted(b'{"canPush": true' + b" " * 15 + b"}", pad=False),
    "another padding": lambda: with_last_byte(filtered_key(QUERY_OF_ALL), 1),
    "no JSON": lambda: encrypted(b"canQuery"),
    "no UTF-8": lambda: encrypted(b'{"filters":{"\xff":1},"canQuery":true}'),
    "deep JSON": lambda: encrypted(b'{"filters":{"a":' + b"[" * 2000),
    "two filters": lambda: encrypted(b'{"filters":{"a":1},"filters":null,"canQuery":true}'),
    "a query without a filter": lambda: filtered_key({"canQuery": True}),
    "an unknown member": lambda: filtered_key({**QUERY_OF_ALL, "canDelete": True}),
    "no bool": lambda: filtered_key({**QUERY_OF_ALL, "canQuery": "true"}),
    "no filter": lambda: filtered_key({**QUERY_OF_ALL, "filters": {"a": {"like": "x"}}}),
    "a filter of ids": lambda: filtered_key({**QUERY_OF_ALL, "filters": {"id": 1}}),
    "another master key": lambda: filtered_key(QUERY_OF_ALL, master="b" * 32),
    "another project's": lambda: filtered_key(QUERY_OF_ALL, master="c" * 32),
    "another project's master key": lambda: "c" * 32,
    "a revoked one's": lambda: filtered_key(QUERY_OF_ALL, master="d" * 32),
    "a revoked master key": lambda: "d" * 32,
    "none's": lambda: "e" * 32,
}


def test_every_fault_is_answered_with_the_same_bytes_and_counts_as_a_failure(
    client: FlaskClient, stage: Stage, key: str, master: str
) -> None:
    other = Stage(stage.settings, stage.bucket)
    make_master(other, key="c" * 32)
    revoke(stage, make_master(stage, key="d" * 32))
    store(client, headers(stage, key), [{"id": 1}])
    good = headers(stage, filtered_key(QUERY_OF_ALL))
    assert small(client, good) == {1}
    wrong_projects = [other.caller.project_id, "0" * 32, "nonsense", ""]
    faults = {name: headers(stage, fault()) for name, fault in FAULTS.items()}
    faults |= {f"beside {project}": {**good, "X-Project-Id": project} for project in wrong_projects}
    faults |= {f"master beside {one}": {"X-API-Key": MASTER, "X-Project-Id": one} for one in wrong_projects}
    expected: tuple[Any, ...] | None = None
    for n, (name, sent) in enumerate(faults.items()):
        address = {"REMOTE_ADDR": f"10.1.0.{n}"}
        answer = client.get("/events/c/export", headers=sent, environ_overrides=address)
        said = (answer.status_code, answer.data, sorted(set(answer.headers) - request_ids(answer)))
        expected = expected or said
        assert said == expected, name
        assert failures(stage, address["REMOTE_ADDR"]) == 1, name
    assert expected
    assert expected[0] == 401
    other.close()


def request_ids(answer: TestResponse) -> set[tuple[str, str]]:
    return {("X-Request-Id", answer.headers["X-Request-Id"])}


def failures(stage: Stage, address: str) -> int:
    with redis.Redis.from_url(stage.settings.redis_url) as live:
        return int(live.hget("penstock:failures", address) or 0)  # type: ignore[arg-type]


def test_every_key_that_is_spelt_as_one_is_tried_as_often(
    client: FlaskClient, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    opener = callers.open_filtered_key

    def open_and_note(shown: Any, master: Any) -> Any:
        tried.append(master.key)
        return opener(shown, master)

    monkeypatch.setattr(callers, "open_filtered_key", open_and_note)
    texts = [
        filtered_key(QUERY_OF_ALL),
        with_last_byte(filtered_key(QUERY_OF_ALL), 1),
        encrypted(b"x"),
        "0" * 32 + "-" + "0" * 32,
    ]
    for masters in range(3):
        if masters:
            make_master(stage, key=None if masters > 1 else MASTER)
        for text in texts:
            for sent in (headers(stage, text), {**headers(stage, text), "X-Project-Id": "nonsense"}):
                tried.clear()
                client.get("/events/c/export", headers=sent)
                assert len(tried) == 2


def test_nobody_opens_what_has_a_master_key_that_cannot_be_read(client: FlaskClient, stage: Stage, master: str) -> None:
    stage.query("UPDATE master_keys SET sealed = 'x' WHERE id = %(id)s RETURNING id", id=master)
    nobody = callers._NO_MASTER.key

    for text in (MASTER, filtered_key(QUERY_OF_ALL), nobody, strict_key(QUERY_OF_ALL, master=nobody)):
        assert refused(client, stage, text)


def test_an_address_with_too_many_wrong_ones_waits_and_who_opened_before_does_not(
    client: FlaskClient, stage: Stage, key: str, master: str
) -> None:
    store(client, headers(stage, key), [{"id": 1}])
    good, unseen = filtered_key(QUERY_OF_ALL), filtered_key(QUERY_OF_ALL)
    assert small(client, headers(stage, good)) == {1}
    answers = [
        client.get("/events/c/export", headers=headers(stage, with_last_byte(good, n % 255 + 1))) for n in range(101)
    ]

    assert [answer.status_code for answer in answers] == [401] * 100 + [429]
    assert small(client, headers(stage, good)) == {1}
    assert client.get("/events/c/export", headers=headers(stage, unseen)).status_code == 429


def test_what_is_remembered_of_them_tells_nothing(client: FlaskClient, stage: Stage, key: str, master: str) -> None:
    store(client, headers(stage, key), [{"id": 1}])
    with redis.Redis.from_url(stage.settings.redis_url) as live:
        before = set(live.keys("penstock:opened:*"))  # type: ignore[arg-type]
        shown = filtered_key({"filters": {"CANARY": None}, "canQuery": True})
        assert small(client, headers(stage, shown)) == small(client, headers(stage, MASTER)) == {1}
        (mark,) = set(live.keys("penstock:opened:*")) - before  # type: ignore[arg-type]  # the master key's
        memory = repr(client.application.extensions["penstock-callers"]._marked)
        for secret in (
            MASTER,
            shown,
            shown[:32],
            "CANARY",
            bytes.fromhex(shown[:32]).hex(),
            b64encode(MASTER.encode()).decode(),
        ):
            assert secret.lower() not in f"{mark!r} {live.get(mark)!r} {memory}".lower()


def test_no_log_tells_of_them(
    client: FlaskClient, stage: Stage, key: str, master: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store(client, headers(stage, key), [{"id": 1}])
    shown = filtered_key({"filters": {"CANARY": None}, "canQuery": True})
    small(client, headers(stage, shown))
    refused(client, stage, with_last_byte(shown, 1))
    said = capsys.readouterr().err
    for secret in (MASTER, shown, "CANARY"):
        assert secret not in said
