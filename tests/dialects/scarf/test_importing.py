"""Scarf's wire: bodies of events, and what becomes of their lines."""

from __future__ import annotations

import gzip
import io
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.app import create_app
from api.callers import QUERY, create_key
from api.scarf import parse
from common.ledger import registry
from common.settings import Settings
from tests.dialects.scarf import seed
from tests.stage import Stage, ndjson
from workers.imports.plan import plan_import

PIXEL = "7d2f1c2e-0000-4000-8000-00000000000b"
DAY = "2024-06-04T00:00:00Z"
EVENT_IMPORT = list(json.loads(seed.STARTED))


@pytest.fixture
def artifacts(stage: Stage) -> None:
    """The sample's package, and a pixel."""
    register(stage, parse.PACKAGE, seed.PACKAGE)
    register(stage, parse.PIXEL, PIXEL)


def register(stage: Stage, kind: str, artifact: str) -> None:
    with stage.runtime.database.transaction() as tx:
        assert registry.register(tx, stage.caller.project_id, kind, artifact)


def send(
    client: FlaskClient, stage: Stage, key: str | None, body: bytes = seed.FILE, door: str = "{owner}", **headers: str
) -> TestResponse:
    """Send a body as the document's script does, but for what is asked otherwise."""
    bearer = {"Authorization": f"Bearer {key}"} if key else {}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    path = f"/v2/{door.format(owner=stage.caller.project_id)}/import"
    return client.post(path, data=body, headers={"Content-Type": "application/json", **bearer, **given})


def ask(client: FlaskClient, stage: Stage, key: str, path: str, *, method: str = "GET", **more: Any) -> TestResponse:
    path = f"/v2/imports/{stage.caller.project_id}{path}"
    return client.open(path, method=method, headers={"Authorization": f"Bearer {key}"}, **more)


def finish(stage: Stage, document: dict[str, Any]) -> None:
    """Load the import, every chunk in order."""
    import_id = UUID(document["id"]).hex
    plan_import(stage.runtime, import_id)
    stage.load_all(import_id)


def imported(client: FlaskClient, stage: Stage, key: str, body: bytes, door: str = "{owner}") -> dict[str, Any]:
    """Import a body and return what became of it."""
    started = send(client, stage, key, body, door)
    assert started.status_code == 200, started.text
    finish(stage, started.get_json())
    document: dict[str, Any] = ask(client, stage, key, f"/{started.get_json()['id']}").get_json()
    assert list(document) == EVENT_IMPORT
    return document


def counts(document: dict[str, Any]) -> tuple[int, int, int]:
    """Total, imported, failed."""
    return tuple(  # type: ignore[return-value]
        document[name] for name in ("events_total", "events_successfully_imported", "events_failed_to_import")
    )


def log_of(client: FlaskClient, stage: Stage, key: str, document: dict[str, Any]) -> list[dict[str, Any]]:
    answer = ask(client, stage, key, f"/{document['id']}/log")
    assert (answer.status_code, answer.mimetype) == (200, "application/x-ndjson")
    assert answer.data.endswith(b"\n")
    return [json.loads(line) for line in answer.data.splitlines()]


def event(**members: Any) -> dict[str, Any]:
    """Return an event of the sample's package; a member's name goes without its dollar."""
    given = {"package": seed.PACKAGE, "time": DAY, **members}
    return {f"${name}": value for name, value in given.items() if value is not ...}


@contextmanager
def door(settings: Settings, stage: Stage, **changes: Any) -> Iterator[FlaskClient]:
    """An app of its own settings."""
    app = create_app(replace(settings, **changes))
    app.extensions["penstock"].dispatch = stage.sent
    yield app.test_client()
    app.extensions["penstock"].database.close()


@pytest.mark.usefixtures("artifacts")
def test_the_documents_script_imports_the_documents_file(client: FlaskClient, stage: Stage, key: str) -> None:
    """Its first address is impossible, and so are the others: nobody looks at them."""
    words = shlex.split(
        seed.SCRIPT.split("\n\n")[1].replace("{token}", key).replace("{owner}", stage.caller.project_id)
    )
    headers = dict(words[at + 1].split(": ") for at, word in enumerate(words) if word == "-H")
    (url,) = (word for word in words if word.startswith("https:"))
    started = client.open(
        url.removeprefix("https://api.scarf.sh"),
        method=words[words.index("-X") + 1],
        data=seed.FILE,
        headers=headers,
    )
    assert (started.status_code, started.mimetype) == (200, "application/json")
    document = started.get_json()
    expected = json.loads(seed.STARTED)
    assert {**document, "id": 0, "owner": 0} == {
        **expected, "id": 0, "owner": 0, "created_at": document["created_at"], "updated_at": document["created_at"],
    }  # fmt: skip
    assert list(document) == list(expected), "the order of the members"
    assert document["owner"] == stage.caller.project_id
    assert stage.sent.plans == [UUID(document["id"]).hex]
    assert str(UUID(document["id"])) == document["id"]

    finish(stage, document)
    ended = ask(client, stage, key, f"/{document['id']}").get_json()
    assert (ended["status"], counts(ended)) == ("done", (3, 3, 0))
    assert ended["created_at"] == document["created_at"] < ended["updated_at"]
    assert [row.payload for row in stage.rows(parse.COLLECTION)] == seed.FILE.splitlines()


@pytest.mark.parametrize("kind", ["application/json", "application/ndjson", "application/x-ndjson", "", "text/csv",
                                  "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])  # fmt: skip
@pytest.mark.usefixtures("artifacts")
def test_the_type_of_a_body_says_nothing(client: FlaskClient, stage: Stage, key: str, kind: str) -> None:
    started = send(client, stage, key, seed.FILE, Content_Type=kind)
    assert started.status_code == 200, started.text
    finish(stage, started.get_json())
    assert counts(ask(client, stage, key, f"/{started.get_json()['id']}").get_json()) == (3, 3, 0)


@pytest.mark.usefixtures("artifacts")
def test_a_body_may_be_compressed_and_come_without_length_or_last_line_break(
    client: FlaskClient, stage: Stage, key: str
) -> None:
    bodies = [
        ({"Content-Encoding": "gzip"}, gzip.compress(ndjson(event(unique_id="a")))),
        ({"Transfer-Encoding": "chunked"}, ndjson(event(unique_id="b")).rstrip()),
        ({}, ndjson(event(unique_id="c"), b"", b" \r").rstrip(b"\n")),
    ]
    for headers, body in bodies:
        started = client.post(
            f"/v2/{stage.caller.project_id}/import",
            input_stream=io.BytesIO(body),
            headers={"Authorization": f"Bearer {key}", **headers},
            environ_overrides={"wsgi.input_terminated": True},
        )
        assert started.status_code == 200, started.text
        finish(stage, started.get_json())
        assert counts(ask(client, stage, key, f"/{started.get_json()['id']}").get_json()) == (1, 1, 0)
    assert len(stage.rows(parse.COLLECTION)) == 3


def test_a_body_without_a_line_is_an_import_of_none(client: FlaskClient, stage: Stage, key: str) -> None:
    for body in (b"", b"\n \r\n"):
        document = imported(client, stage, key, body)
        assert (document["status"], counts(document)) == ("done", (0, 0, 0))
        (last,) = log_of(client, stage, key, document)
        assert (last["type"], last["class"], last["events_count"]) == ("progress", "info", 0)


@pytest.mark.usefixtures("artifacts")
def test_of_one_unique_id_the_first_event_is_kept_and_the_others_are_neither_imported_nor_failed(
    client: FlaskClient, stage: Stage, key: str
) -> None:
    body = ndjson(
        event(unique_id="a", version="1"),
        event(unique_id="a", version="2"),
        event(),
        event(unique_id=None),
        event(unique_id="a", version="3"),
    )
    assert counts(imported(client, stage, key, body)) == (5, 3, 0)
    assert counts(imported(client, stage, key, ndjson(event(unique_id="a", version="4")))) == (1, 0, 0)
    kept = [json.loads(row.payload) for row in stage.rows(parse.COLLECTION)]
    assert [one["$version"] for one in kept if one.get("$unique_id") == "a"] == ["1"]
    assert len(kept) == 3


#: Lines that are taken, however odd.
TAKEN = {
    "null in optional members": event(unique_id=None, version=None, user_agent=None, headers=None, tracking_pixel=None),
    "impossible addresses": event(remote_address="999.1.1"),
    "headers, variables of one's own": {**event(headers=[{"name": "a", "value": "b"}]), "plan": {"tier": ["pro"]}},
    "an event of long ago": event(time="1999-01-01T00:00:00Z"),
    "seconds": event(time=1717459200),
    "a pixel": event(package=..., tracking_pixel=PIXEL),
    "a pixel by the name of the vendor's prose": event(package=..., pixel=PIXEL),
    "both": event(tracking_pixel=PIXEL),
    "letters of the other case": event(package=seed.PACKAGE.upper()),
}


@pytest.mark.usefixtures("artifacts")
def test_odd_events_are_taken(client: FlaskClient, stage: Stage, key: str) -> None:
    document = imported(client, stage, key, ndjson(*TAKEN.values()))
    assert log_of(client, stage, key, document)[:-1] == [], list(TAKEN)
    assert counts(document) == (len(TAKEN), len(TAKEN), 0)
    assert (document["error_log_sample"], document["warning_log_sample"]) == ([], [])
    assert [row.payload for row in stage.rows(parse.COLLECTION)] == [json.dumps(one).encode() for one in TAKEN.values()]


NOBODYS = "9a1c7c0e-5a0b-4d3e-8f39-1f0d2a6b7c88"
#: Lines that are not: what the log says of each, and its message where that is the vendor's.
REFUSED: dict[str, tuple[dict[str, Any] | bytes, str, dict[str, str]]] = {
    "no JSON": (b"{bad", "failed-to-decode", {"human_friendly_message": "Not a valid JSON object"}),
    "no object": (b"[1]", "failed-to-decode", {"human_friendly_message": "Not a valid JSON object"}),
    "no time": (event(time=...), "failed-to-decode", {}),
    "null for a time": (event(time=None), "failed-to-decode", {}),
    "a time that is none": (event(time="yesterday"), "failed-to-decode", {}),
    "an empty id": (event(unique_id=""), "failed-to-decode", {}),
    "no artifact": (event(package=...), "artifact-not-found", {}),
    "null for an artifact": (event(package=None), "artifact-not-found", {}),
    "a number for an artifact": (event(package=7), "artifact-not-found", {}),
    "an unknown package": (event(package=NOBODYS), "artifact-not-found", {"package_id": NOBODYS}),
    "a pixel as a package": (event(package=PIXEL), "artifact-not-found", {"package_id": PIXEL}),
    "an unknown pixel": (event(package=..., pixel=NOBODYS), "artifact-not-found", {"tracking_pixel_id": NOBODYS}),
    "a known package, an unknown pixel": (
        event(tracking_pixel=NOBODYS),
        "artifact-not-found",
        {"package_id": seed.PACKAGE, "tracking_pixel_id": NOBODYS},
    ),
    "no id at all": (event(package="x" * 500), "artifact-not-found", {"package_id": "x" * 64}),
}


@pytest.mark.usefixtures("artifacts")
def test_bad_events_are_refused_and_the_log_says_of_each_where_and_why(
    client: FlaskClient, stage: Stage, key: str
) -> None:
    body = ndjson(event(), b"", *(line for line, _, _ in REFUSED.values()), event())
    document = imported(client, stage, key, body)
    assert (document["status"], counts(document)) == ("done", (len(REFUSED) + 2, 2, len(REFUSED)))
    *entries, progress = log_of(client, stage, key, document)

    assert [entry["line"] for entry in entries] == [*range(3, len(REFUSED) + 3)], "the first line is 1"
    for (name, (_, kind, told)), entry in zip(REFUSED.items(), entries, strict=True):
        assert entry["type"] == kind, name
        assert entry["class"] == ("warning" if kind == "artifact-not-found" else "error"), name
        assert set(entry) == {"type", "class", "line", "human_friendly_message", *told}, name
        assert {**entry, **told} == entry, name
        assert entry["human_friendly_message"], name
        assert all(artifact in entry["human_friendly_message"] for artifact in told.values()), name
    for sample, kind in (("error_log_sample", "error"), ("warning_log_sample", "warning")):
        assert document[sample] == [entry for entry in entries if entry["class"] == kind]
    assert (progress["type"], progress["class"], progress["line"]) == ("progress", "info", len(REFUSED) + 3)
    assert (progress["events_count"], progress["failed_events_count"]) == (len(REFUSED) + 2, len(REFUSED))


def test_the_vendors_entry_of_a_bad_line(client: FlaskClient, stage: Stage, key: str) -> None:
    document = imported(client, stage, key, b"nonsense")
    assert log_of(client, stage, key, document)[0] == json.loads(seed.BAD_LINE)
    assert document["error_log_sample"] == [json.loads(seed.BAD_LINE)]


@pytest.mark.usefixtures("artifacts")
@pytest.mark.parametrize("junk", [b"a,b\n1,2", b"[]\n[]", b"<html>\n</html>", b"\n".join([b"junk junk junk"] * 5_000)])
def test_a_body_that_begins_with_bad_lines_loses_none_of_the_good_ones(
    client: FlaskClient, stage: Stage, key: str, junk: bytes
) -> None:
    bad = junk.count(b"\n") + 1

    document = imported(client, stage, key, junk + b"\n" + ndjson(event()))

    assert (document["status"], counts(document)) == ("done", (bad + 1, 1, bad))
    assert [entry["line"] for entry in log_of(client, stage, key, document)[:-1]] == [*range(1, bad + 1)]


# --- the doors of an artifact


@pytest.mark.parametrize(
    ("path", "member", "artifact"),
    [("packages/{owner}/%s", "$package", seed.PACKAGE), ("tracking-pixels/{owner}/%s", "$tracking_pixel", PIXEL)],
)
@pytest.mark.usefixtures("artifacts")
def test_the_artifact_of_the_path_is_that_of_events_that_name_none(
    client: FlaskClient, stage: Stage, key: str, path: str, member: str, artifact: str
) -> None:
    other = str(uuid4())
    register(stage, parse.PACKAGE, other)
    register(stage, parse.PIXEL, other)
    lines = [{"$time": DAY, "n": 1}, {"$time": DAY, member: None}, {"$time": DAY, member: other}]
    document = imported(client, stage, key, ndjson(*lines), path % artifact.upper())

    assert counts(document) == (3, 3, 0), document
    kept = [json.loads(row.payload)[member] for row in stage.rows(parse.COLLECTION)]
    assert kept == [artifact, artifact, other]


@pytest.mark.usefixtures("artifacts")
def test_a_pixel_by_the_name_of_the_vendors_prose_is_not_overruled_by_that_of_the_path(
    client: FlaskClient, stage: Stage, key: str
) -> None:
    other = str(uuid4())
    register(stage, parse.PIXEL, other)
    lines = [event(package=..., pixel=other), event(package=..., pixel=NOBODYS), event(package=..., pixel=None)]
    document = imported(client, stage, key, ndjson(*lines), f"tracking-pixels/{{owner}}/{PIXEL}")

    assert counts(document) == (3, 2, 1)
    assert [entry["tracking_pixel_id"] for entry in document["warning_log_sample"]] == [NOBODYS]
    first, last = (json.loads(row.payload) for row in stage.rows(parse.COLLECTION))
    assert first == lines[0]
    assert last == {**lines[2], "$tracking_pixel": PIXEL}


@pytest.mark.parametrize("path", ["packages/{owner}/%s", "tracking-pixels/{owner}/%s"])
@pytest.mark.parametrize("artifact", [NOBODYS, "nonsense", "0" * 300, "%00", "%ed%a0%80", "' OR 1=1 --"])
def test_an_unknown_artifact_in_the_path_is_not_found(
    client: FlaskClient, stage: Stage, key: str, path: str, artifact: str
) -> None:
    answer = send(client, stage, key, seed.FILE, path.replace("%s", artifact))
    assert (answer.status_code, answer.get_json()["code"]) == (404, "not-found")
    assert stage.desk.list_imports(stage.caller).items == []


def test_a_package_of_another_project_is_not_found(client: FlaskClient, stage: Stage, key: str) -> None:
    other = Stage(stage.settings, stage.bucket)
    register(other, parse.PACKAGE, seed.PACKAGE)
    register(stage, parse.PIXEL, seed.PACKAGE)
    assert send(client, stage, key, door=f"packages/{{owner}}/{seed.PACKAGE}").status_code == 404
    assert counts(imported(client, stage, key, seed.FILE)) == (3, 0, 3)
    other.close()


def test_where_unknown_artifacts_are_registered_a_path_does_it_too(settings: Settings, stage: Stage, key: str) -> None:
    with door(settings, stage, register_unknown=True) as client:
        assert send(client, stage, key, door=f"packages/{{owner}}/{NOBODYS.upper()}").status_code == 200
        assert send(client, stage, key, door="packages/{owner}/nonsense").status_code == 404
    with stage.runtime.database.transaction() as tx:
        assert registry.read_registered(tx, stage.caller.project_id) == {(parse.PACKAGE, NOBODYS)}


def test_artifacts_are_made_and_listed_by_their_kind(client: FlaskClient, stage: Stage, key: str) -> None:
    other = Stage(stage.settings, stage.bucket)
    register(other, parse.PACKAGE, seed.PACKAGE)
    other.close()
    headers, made = {"Authorization": f"Bearer {key}"}, {}
    for path, name in (("packages", "a"), ("tracking-pixels", "b")):
        there = f"/v2/{path}/{stage.caller.project_id}"
        answer = client.post(there, json={"name": name}, headers=headers)
        assert answer.status_code == 201
        made[path] = answer.get_json()
        assert client.get(there, headers=headers).get_json() == {"results": [made[path]]}
    assert made["packages"] != made["tracking-pixels"]

    body = ndjson(event(package=made["packages"]["id"]), event(package=made["tracking-pixels"]["id"]))
    assert counts(imported(client, stage, key, body)) == (2, 1, 1)


def test_a_request_for_an_artifact_repeated_with_its_key_makes_no_other(
    client: FlaskClient, stage: Stage, key: str
) -> None:
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "once"}
    first, again = (client.post(f"/v2/packages/{stage.caller.project_id}", json={}, headers=headers) for _ in range(2))
    pixel = client.post(f"/v2/tracking-pixels/{stage.caller.project_id}", json={}, headers=headers)

    assert (first.status_code, "Idempotent-Replayed" in first.headers) == (201, False)
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (201, "true")
    assert first.get_json() == again.get_json() != pixel.get_json()
    with stage.runtime.database.transaction() as tx:
        assert len(registry.read_registered(tx, stage.caller.project_id)) == 2


# --- refusals


@pytest.mark.usefixtures("artifacts")
def test_one_import_too_many_is_told_in_the_documents_words(client: FlaskClient, stage: Stage, key: str) -> None:
    """The number is the service's own: 15, as in the document."""
    for _ in range(15):
        assert send(client, stage, key).status_code == 200
    refused = send(client, stage, key)
    assert (refused.status_code, refused.get_json()) == (
        422,
        {"code": "too-many-active-imports", "message": seed.TOO_MANY},
    )
    assert int(refused.headers["Retry-After"]) > 0

    (first, *_) = stage.sent.plans
    assert ask(client, stage, key, f"/{UUID(first)}/abort", method="POST").status_code == 204
    assert send(client, stage, key).status_code == 200


def test_the_owner_is_the_project_by_its_name_or_its_id_and_nobody_else(
    client: FlaskClient, stage: Stage, key: str
) -> None:
    other = Stage(stage.settings, stage.bucket)
    (row,) = stage.query("SELECT name FROM projects WHERE id = %(id)s", id=stage.caller.project_id)
    own = stage.caller.project_id
    for owner, status in (
        (row.name, 200), (own, 200), (str(UUID(own)), 200), (own.upper(), 200),
        (other.caller.project_id, 404), (row.name + "x", 404), ("%00", 404), ("%ff", 404), ("x" * 3000, 404),
    ):  # fmt: skip
        listed = client.get(f"/v2/imports/{owner}", headers={"Authorization": f"Bearer {key}"})
        assert listed.status_code == status, owner
        if status == 404:
            assert set(listed.get_json()) == {"code", "message"}
            assert listed.get_json()["code"] == "not-found"
    started = client.post(f"/v2/{row.name}/import", headers={"Authorization": f"Bearer {key}"})
    assert started.get_json()["owner"] == row.name
    other.close()


def test_strangers_get_401_and_a_key_that_may_only_query_403(client: FlaskClient, stage: Stage) -> None:
    with stage.runtime.database.transaction() as tx:
        reader = create_key(tx, stage.caller.project_id, [QUERY])
    for key, status, code in ((None, 401, "unauthenticated"), ("nonsense", 401, "unauthenticated"),
                              (reader, 403, "forbidden")):  # fmt: skip
        answer = send(client, stage, key)
        assert (answer.status_code, answer.get_json()["code"]) == (status, code)
        assert set(answer.get_json()) == {"code", "message"}
        assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    assert stage.desk.list_imports(stage.caller).items == []


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Content_Encoding": "br"}, 415, "unsupported-encoding"),
        ({"Idempotency_Key": "x" * 256}, 400, "invalid-idempotency-key"),
        ({"Host": "no host"}, 400, "malformed-host"),
    ],
)
def test_a_request_that_is_refused_starts_nothing(
    client: FlaskClient, stage: Stage, key: str, headers: dict[str, str], status: int, code: str
) -> None:
    answer = send(client, stage, key, **headers)
    assert (answer.status_code, answer.get_json()["code"]) == (status, code)
    assert set(answer.get_json()) == {"code", "message"}
    assert stage.desk.list_imports(stage.caller).items == []


def test_a_body_too_large_is_refused_before_it_is_read(settings: Settings, stage: Stage, key: str) -> None:
    with door(settings, stage, max_body_bytes=len(seed.FILE) - 1) as client:
        answer = send(client, stage, key)
    assert (answer.status_code, answer.get_json()["code"]) == (413, "body-too-large")


@pytest.mark.usefixtures("artifacts")
def test_a_request_repeated_with_its_key_is_the_same_import(client: FlaskClient, stage: Stage, key: str) -> None:
    """No part of the document; a caller that sends no such header never meets it."""
    first, again = (send(client, stage, key, Idempotency_Key="once") for _ in range(2))
    other = send(client, stage, key, door=f"packages/{{owner}}/{seed.PACKAGE}", Idempotency_Key="once")

    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (200, "true")
    assert again.get_json() == first.get_json()
    assert (other.status_code, other.get_json()["code"]) == (422, "idempotency-key-reused")
    assert len(stage.sent.plans) == 1


def test_unknown_paths_and_methods_answer_in_scarfs_form(client: FlaskClient) -> None:
    for path, method, status in (
        ("/v2/nowhere/at/all/to/be/found", "GET", 404),
        ("/v2/", "GET", 404),
        ("/v2/acme/import/", "POST", 404),
        ("/v2//import", "POST", 404),
        ("/v2/acme/import", "DELETE", 405),
        ("/v2/imports/acme/1/abort", "GET", 405),
    ):
        answer = client.open(path, method=method)
        assert (answer.status_code, answer.mimetype) == (status, "application/json"), path
        assert set(answer.get_json()) == {"code", "message"}
        assert answer.get_json()["code"] == ("not-found" if status == 404 else "method-not-allowed")
        assert (status == 405) == ("Allow" in answer.headers)


def test_owners_named_as_the_parts_of_paths_are_served(client: FlaskClient, stage: Stage) -> None:
    for name in ("imports", "import", "v2"):
        owned = Stage(stage.settings, stage.bucket)
        with owned.runtime.database.transaction() as tx:
            tx.run("UPDATE projects SET name = %(name)s WHERE id = %(id)s", name=name, id=owned.caller.project_id)
            key = create_key(tx, owned.caller.project_id, ["push"])
        headers = {"Authorization": f"Bearer {key}"}
        started = client.post(f"/v2/{name}/import", headers=headers)
        listed = client.get(f"/v2/imports/{name}", headers=headers)
        assert (started.status_code, listed.status_code) == (200, 200), name
        assert [one["id"] for one in listed.get_json()["event_imports"]] == [started.get_json()["id"]]
        owned.query(
            "UPDATE projects SET name = %(id)s::text WHERE id = %(id)s RETURNING id", id=owned.caller.project_id
        )
        owned.close()
