"""Every route against every kind of caller. The routes are the app's own: one without an entry here fails."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask.testing import FlaskClient

from api import connect, nexosis, pinpoint
from api.callers import ADMIN, ALL_SCOPES, PUSH, QUERY, create_key, create_master_key
from api.pinpoint import parse
from api.pushing import PushDesk
from common.ledger.registry import register
from common.model.segments import SegmentSpec
from tests.dialects.connect import seed
from tests.keys import filtered_key
from tests.stage import Stage, event, ndjson

pytestmark = pytest.mark.usefixtures("a_long_minute")

#: Routes that ask nobody who they are: they tell nothing of anybody's.
OPEN = {"GET /healthz", "GET /readyz", "GET /api/openapi.json"}


@dataclass(frozen=True)
class Entry:
    """What a route answers."""

    #: Scopes that open it, beside admin, which opens all.
    scopes: set[str]
    right: int
    #: To the key of another project, which asks with the same path.
    elsewhere: int
    body: bytes = b""


NATIVE_REQUEST = (
    b"""{"collection": "c", "source": {"url": "s3://bucket/key", "accessKeyId": "a", "secretAccessKey": "s"}}"""
)
EXPORT_REQUEST = b"""{"collection": "canary",
    "destination": {"url": "s3://bucket/there/", "accessKeyId": "a", "secretAccessKey": "s"}}"""
S3_EXPORT = b"""{"query": {}, "s3Path": "s3://bucket/there/", "s3AccessKeyId": "a", "s3SecretAccessKey": "s"}"""
ROLE = b'"RoleArn": "arn:aws:iam::123456789012:role/r"'
IMPORT_JOB = b'{"S3Url": "s3://bucket/key", "Format": "JSON", %s}' % ROLE
EXPORT_JOB = b'{"S3UrlPrefix": "s3://bucket/there", %s}' % ROLE
ENDPOINT = b'{"Id": "canary", "ChannelType": "SMS", "Address": "1", "User": {"UserId": "canary"}}'
S3_IMPORT = b'{"dataSetName": "c", "bucket": "bucket", "path": "key"}'
READ, WRITE, OUT, OWN = {PUSH, QUERY}, {PUSH}, {QUERY}, set[str]()
ENTRIES = {
    "POST /event-import": Entry(WRITE, 201, 201, seed.REQUEST.encode()),
    "GET /event-import/<import_id>": Entry(READ, 200, 404),
    "POST /events/<collection>": Entry(WRITE, 200, 200, b'{"a": 1}'),
    "POST /events": Entry(WRITE, 200, 200, b'{"pushed": [{"a": 1}]}'),
    "POST /events/": Entry(WRITE, 200, 200, b'{"pushed": [{"a": 1}]}'),
    "GET /events/<collection>/export": Entry(OUT, 200, 404),
    "POST /events/<collection>/export": Entry(OUT, 201, 404, S3_EXPORT),
    "GET /events/<collection>/export/<export_id>": Entry(OUT, 200, 404),
    "DELETE /collections/<collection>": Entry(OWN, 204, 404),
    "POST /v2/<owner>/import": Entry(WRITE, 200, 404, b"{}"),
    "POST /v2/packages/<owner>/<package_id>/import": Entry(WRITE, 200, 404, b"{}"),
    "POST /v2/tracking-pixels/<owner>/<tracking_pixel_id>/import": Entry(WRITE, 200, 404, b"{}"),
    "GET /v2/imports/<owner>": Entry(READ, 200, 404),
    "GET /v2/imports/<owner>/<import_id>": Entry(READ, 200, 404),
    "GET /v2/imports/<owner>/<import_id>/log": Entry(READ, 200, 404),
    "POST /v2/imports/<owner>/<import_id>/abort": Entry(WRITE, 204, 404),
    "GET /v2/packages/<owner>": Entry(READ, 200, 404),
    "POST /v2/packages/<owner>": Entry(WRITE, 201, 404, b"{}"),
    "GET /v2/tracking-pixels/<owner>": Entry(READ, 200, 404),
    "POST /v2/tracking-pixels/<owner>": Entry(WRITE, 201, 404, b"{}"),
    "POST /v1/apps": Entry(WRITE, 201, 201, b'{"Name": "shop"}'),
    "GET /v1/apps": Entry(READ, 200, 200),
    "GET /v1/apps/<app_id>": Entry(READ, 200, 404),
    "POST /v1/apps/<app_id>/jobs/import": Entry(WRITE, 201, 404, IMPORT_JOB),
    "GET /v1/apps/<app_id>/jobs/import": Entry(READ, 200, 404),
    "GET /v1/apps/<app_id>/jobs/import/<job_id>": Entry(READ, 200, 404),
    "GET /v1/apps/<app_id>/segments/<segment_id>/jobs/import": Entry(READ, 200, 404),
    "GET /v1/apps/<app_id>/segments/<segment_id>": Entry(READ, 200, 404),
    "GET /v1/apps/<app_id>/segments": Entry(READ, 200, 404),
    "PUT /v1/apps/<app_id>/endpoints": Entry(WRITE, 202, 404, b'{"Item": [%s]}' % ENDPOINT),
    "PUT /v1/apps/<app_id>/endpoints/<path:endpoint_id>": Entry(WRITE, 202, 404, ENDPOINT),
    "GET /v1/apps/<app_id>/endpoints/<path:endpoint_id>": Entry(OUT, 200, 404),
    "GET /v1/apps/<app_id>/users/<path:user_id>": Entry(OUT, 200, 404),
    "POST /v1/apps/<app_id>/jobs/export": Entry(OUT, 202, 404, EXPORT_JOB),
    "GET /v1/apps/<app_id>/jobs/export": Entry(OUT, 200, 404),
    "GET /v1/apps/<app_id>/jobs/export/<job_id>": Entry(OUT, 200, 404),
    "DELETE /v1/apps/<app_id>/endpoints/<path:endpoint_id>": Entry(WRITE, 202, 404),
    "POST /v1/imports/s3": Entry(WRITE, 200, 200, S3_IMPORT),
    "POST /v1/imports/url": Entry(READ, 501, 501),
    "POST /v1/imports/azure": Entry(READ, 501, 501),
    "GET /v1/imports/<import_id>": Entry(READ, 200, 404),
    "GET /v1/imports": Entry(READ, 200, 200),
    "GET /v1/data": Entry(READ, 200, 200),
    "GET /v1/data/<name>": Entry(OUT, 200, 404),
    "PUT /v1/data/<name>": Entry(WRITE, 201, 201, b'{"data": [{"a": 1}]}'),
    "DELETE /v1/data/<name>": Entry(OWN, 204, 404),
    "POST /api/imports": Entry(WRITE, 201, 201, NATIVE_REQUEST),
    "GET /api/imports": Entry(READ, 200, 200),
    "GET /api/imports/<import_id>": Entry(READ, 200, 404),
    "POST /api/imports/<import_id>/cancel": Entry(WRITE, 200, 404),
    "GET /api/imports/<import_id>/errors": Entry(READ, 200, 404),
    "POST /api/exports": Entry(OUT, 201, 404, EXPORT_REQUEST),
    "GET /api/exports": Entry(OUT, 200, 200),
    "GET /api/exports/<export_id>": Entry(OUT, 200, 404),
    "POST /api/exports/<export_id>/cancel": Entry(OUT, 200, 404),
    "GET /api/collections": Entry(READ, 200, 200),
    "GET /api/collections/<name>": Entry(READ, 200, 404),
    "GET /api/collections/<name>/events": Entry(OUT, 200, 404),
    "DELETE /api/collections/<name>": Entry(OWN, 204, 404),
}

#: A name that was asked for, as an answer may say it again.
NAMED = re.compile(r"""(?:name '|identifier |"itemId":")canary""")

#: What filtered keys say, by who shows them.
FILTERED = {
    "a filtered key that may query": {"filters": {"a": 1}, "canQuery": True},
    "a filtered key that may push": {"canPush": True},
    "a filtered key that may do nothing": {},
}
#: Callers that Connect's wire alone knows.
CONNECTS = {*FILTERED, "the master key"}

#: The kind of caller, the key it shows, and what each route answers to it.
Expected = Callable[[Entry], int]
CALLERS: dict[str, Expected] = {
    "no key": lambda _: 401,
    "nonsense": lambda _: 401,
    "a key that never was": lambda _: 401,
    "another secret": lambda _: 401,
    "a revoked key": lambda _: 401,
    "an expired key": lambda _: 401,
    "another project's key": lambda entry: entry.elsewhere,
    "an address with too many failures": lambda _: 429,
    **{
        f"a key for {scope}": lambda entry, scope=scope: entry.right if scope in {*entry.scopes, ADMIN} else 403
        for scope in ALL_SCOPES
    },
    "the master key": lambda entry: entry.right,
    "a filtered key that may query": lambda entry: entry.right if QUERY in entry.scopes else 403,
    "a filtered key that may push": lambda entry: entry.right if PUSH in entry.scopes else 403,
    "a filtered key that may do nothing": lambda _: 403,
}


def test_every_route_has_its_entry(client: FlaskClient) -> None:
    rules = client.application.url_map.iter_rules()
    routes = {f"{method} {rule.rule}" for rule in rules for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}

    assert routes == {*ENTRIES, *OPEN}


@pytest.mark.parametrize("caller", CALLERS)
def test_every_route_answers_every_caller_as_it_should(client: FlaskClient, stage: Stage, caller: str) -> None:
    other = Stage(stage.settings, stage.bucket)
    key, project_id = make(caller, stage, other), (other if "another project" in caller else stage).caller.project_id
    ids = {"import_id": stage.start(ndjson(event("a")), collection="canary")}
    ids["export_id"] = stage.ask_export(collection="canary")
    ids["owner"] = stage.caller.project_id
    ids.update(artifacts(stage), app_id=ids["owner"], **an_endpoint(stage))
    for n, (route, entry) in enumerate(ENTRIES.items()):
        address = f"10.0.0.{n}"
        if "failures" in caller:
            fail_often(client, address)
        method, rule = route.split(" ")
        ids["job_id"] = ids["export_id" if "jobs/export" in rule else "import_id"]
        names = {**ids, **dict.fromkeys(("collection", "name"), a_collection(stage, route))}
        for verb in ("HEAD", "GET") if method == "GET" else (method,):
            answer = client.open(
                filled(rule, names),
                method=verb,
                data=entry.body or None,
                headers={**shown(rule, key, project_id), "Content-Type": "application/json"},
                environ_overrides={"REMOTE_ADDR": address},
            )
            stranger = caller in CONNECTS and not rule.startswith(connect.PATHS)
            expected = 401 if stranger else CALLERS[caller](entry)
            if expected == 401 and rule.startswith(pinpoint.PATHS):
                expected = 403  # as the service has it
            assert answer.status_code == expected, f"{verb} {rule}"
            if answer.status_code != entry.right or "another project" in caller:
                assert "canary" not in NAMED.sub("", answer.text), f"{verb} {rule}"
    other.close()


def test_what_is_open_to_everybody_needs_no_key(client: FlaskClient) -> None:
    fail_often(client, "127.0.0.1")
    for route in OPEN:
        assert client.get(route.split(" ")[1]).status_code == 200, route


def test_a_key_shown_beside_another_projects_id_opens_neither(client: FlaskClient, stage: Stage, key: str) -> None:
    other = Stage(stage.settings, stage.bucket)
    for n, (rule, entry) in enumerate(ENTRIES.items()):
        method, path = rule.split(" ")
        if "X-Project-Id" in shown(path, key, ""):
            headers = shown(path, key, other.caller.project_id)
            for import_id in (stage.start(b""), other.start(b"")):
                address = filled(path, dict.fromkeys(IDS, import_id))
                answer = client.open(
                    address,
                    method=method,
                    data=entry.body,
                    headers=headers,
                    environ_overrides={"REMOTE_ADDR": f"10.0.1.{n}"},
                )
                assert answer.status_code == 401, rule
    other.close()


IDS = ("import_id", "export_id", "collection", "name")


def a_collection(stage: Stage, route: str) -> str:
    """Return the name of a collection: for each that is to be deleted one of its own, of which nothing is active."""
    if route in ("POST /events/<collection>", "PUT /v1/data/<name>"):
        return f"pushed by {route[:3]}"  # which makes it, for the other project too
    if not route.startswith("DELETE"):
        return "canary"
    stage.desk.cancel_import(stage.caller, stage.start(b"", collection=(name := f"canary-{uuid4().hex}")))
    return name


def filled(rule: str, names: Mapping[str, str]) -> str:
    """Return a path that a rule of the map stands for."""
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda found: names[found[1]], rule)


def an_endpoint(stage: Stage) -> dict[str, str]:
    """Return what leads to an endpoint that the project has, and to a segment."""
    PushDesk(stage.runtime).push(stage.caller, {parse.COLLECTION: [ENDPOINT]}, mapping=parse.MAPPING)
    job = stage.start(
        b"",
        collection=parse.COLLECTION,
        mapping=parse.MAPPING,
        segment=SegmentSpec(name="canary", counted_by="ChannelType"),
    )
    return {"endpoint_id": "canary", "user_id": "canary", "segment_id": stage.status(job).segment_id or ""}


def artifacts(stage: Stage) -> dict[str, str]:
    """Return the ids of a package and a pixel that the project has."""
    names = {"package_id": "package", "tracking_pixel_id": "tracking-pixel"}
    with stage.runtime.database.transaction() as tx:
        for kind in names.values():
            register(tx, stage.caller.project_id, kind, str(UUID(int=7)))
    return dict.fromkeys(names, str(UUID(int=7)))


def make(caller: str, stage: Stage, other: Stage) -> str | None:
    """Return the key that this kind of caller shows."""
    if caller in ("no key", "nonsense"):
        return None if caller == "no key" else "nonsense"
    if caller in ("a key that never was", "an address with too many failures"):
        return "pk_000000000000_" + "a" * 43
    if caller in CONNECTS:
        with stage.runtime.database.transaction() as tx:
            _, master = create_master_key(tx, stage.runtime.sealer, stage.caller.project_id)
        return filtered_key(FILTERED[caller], master=master) if caller in FILTERED else master
    scopes = [scope for scope in ALL_SCOPES if caller == f"a key for {scope}"] or ALL_SCOPES
    owner = other if caller == "another project's key" else stage
    with stage.runtime.database.transaction() as tx:
        key = create_key(tx, owner.caller.project_id, scopes)
        ended = {"a revoked key": "revoked_at", "an expired key": "expires_at"}.get(caller)
        if ended:
            tx.run(f"UPDATE api_keys SET {ended} = now() WHERE id = %(id)s", id=key.split("_")[1])
    return key if caller != "another secret" else key[:-1] + ("a" if key[-1] != "a" else "b")


def shown(path: str, key: str | None, project_id: str) -> dict[str, Any]:
    """Return how the wire of this path shows a key."""
    if path.startswith(connect.PATHS):
        return {"X-Project-Id": project_id, **({"X-API-Key": key} if key else {})}
    if path.startswith(nexosis.PATHS):
        return {"api-key": key} if key else {}
    return {"Authorization": f"Bearer {key}"} if key else {}


def fail_often(client: FlaskClient, address: str) -> None:
    """Show wrong keys until the address has to wait."""
    for n in range(101):
        headers = {"Authorization": f"Bearer pk_{n:012x}_{'b' * 43}"}
        client.get("/api/imports", headers=headers, environ_overrides={"REMOTE_ADDR": address})
