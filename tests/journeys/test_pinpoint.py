"""The commands and the program of Pinpoint's document, by the AWS CLI and boto3 as they are, given an address.

What is sent again, altered, or signed too early or too late, is sent on a bare connection, as botocore signs it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import re
import secrets
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from api.pinpoint.signing import Sent
from deploy.local.servers import REGION, Servers
from tests.apart import Apart, Unreachable
from tests.dialects.pinpoint import seed
from tests.journeys.stack import (
    Answer,
    S3Address,
    Stack,
    dump_redis,
    open_stack,
    s3_client,
    stopped_workers,
    wait_until,
)
from tests.signed import sign

#: About 150 MB, made in about 10 s.
CLI = Apart("awscli", Path(__file__).with_name("awscli.lock"))
BUCKET, ROLE = "bucket-name", "arn:aws:iam::123456789012:role/iam-import-role-arn"
#: Jobs at a time.
LIMIT = 2
#: Callers at once.
CROWD = 12


@pytest.fixture(scope="module")
def signed_stack(servers: Servers, localbucket: S3Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with s3_client(localbucket) as client:
        client.create_bucket(Bucket=BUCKET)
    logs = tmp_path_factory.mktemp("logs")
    with open_stack(servers, localbucket, logs, name="pinpoint") as running:
        # What must stand in no log is here the secret that signs.
        running.canary = running.service.project.aws_secret_access_key
        yield running
        running.drain()
        check_secret(running)
    running.check_logs()


def check_secret(stack: Stack) -> None:
    """Of the secret that signs nothing is in Redis, and in Postgres what is sealed."""
    kept = [bytes(row.sealed) for row in stack.rows("SELECT sealed FROM key_pairs")]
    with stack.redis() as client:
        kept.append(dump_redis(client))
    assert len(kept) > 1
    assert not any(map(stack.find_secret, kept))


@pytest.fixture
def stack(signed_stack: Stack) -> Iterator[Stack]:
    signed_stack.wait_ready()
    yield signed_stack
    signed_stack.cancel_all()


@pytest.fixture(scope="module")
def cli() -> Apart:
    try:
        CLI.install()
    except Unreachable as reason:
        pytest.skip(f"the AWS CLI is not here: {reason}")
    return CLI


class Aws:
    """The AWS CLI."""

    def __init__(self, stack: Stack, cli: Apart, folder: Path) -> None:
        self.folder = folder
        project = stack.service.project
        self.app = project.id
        self._environment = {
            "PATH": f"{cli.bin}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "AWS_ACCESS_KEY_ID": project.aws_access_key_id,
            "AWS_SECRET_ACCESS_KEY": project.aws_secret_access_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL_PINPOINT": stack.service.api,
            "AWS_ENDPOINT_URL_S3": stack.s3.endpoint,
            "AWS_MAX_ATTEMPTS": "1",
            "NO_PROXY": "*",
        }

    def type(self, typed: str, **words: str) -> Any:
        """Run a command as the document shows it being typed, the words filled in that it leaves open."""
        script = re.sub("(?m)^[$>] ?", "", typed.strip())
        for word, filled in {"application_id": self.app, "iam_import_role_arn": ROLE, **words}.items():
            # The options have names like these.
            script = re.sub(rf"(?<![\w-]){word.replace('_', '[-/]')}(?![\w-])", filled, script)
        return self._run(script)

    def pinpoint(self, command: str, *, ends: int = 0) -> Any:
        """Run a command that the document does not show."""
        operation, _, options = command.partition(" ")
        return self._run(f"aws pinpoint {operation} --application-id {self.app} {options}", ends=ends)

    def _run(self, script: str, *, ends: int = 0) -> Any:
        """Return what the command prints, read as JSON where it is; of one that fails its complaint."""
        done = subprocess.run(
            ["bash", "-euc", script],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == ends, f"{script}: {done.stdout}{done.stderr}"
        if ends:
            return done.stderr.strip()
        return json.loads(done.stdout) if done.stdout.startswith("{") else done.stdout


@pytest.fixture
def aws(stack: Stack, cli: Apart, tmp_path: Path) -> Aws:
    return Aws(stack, cli, tmp_path)


Connect = Callable[..., Any]


@pytest.fixture
def connect(stack: Stack) -> Iterator[Connect]:
    """Clients of boto3, which try once."""
    made: list[Any] = []

    def connected(key_id: str | None = None, secret: str | None = None) -> Any:
        project = stack.service.project
        client = boto3.client(
            "pinpoint",
            endpoint_url=stack.service.api,
            region_name=REGION,
            aws_access_key_id=key_id or project.aws_access_key_id,
            aws_secret_access_key=secret or project.aws_secret_access_key,
            config=Config(retries={"max_attempts": 0}, proxies={}, max_pool_connections=CROWD),
        )
        made.append(client)
        return client

    yield connected
    for client in made:
        client.close()


class Program:
    """The document's program, in Python."""

    def __init__(self, stack: Stack, client: Any) -> None:
        self.stack, self.client = stack, client
        self.app = stack.service.project.id

    def put(self, name: str, content: bytes) -> str:
        with s3_client(self.stack.s3) as client:
            client.put_object(Bucket=BUCKET, Key=f"imports/{name}", Body=content)
        return f"s3://{BUCKET}/imports/{name}"

    def create(self, url: str, kind: str = "JSON", **more: Any) -> dict[str, Any]:
        asked = {"S3Url": url, "RoleArn": ROLE, "Format": kind, "RegisterEndpoints": True, **more}
        made = self.client.create_import_job(ApplicationId=self.app, ImportJobRequest=asked)
        return dict(made["ImportJobResponse"])

    def read(self, job_id: str) -> dict[str, Any]:
        return dict(self.client.get_import_job(ApplicationId=self.app, JobId=job_id)["ImportJobResponse"])

    def wait(self, job_id: str) -> dict[str, Any]:
        """Ask until the job has completed or failed, as the document does, and whether each answer was true."""
        order = ["CREATED", "INITIALIZING", "PROCESSING", "COMPLETED"]
        seen: list[dict[str, Any]] = []

        def ended() -> dict[str, Any] | None:
            seen.append(self.read(job_id))
            return seen[-1] if seen[-1]["JobStatus"] in ("COMPLETED", "FAILED") else None

        job = wait_until(ended, what=f"job {job_id} has completed or failed", within=60)
        if job["JobStatus"] == "COMPLETED":
            steps = [order.index(one["JobStatus"]) for one in seen]
            assert steps == sorted(steps), steps
        processed = [one.get("TotalProcessed", 0) for one in seen]
        assert processed == sorted(processed), "what was processed is taken back"
        return job

    def run(self, content: bytes, kind: str = "JSON", **more: Any) -> dict[str, Any]:
        return self.wait(self.create(self.put(uuid4().hex, content), kind, **more)["Id"])


@pytest.fixture
def program(stack: Stack, connect: Connect) -> Program:
    return Program(stack, connect())


def counted(job: dict[str, Any]) -> tuple[str, int, int, int, int, int]:
    """Return how a job ended: endpoints processed and failed, pieces in all, completed and failed."""
    names = ("TotalProcessed", "TotalFailures", "TotalPieces", "CompletedPieces", "FailedPieces")
    return (job["JobStatus"], *(job[name] for name in names))  # type: ignore[return-value]


def shape(document: Any) -> Any:
    """Return names and types of a document."""
    if isinstance(document, dict):
        return {name: shape(value) for name, value in document.items()}
    return type(document)


def endpoints_of(stack: Stack, job_id: str) -> list[dict[str, Any]]:
    rows = stack.rows(
        "SELECT payload::text AS payload FROM events WHERE import_number ="
        " (SELECT number FROM imports WHERE id = %(id)s) ORDER BY byte_offset",
        id=job_id,
    )
    return [json.loads(row.payload) for row in rows]


def endpoint(name: str, **more: Any) -> bytes:
    return json.dumps({"Id": name, "ChannelType": "SMS", "Address": "+1206", **more}).encode() + b"\n"


# --- the document


@pytest.mark.parametrize(("content", "kind"), [(seed.JSON, "JSON"), (seed.CSV, "CSV")])
def test_the_documents_commands_run_as_they_stand(aws: Aws, stack: Stack, content: bytes, kind: str) -> None:
    (aws.folder / "endpoints-file").write_bytes(content)
    aws.type(seed.COPY)
    made = aws.type(seed.CREATE, prefix_key="prefix/endpoints-file", format=kind)
    job_id = made["ImportJobResponse"]["Id"]

    def ended() -> Any:
        told = aws.type(seed.GET, job_id=job_id)
        return told if told["ImportJobResponse"]["JobStatus"] == "COMPLETED" else None

    completed = wait_until(ended, what=f"job {job_id} has completed")
    expected = json.loads(seed.CREATED_CLI)["ImportJobResponse"]
    assert shape(made["ImportJobResponse"]) == shape({**expected, "ApplicationId": ""})
    assert made["ImportJobResponse"]["JobStatus"] == "CREATED"
    assert shape(completed) == shape(json.loads(seed.COMPLETED_CLI))
    assert counted(completed["ImportJobResponse"]) == ("COMPLETED", 3, 0, 1, 1, 0)
    assert completed["ImportJobResponse"]["Definition"] == {
        "DefineSegment": False,
        "ExternalId": aws.app,
        "Format": kind,
        "RegisterEndpoints": True,
        "RoleArn": ROLE,
        "S3Url": f"s3://{BUCKET}/prefix/endpoints-file",
    }
    stored = endpoints_of(stack, job_id)
    assert [{**one, "Id": ""} for one in stored] == [{**json.loads(line), "Id": ""} for line in seed.JSON.splitlines()]
    assert len({one["Id"] for one in stored}) == 3


def test_the_documents_program_waits_for_its_job_and_tells_what_failed(program: Program) -> None:
    job = program.run(seed.JSON)
    assert counted(job) == ("COMPLETED", 3, 0, 1, 1, 0)
    assert "Failures" not in job

    lines = [b"{}\n" if number % 2 else endpoint(f"half-{number}") for number in range(300)]
    job = program.run(b"".join(lines) + b"\n\n")
    assert counted(job) == ("COMPLETED", 300, 150, 1, 1, 0)
    assert job["Failures"] == [
        f"imports/{job['Definition']['S3Url'].rsplit('/', 1)[1]}, line {line}: "
        "The endpoint has no Address, or no ChannelType."
        for line in range(2, 202, 2)
    ]


def test_of_a_prefix_what_has_the_format_is_imported(program: Program) -> None:
    folder = uuid4().hex
    program.put(f"{folder}/a.json", endpoint(f"{folder}-a"))
    program.put(f"{folder}/deeper/b.json", endpoint(f"{folder}-b") + endpoint(f"{folder}-c"))
    url = program.put(f"{folder}/d.csv", b"Id,ChannelType,Address\n%s-d,SMS,1\n" % folder.encode())

    told = [counted(program.wait(program.create(url.rpartition("/")[0] + "/", kind)["Id"])) for kind in ("JSON", "CSV")]
    assert told == [("COMPLETED", 3, 0, 2, 2, 0), ("COMPLETED", 1, 0, 1, 1, 0)]


def test_what_is_not_there_fails_the_job(program: Program) -> None:
    job = program.wait(program.create(f"s3://{BUCKET}/imports/nothing-here.json")["Id"])
    assert job["JobStatus"] == "FAILED"
    assert len(job["Failures"]) == 1
    assert job["TotalProcessed"] == 0


def test_lists_are_gone_through_page_by_page(aws: Aws, program: Program) -> None:
    url = program.put("listed.json", endpoint("listed"))
    first = program.wait(program.create(url, DefineSegment=True, SegmentName="of jobs")["Id"])
    segment_id = first["Definition"]["SegmentId"]
    ids = [first["Id"]]
    for number in range(4):
        # Alike they would be one job: of requests of one second nothing tells those that are sent again.
        made = program.create(url, SegmentId=segment_id, ExternalId=f"version-{number}")
        ids.append(program.wait(made["Id"])["Id"])
    ids.reverse()

    page = aws.pinpoint("get-import-jobs --page-size 2")["ImportJobsResponse"]
    assert [job["Id"] for job in page["Item"]] == ids[:2]
    page = aws.pinpoint(f"get-import-jobs --page-size 3 --token {page['NextToken']}")["ImportJobsResponse"]
    assert [job["Id"] for job in page["Item"]] == ids[2:]

    client, found, asked = program.client, [], {"ApplicationId": program.app, "SegmentId": segment_id, "PageSize": "2"}
    while "Token" not in asked or asked["Token"]:
        page = client.get_segment_import_jobs(**asked)["ImportJobsResponse"]
        found.append([job["Id"] for job in page["Item"]])
        asked["Token"] = page.get("NextToken", "")
    assert found == [ids[:2], ids[2:4], ids[4:]]
    (newest, *_) = aws.pinpoint("get-segments --page-size 1")["SegmentsResponse"]["Item"]
    assert (newest["Id"], newest["Name"], newest["Version"]) == (segment_id, "of jobs", 5)


# --- what a job makes


def test_a_segment_is_what_its_job_brought_and_is_exported(aws: Aws, program: Program, stack: Stack) -> None:
    program.run(endpoint("of-nobody"))
    lines = [endpoint(f"member-{number}", ChannelType="EMAIL" if number % 3 else "SMS") for number in range(30)]
    url = program.put("segment.json", b"".join([*lines, b"no endpoint\n"]))
    asked = f"S3Url={url},RoleArn={ROLE},Format=JSON,DefineSegment=true,SegmentName=thirty"
    job_id = aws.pinpoint(f"create-import-job --import-job-request {asked}")["ImportJobResponse"]["Id"]
    job = program.wait(job_id)
    segment_id = job["Definition"]["SegmentId"]
    segment = program.client.get_segment(ApplicationId=aws.app, SegmentId=segment_id)["SegmentResponse"]

    assert counted(job) == ("COMPLETED", 31, 1, 1, 1, 0)
    assert (segment["Id"], segment["ApplicationId"], segment["Name"]) == (segment_id, aws.app, "thirty")
    assert (segment["SegmentType"], segment["Version"]) == ("IMPORT", 1)
    assert segment["ImportDefinition"] == {
        "ChannelCounts": {"EMAIL": 20, "SMS": 10},
        "ExternalId": aws.app,
        "Format": "JSON",
        "RoleArn": ROLE,
        "S3Url": url,
        "Size": 30,
    }

    wanted = f"S3UrlPrefix=s3://{BUCKET}/out/,RoleArn={ROLE},SegmentId={segment_id}"
    export = aws.pinpoint(f"create-export-job --export-job-request {wanted}")["ExportJobResponse"]
    assert (export["JobStatus"], export["Type"], export["ApplicationId"]) == ("CREATED", "EXPORT", aws.app)

    def ended() -> Any:
        told = program.client.get_export_job(ApplicationId=aws.app, JobId=export["Id"])["ExportJobResponse"]
        return told if told["JobStatus"] in ("COMPLETED", "FAILED") else None

    assert counted(wait_until(ended, what="the export has ended")) == ("COMPLETED", 30, 0, 1, 1, 0)
    listed = program.client.get_export_jobs(ApplicationId=aws.app)["ExportJobsResponse"]["Item"]
    assert [one["Id"] for one in listed] == [export["Id"]]
    with s3_client(stack.s3) as client:
        written = client.get_object(Bucket=BUCKET, Key=f"out/{export['Id']}.json.gz")["Body"].read()
    assert sorted(gzip.decompress(written).splitlines(keepends=True)) == sorted(lines)


def test_endpoints_are_put_read_and_deleted_by_the_command_line(aws: Aws, program: Program) -> None:
    asked = json.dumps({"ChannelType": "EMAIL", "Address": "a@example.com", "User": {"UserId": "u/1 x"}})
    assert "Accepted" in str(aws.pinpoint(f"update-endpoint --endpoint-id 'e/1 x' --endpoint-request '{asked}'"))
    asked_for = {"ApplicationId": program.app, "EndpointId": "e/1 x"}
    found = program.client.get_endpoint(**asked_for)["EndpointResponse"]
    assert (found["Id"], found["Address"], found["User"]) == ("e/1 x", "a@example.com", {"UserId": "u/1 x"})
    of_user = program.client.get_user_endpoints(ApplicationId=program.app, UserId="u/1 x")["EndpointsResponse"]
    assert [one["Id"] for one in of_user["Item"]] == ["e/1 x"]

    batch = [{"Id": f"batch-{number}", "ChannelType": "SMS", "Address": str(number)} for number in range(100)]
    program.client.update_endpoints_batch(ApplicationId=program.app, EndpointBatchRequest={"Item": batch})
    last = program.client.get_endpoint(ApplicationId=program.app, EndpointId="batch-99")
    assert last["EndpointResponse"]["Address"] == "99"

    assert aws.pinpoint("delete-endpoint --endpoint-id 'e/1 x'")["EndpointResponse"]["Address"] == "a@example.com"
    gone = aws.pinpoint("get-endpoint --endpoint-id 'e/1 x'", ends=255)
    assert gone.startswith("An error occurred (NotFoundException) when calling the GetEndpoint operation: ")


def test_a_worker_that_is_killed_loses_and_doubles_no_endpoint(program: Program, stack: Stack) -> None:
    """Of repeated ids the last line is kept, whatever was loaded twice; some lines are none, some have no id."""
    pick = random.Random(61)
    lines = []
    for number in range(40_000):
        if number % 997 == 0:
            lines.append(b'{"Id":"bad-%d"}\n' % number)
        elif number % 10 == 0:
            lines.append(b'{"ChannelType":"PUSH","Address":"nameless-%d"}\n' % number)
        else:
            lines.append(endpoint(f"killed-{pick.randrange(30_000)}", Address=f"{number:_^40}"))
    job_id = program.create(program.put("killed.json", b"".join(lines)), DefineSegment=True)["Id"]
    wait_until(lambda: program.read(job_id).get("TotalProcessed", 0) > 4_000, what="a tenth is done")
    stack.kill_worker(0)
    assert program.read(job_id)["JobStatus"] == "PROCESSING", "it was over before: give it a larger object"
    job = program.wait(job_id)

    judged = [json.loads(line) for line in lines]
    good = [one for one in judged if "Address" in one]
    named = {one["Id"]: one for one in good if "Id" in one}
    nameless = [one["Address"] for one in good if "Id" not in one]
    stored = endpoints_of(stack, job_id)
    assert counted(job) == ("COMPLETED", len(lines), len(lines) - len(good), 1, 1, 0)
    assert {one["Id"]: one for one in stored if one["ChannelType"] == "SMS"} == named
    assert sorted(one["Address"] for one in stored if one["ChannelType"] == "PUSH") == sorted(nameless)
    assert len(stored) == len(named) + len(nameless) == len({one["Id"] for one in stored})
    segment = program.client.get_segment(ApplicationId=program.app, SegmentId=job["Definition"]["SegmentId"])
    counts = {"SMS": len(named), "PUSH": len(nameless)}
    assert segment["SegmentResponse"]["ImportDefinition"]["ChannelCounts"] == counts
    assert segment["SegmentResponse"]["ImportDefinition"]["Size"] == len(stored)


# --- refusals


def test_the_third_job_at_a_time_is_refused_however_many_ask_at_once(aws: Aws, program: Program, stack: Stack) -> None:
    url = program.put("crowd.json", endpoint("crowd"))
    with stopped_workers(stack):

        def ask(number: int) -> Any:
            # Alike they would be the same request within a second.
            with suppress(program.client.exceptions.TooManyRequestsException):
                return program.create(url, ExternalId=f"crowd-{number}")["Id"]
            return None

        with ThreadPoolExecutor(CROWD) as crowd:
            ids = [made for made in crowd.map(ask, range(2 * CROWD)) if made]
        assert len(ids) == LIMIT

        refused = aws.pinpoint(
            f"create-import-job --import-job-request S3Url={url},RoleArn={ROLE},Format=JSON", ends=255
        )
        assert refused.startswith("An error occurred (TooManyRequestsException) when calling the CreateImportJob")
        assert "too many active imports: 2 of 2" in refused
        with pytest.raises(program.client.exceptions.TooManyRequestsException) as third:
            program.create(url)
        told = third.value.response["ResponseMetadata"]
        assert (told["HTTPStatusCode"], int(told["HTTPHeaders"]["retry-after"]) > 0) == (429, True)
        # Other wires have places left, and a job that ends makes room.
        assert stack.post("crowd.json", "crowd").status == 201
        assert stack.cancel(ids.pop()).status == 200
        ids.append(program.create(url)["Id"])
    assert [program.wait(job_id)["JobStatus"] for job_id in ids] == ["COMPLETED"] * LIMIT


def test_every_error_is_the_one_that_clients_catch(program: Program, connect: Connect) -> None:
    client, app = program.client, program.app
    other_secret = connect(secret=secrets.token_urlsafe(30))
    nobody = connect(key_id="AKIAIOSFODNN7EXAMPLE")
    large = {"Item": [{"Id": str(n), "ChannelType": "SMS", "Address": "x" * 29_000} for n in range(99)]}
    calls: list[tuple[str, int, Callable[[], Any]]] = [
        ("BadRequestException", 400, lambda: program.create("https://example.com/file")),
        ("BadRequestException", 400, lambda: program.create(f"s3://{BUCKET}/k", "XML")),
        ("BadRequestException", 400, lambda: client.get_import_jobs(ApplicationId=app, PageSize="0")),
        ("BadRequestException", 400, lambda: client.get_import_jobs(ApplicationId=app, Token="x")),
        ("NotFoundException", 404, lambda: client.get_import_job(ApplicationId=app, JobId="0" * 32)),
        ("NotFoundException", 404, lambda: client.get_import_jobs(ApplicationId="f" * 32)),
        ("NotFoundException", 404, lambda: client.get_segment(ApplicationId=app, SegmentId="none")),
        ("NotFoundException", 404, lambda: client.get_campaigns(ApplicationId=app)),
        ("MethodNotAllowedException", 405, lambda: client.delete_app(ApplicationId=app)),
        (
            "PayloadTooLargeException",
            413,
            lambda: client.update_endpoints_batch(ApplicationId=app, EndpointBatchRequest=large),
        ),
        ("InvalidSignatureException", 403, lambda: other_secret.get_app(ApplicationId=app)),
        ("InvalidSignatureException", 403, lambda: nobody.get_app(ApplicationId=app)),
    ]
    for name, status, call in calls:
        with pytest.raises(ClientError) as caught:
            call()
        answer = caught.value.response
        told = answer["ResponseMetadata"]
        assert (answer["Error"]["Code"], told["HTTPStatusCode"]) == (name, status)
        assert told["RequestId"] == told["HTTPHeaders"]["x-amzn-requestid"]
        assert answer["Error"]["Message"]
        if hasattr(client.exceptions, name):
            assert isinstance(caught.value, getattr(client.exceptions, name)), name


# --- what is sent by others, or again


class Wire:
    """A bare connection: what is signed and what is sent need not be the same."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.project = stack, stack.service.project
        self.host = urlsplit(stack.service.api).netloc

    def signed(
        self, method: str, path: str, body: Any = None, *, at: datetime | None = None, hashed: bool = False
    ) -> Sent:
        """Sign a request, as of now or of another time; with ``hashed`` it says what its body hashes to."""
        content = b"" if body is None else json.dumps(body).encode()
        headers = {"host": [self.host], "content-type": ["application/json"]}
        if hashed:
            headers["x-amz-content-sha256"] = [hashlib.sha256(content).hexdigest()]
        request = Sent(method, f"/v1/apps/{self.project.id}{path}", "", headers, content)
        return sign(request, self.project.aws_access_key_id, self.project.aws_secret_access_key, at=at)

    def send(self, request: Sent, body: bytes | None = None, *, path: str | None = None) -> Answer:
        with closing(HTTPConnection(self.host, timeout=30)) as connection:
            headers = {name: ",".join(values) for name, values in request.headers.items()}
            connection.request(request.method, path or request.path, request.body if body is None else body, headers)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), json.loads(response.read()))


@pytest.fixture
def wire(stack: Stack) -> Wire:
    return Wire(stack)


def test_whatever_was_not_signed_so_or_not_now_does_nothing(wire: Wire, stack: Stack, program: Program) -> None:
    body = {"S3Url": program.put("signed.json", endpoint("signed")), "RoleArn": ROLE, "Format": "JSON"}
    path = "/jobs/import"
    before = stack.value("SELECT count(*) FROM imports")
    good = wire.signed("POST", path, body)
    authorization = good.headers["authorization"][0]
    flipped = authorization[:-1] + ("0" if authorization[-1] != "0" else "1")
    now = datetime.now(UTC)
    answers = {
        "a signature that differs in one digit": wire.send(
            Sent(good.method, good.path, good.query, {**good.headers, "authorization": [flipped]}, good.body)
        ),
        "another body": wire.send(good, good.body.replace(b"JSON", b"CSV ")),
        "another body than it says": wire.send(wire.signed("POST", path, body, hashed=True), b"{}"),
        "another path": wire.send(good, path=good.path + "?page-size=1"),
        "a clock that is behind": wire.send(wire.signed("POST", path, body, at=now - timedelta(minutes=16))),
        "a clock that is ahead": wire.send(wire.signed("POST", path, body, at=now + timedelta(minutes=16))),
    }
    told = {name: (answer.status, answer.headers["x-amzn-ErrorType"]) for name, answer in answers.items()}
    assert told == dict.fromkeys(answers, (403, "InvalidSignatureException"))
    assert stack.value("SELECT count(*) FROM imports") == before
    # It was the one thing that was wrong: as it was signed it is taken.
    assert wire.send(wire.signed("POST", path, body, at=now - timedelta(minutes=14))).status == 201


def test_a_write_that_is_sent_again_gets_the_first_answer_and_does_nothing(
    wire: Wire, stack: Stack, program: Program
) -> None:
    body = {"S3Url": program.put("again.json", endpoint("again")), "RoleArn": ROLE, "Format": "JSON"}
    request = wire.signed("POST", "/jobs/import", {**body, "DefineSegment": True})
    with ThreadPoolExecutor(4) as at_once:
        answers = [*at_once.map(wire.send, [request] * 4)]
    program.wait(answers[0].body["Id"])
    answers.append(wire.send(request))
    assert [answer.status for answer in answers] == [201] * 5
    assert [answer.body for answer in answers] == [answers[0].body] * 5
    assert sum("Idempotent-Replayed" in answer.headers for answer in answers) == 4

    put = {"ChannelType": "SMS", "Address": "first"}
    first, second = (wire.signed("PUT", "/endpoints/again", {**put, "Address": name}) for name in ("first", "second"))
    assert [wire.send(one).status for one in (first, second, first)] == [202] * 3
    read = wire.signed("GET", "/endpoints/again")
    assert [wire.send(read).body["Address"] for _ in range(3)] == ["second"] * 3, "a read is answered as of now"

    gone = wire.signed("DELETE", "/endpoints/again")
    assert wire.send(gone).body["Address"] == "second"
    assert wire.send(wire.signed("PUT", "/endpoints/again", {**put, "Address": "third"})).status == 202
    assert wire.send(gone).body["Address"] == "second", "the answer of the first time"
    assert wire.send(read).body["Address"] == "third", "and it stays"


def test_what_another_account_has_is_not_there(program: Program, connect: Connect, stack: Stack) -> None:
    job = program.run(endpoint("mine"), DefineSegment=True)
    made = json.loads(stack.service.run("api.admin", "create-project", f"other-{uuid4().hex}").splitlines()[-1])
    command = ("create-key-pair", made["project"]["id"], "--scope", "admin", "--json")
    pair = json.loads(stack.service.run("api.admin", *command).splitlines()[-1])
    stranger = connect(pair["awsAccessKeyId"], pair["awsSecretAccessKey"])
    own = stranger.create_app(CreateApplicationRequest={"Name": "of the stranger"})["ApplicationResponse"]["Id"]
    assert {own, made["project"]["id"]} == {one["Id"] for one in stranger.get_apps()["ApplicationsResponse"]["Item"]}

    theirs, missing = {"ApplicationId": program.app}, program.client.exceptions.NotFoundException
    asked = {"S3Url": f"s3://{BUCKET}/imports/any", "RoleArn": ROLE, "Format": "JSON"}
    calls: list[Callable[[], Any]] = [
        lambda: stranger.get_app(**theirs),
        lambda: stranger.create_import_job(**theirs, ImportJobRequest=asked),
        lambda: stranger.get_import_job(**theirs, JobId=job["Id"]),
        lambda: stranger.get_import_jobs(**theirs),
        lambda: stranger.get_endpoint(**theirs, EndpointId="mine"),
        lambda: stranger.delete_endpoint(**theirs, EndpointId="mine"),
        lambda: stranger.get_segments(**theirs),
        # By way of an application of their own, neither.
        lambda: stranger.get_import_job(ApplicationId=own, JobId=job["Id"]),
        lambda: stranger.get_segment(ApplicationId=own, SegmentId=job["Definition"]["SegmentId"]),
        lambda: stranger.get_endpoint(ApplicationId=own, EndpointId="mine"),
        lambda: stranger.create_import_job(
            ApplicationId=own, ImportJobRequest={**asked, "SegmentId": job["Definition"]["SegmentId"]}
        ),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(ClientError) as caught:
            call()
        assert caught.value.response["Error"]["Code"] == missing.__name__, number
    assert program.client.get_endpoint(**theirs, EndpointId="mine")["EndpointResponse"]["Id"] == "mine"
