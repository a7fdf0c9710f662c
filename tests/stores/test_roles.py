"""Whose keys an import with a role reads with: the table's, else those that STS lends, asked at one address only."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

import pytest

from common import objects, roles
from common.errors import Terminal, Transient
from common.ledger import imports
from common.model.exports import Destination, ExportState
from common.model.imports import Credentials, Import
from common.model.roles import RoleUse
from common.model.sources import SourceKind, SourceRef
from common.roles import Roles
from common.runtime import Runtime
from common.settings import Settings
from deploy.local.servers import Servers
from tests.stage import Stage, event, ndjson
from tests.stores.faulty_s3 import Answer, serving
from workers.exports.write import write_export
from workers.imports.plan import plan_import

ROLE = "arn:aws:iam::123456789012:role/reader"
LENT = b"""<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
<AccessKeyId>ASIA%d</AccessKeyId><SecretAccessKey>LENTCANARY</SecretAccessKey><SessionToken>LENTTOKEN</SessionToken>
<Expiration>2030-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"""


def table(**entry: Any) -> str:
    return json.dumps({ROLE: {"accessKeyId": "TABLE", "secretAccessKey": "s", "buckets": ["*"], **entry}})


def job_of(stage: Stage, ref: SourceRef | None = None) -> Import:
    """Return an import of the stage's project whose source has a role."""
    source = replace(ref or stage.put(ndjson(event("a"))), role=ROLE)
    import_id = stage.start(source, credentials=None)
    with stage.runtime.database.transaction() as tx:
        return imports.read_import(tx, import_id)


def runtime_with(stage: Stage, **settings: Any) -> Runtime:
    runtime = stage.worker(**settings)
    stage.runtime.database.close()
    stage.runtime = runtime
    return runtime


def shown_key(store: objects.Objects) -> str | None:
    credentials = store.client._request_signer._credentials  # type: ignore[attr-defined]
    return credentials.access_key if credentials else None


def test_a_role_of_the_table_opens_its_buckets_with_the_tables_keys(stage: Stage) -> None:
    runtime = runtime_with(stage, roles=table(), sts_endpoint_url="http://127.0.0.1:1")
    job = job_of(stage)
    plan_import(runtime, job.id)

    assert stage.status(job.id).state == "running"
    assert shown_key(runtime.objects_of(job)) == "TABLE"


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ({"buckets": ["another"]}, "source_access_denied"),
        ({"buckets": []}, "source_access_denied"),
        ({"projects": ["another"]}, "role_not_assumable"),
        ({"projects": []}, "role_not_assumable"),
    ],
)
def test_a_role_of_the_table_opens_nothing_else(stage: Stage, entry: dict[str, list[str]], code: str) -> None:
    everything = {"*": {"accessKeyId": "ALL", "secretAccessKey": "s", "buckets": ["*"]}}
    runtime = runtime_with(stage, roles=json.dumps({**everything, **json.loads(table(**entry))}))
    job = job_of(stage)
    plan_import(runtime, job.id)
    error = stage.status(job.id).error

    assert error
    assert error.code == code
    assert "TABLE" not in error.message


@pytest.mark.parametrize("kind", [SourceKind.PREFIX, SourceKind.OBJECT])
def test_no_role_opens_the_bucket_where_all_projects_bodies_are(stage: Stage, kind: SourceKind) -> None:
    runtime = runtime_with(stage, roles=table().replace(ROLE, "*"), spool_bucket=stage.bucket)
    job = job_of(stage, replace(stage.put(ndjson(event("a"))), kind=kind))
    plan_import(runtime, job.id)
    error = stage.status(job.id).error

    assert error
    assert error.code == "source_access_denied"


def test_a_project_may_be_named_in_the_table_by_its_id_or_its_name(stage: Stage) -> None:
    (row,) = stage.query("SELECT name FROM projects WHERE id = %(id)s", id=stage.caller.project_id)
    for name in (row.name, stage.caller.project_id):
        runtime = runtime_with(stage, roles=table(projects=[name]))
        job = job_of(stage)

        assert runtime.objects_of(job).pin(job.source).size


def test_the_entry_for_all_roles_opens_whatever_arn_is_sent(stage: Stage) -> None:
    runtime = runtime_with(stage, roles=table().replace(ROLE, "*"))
    job = job_of(stage)

    assert runtime.objects_of(job).pin(job.source).size


def test_without_a_table_and_without_sts_no_role_is_taken_and_the_external_id_is_told(stage: Stage) -> None:
    job = job_of(stage)
    plan_import(stage.runtime, job.id)
    status = stage.status(job.id)

    assert status.error
    assert status.error.code == "role_not_assumable"
    assert status.external_id
    assert status.external_id in status.error.message
    assert ROLE not in json.dumps(stage.query("SELECT sealed FROM import_secrets WHERE import_id = %(id)s", id=job.id))


def test_sts_lends_keys_that_read_the_source(stage: Stage, servers: Servers) -> None:
    """Moto's STS lends to anybody; what it is asked is checked below."""
    runtime = runtime_with(stage, sts_endpoint_url=servers.s3_endpoint, sts_access_key_id="own")
    job = job_of(stage)
    plan_import(runtime, job.id)

    assert stage.status(job.id).state == "running"
    assert str(shown_key(runtime.objects_of(job))).startswith("ASIA")


class Sts:
    """An STS that writes down what it is asked, and lends other keys each time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[dict[str, Any]] = []
        self.refusal: Exception | None = None
        monkeypatch.setattr(objects, "assume_role", self)

    def __call__(self, role: str, **asked: Any) -> Credentials:
        self.asked.append({"role": role, **asked})
        if self.refusal:
            raise self.refusal
        return Credentials(f"ASIA{len(self.asked)}", "s", "t")


def test_keys_are_lent_once_an_import_and_again_before_they_end(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = runtime_with(stage, sts_endpoint_url="http://sts.invalid", sts_access_key_id="own")
    sts, clock = Sts(monkeypatch), [1000.0]
    job = job_of(stage)
    store = runtime.objects_of(job)
    monkeypatch.setattr(roles.time, "monotonic", lambda: clock[0])

    source = store.pin(job.source)
    reading = store.read_from(source, 0, 1)
    first = next(reading)
    assert shown_key(store) == "ASIA1"
    clock[0] += 3600 - 300 - 1
    assert shown_key(store) == "ASIA1"
    clock[0] += 2
    assert shown_key(store) == "ASIA2"
    assert first + b"".join(reading), "a body under way goes on"
    assert store.pin(job.source) == source
    assert len(sts.asked) == 2

    runtime.forget_objects_of(job.id)
    assert shown_key(runtime.objects_of(job)) == "ASIA3"
    another = job_of(stage)
    assert shown_key(runtime.objects_of(another)) == "ASIA4"
    assert [asked["session_name"] for asked in sts.asked] == [f"penstock-{job.id}"] * 3 + [f"penstock-{another.id}"]


def test_each_project_is_asked_for_with_its_own_external_id(
    stage: Stage, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    sts, other = Sts(monkeypatch), Stage(settings, stage.bucket)
    table_of = Roles(replace(settings, sts_endpoint_url="http://sts.invalid"))
    for owner in (stage, other):
        table_of.keys_of(RoleUse(uuid4().hex, owner.caller.project_id, ROLE, "mine"), "name")
    other.close()

    assert [asked["external_id"] for asked in sts.asked] == [stage.caller.project_id, other.caller.project_id]


def test_an_export_is_written_with_what_the_role_lends_for_writing(
    stage: Stage, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server here looks at no keys: what is asked of STS, and that the keys are used, is what can be seen."""
    stage.run(ndjson(event("a")))
    sts, place = Sts(monkeypatch), Destination(stage.bucket, f"{uuid4().hex}/", role=ROLE)
    lending = stage.worker(sts_endpoint_url="http://sts.invalid")
    export_id = stage.ask_export(destination=place, credentials=None)

    write_export(lending, export_id)

    assert stage.export_status(export_id).state is ExportState.COMPLETED
    (asked,) = sts.asked
    assert asked["session_name"] == f"penstock-{export_id}"
    assert "s3:PutObject" in asked["policy"]
    lending.database.close()


def assume(endpoint: str) -> Credentials:
    return objects.assume_role(
        ROLE,
        external_id="e" * 32,
        session_name="penstock-1",
        policy="{}",
        seconds=3600,
        own=Credentials("OWN", "SECRETCANARY"),
        at=objects.Place(endpoint, 2),
    )


def test_sts_is_asked_for_an_hour_with_the_external_id_at_the_address_of_the_settings() -> None:
    with serving(lambda *_: Answer(200, LENT % 1)) as (endpoint, seen):
        lent = assume(endpoint)

    assert (lent.access_key_id, lent.secret_access_key, lent.session_token) == ("ASIA1", "LENTCANARY", "LENTTOKEN")
    (line,) = seen
    asked = {name: values[0] for name, values in parse_qs(line.split("body ")[1]).items()}
    assert asked["Action"] == "AssumeRole"
    assert (asked["RoleArn"], asked["ExternalId"]) == (ROLE, "e" * 32)
    assert (asked["RoleSessionName"], asked["DurationSeconds"]) == ("penstock-1", "3600")


@pytest.mark.parametrize(
    ("answer", "raised", "requests"),
    [
        (
            Answer(
                403, b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>CANARY</Message></Error></ErrorResponse>"
            ),
            Terminal,
            1,
        ),
        (Answer(400, b"<ErrorResponse><Error><Code>ValidationError</Code></Error></ErrorResponse>"), Terminal, 1),
        (Answer(302, headers={"Location": "http://169.254.169.254/"}), Transient, 5),
        (Answer(503), Transient, 5),
    ],
    ids=["403", "400", "302", "503"],
)
def test_what_sts_refuses_ends_the_import_and_what_passes_does_not(
    answer: Answer, raised: type[Exception], requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_FIRST_PAUSE", 0.001)
    with serving(lambda *_: answer) as (endpoint, seen), pytest.raises(raised) as refused:
        assume(endpoint)

    assert len(seen) == requests
    text = str(refused.value) + refused.value.public  # type: ignore[attr-defined]
    assert "CANARY" not in text
    if raised is Terminal:
        assert refused.value.code == "role_not_assumable"  # type: ignore[attr-defined]
        assert "e" * 32 in refused.value.public  # type: ignore[attr-defined]


def test_a_source_is_stored_with_all_that_it_names(stage: Stage) -> None:
    for ref in (
        SourceRef("bucket", "a/*.json", "eu-west-1", SourceKind.GLOB, role=ROLE),
        SourceRef("bucket", "in/", kind=SourceKind.MANIFEST, keys=("in/a", "in/ü")),
        SourceRef("bucket", "in/", kind=SourceKind.PREFIX),
    ):
        import_id = stage.start(ref)
        with stage.runtime.database.transaction() as tx:
            assert imports.read_import(tx, import_id).source == ref
        assert stage.status(import_id).source == ref


def test_a_row_from_before_names_one_object_of_uncompressed_lines(stage: Stage) -> None:
    import_id = stage.start(SourceRef("bucket", "key"))
    stage.query(
        """UPDATE imports SET source = '{"bucket": "bucket", "key": "a*/", "region": "us-east-1"}' WHERE id = %(id)s
           RETURNING id""",
        id=import_id,
    )
    with stage.runtime.database.transaction() as tx:
        assert imports.read_import(tx, import_id).source == SourceRef("bucket", "a*/")


def test_a_role_of_the_table_is_exported_with_only_where_the_table_says_so(stage: Stage) -> None:
    stage.run(ndjson(event("a")))
    entry = {"accessKeyId": "table", "secretAccessKey": "secret", "buckets": ["*"]}
    place = Destination(stage.bucket, f"{uuid4().hex}/", role=ROLE)
    ended = []
    for writes in ({}, {"writes": False}, {"writes": True}):
        worker = stage.worker(roles=json.dumps({ROLE: {**entry, **writes}}))
        export_id = stage.ask_export(destination=place, credentials=None)
        write_export(worker, export_id)
        worker.database.close()
        status = stage.export_status(export_id)
        ended.append(status.error.code if status.error else status.state)

    assert ended == ["destination_access_denied", "destination_access_denied", "completed"]
