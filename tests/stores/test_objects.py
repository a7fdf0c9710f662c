"""The bytes are pinned (P6): every read shows the version and the range that were asked for, or is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import boto3
import pytest

from common import objects
from common.errors import Terminal, Transient
from common.model.imports import Credentials
from common.model.sources import Source, SourceRef
from common.objects import Objects
from deploy.local.servers import Servers
from tests.stores.faulty_s3 import Answer, serving

BODY = bytes(range(256)) * 4096
REF = SourceRef("pinned", "some/key with ünicode + and %.json")
PINNED = Source("bucket", "key", "us-east-1", len(BODY), '"v1"')


def connect(endpoint: str, timeout: float = 5) -> Objects:
    return objects.connect(
        Credentials("caller", "secret"),
        region="us-east-1",
        endpoint_url=endpoint,
        addressing="path",
        checksums="when_required",
        timeout=timeout,
    )


@pytest.fixture(scope="module")
def localbucket(servers: Servers) -> Iterator[str]:
    server = servers.another_s3("localbucket")
    yield server.endpoint
    server.stop()


@pytest.fixture(params=["moto", "localbucket"])
def endpoint(request: pytest.FixtureRequest, servers: Servers, localbucket: str) -> str:
    """Two servers that differ: moto honours If-Match, localbucket ignores it."""
    found = servers.s3_endpoint if request.param == "moto" else localbucket
    client = client_of(found)
    with suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket="pinned")
    client.put_object(Bucket=REF.bucket, Key=REF.key, Body=BODY)
    client.close()
    return found


def client_of(endpoint: str) -> Any:
    return boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
    )


@pytest.mark.parametrize(
    ("start", "end"), [(0, 1), (0, len(BODY)), (5, 5), (700_001, 800_000), (len(BODY) - 1, len(BODY))]
)
def test_any_range_reads_on_to_the_end_of_the_object(endpoint: str, start: int, end: int) -> None:
    store = connect(endpoint)
    source = store.pin(REF)

    assert source.size == len(BODY)
    assert b"".join(store.read_from(source, start, end)) == BODY[start:]


def test_only_what_is_pulled_is_read() -> None:
    with _serving_body(lambda *_: None) as (store, seen):
        next(store.read_from(PINNED, 0, 1000))

    assert seen == [f'GET /bucket/key 0-{1000 + objects.TAIL - 1} "v1"']


def test_an_object_that_changed_is_refused(endpoint: str) -> None:
    store = connect(endpoint)
    source = store.pin(REF)
    client = client_of(endpoint)
    for changed in (BODY[::-1], BODY + b"more", BODY[:100]):
        client.put_object(Bucket=REF.bucket, Key=REF.key, Body=changed)
        with pytest.raises(Terminal) as refused:
            list(store.read_from(source, 500, 510))
        assert refused.value.code == "source_changed"
    client.close()


def test_what_is_not_there_says_so(endpoint: str) -> None:
    for ref in (SourceRef("pinned", "nothing"), SourceRef("no-such-bucket", "nothing")):
        with pytest.raises(Terminal) as refused:
            connect(endpoint).pin(ref)
        assert refused.value.code == "source_not_found"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_FIRST_PAUSE", 0.001)


@contextmanager
def _serving_body(fault: object) -> Iterator[tuple[Objects, list[str]]]:
    """Serve BODY faithfully, but for what ``fault(first, last)`` answers instead."""

    def script(_: str, first: int, last: int) -> Answer:
        body = BODY[first : last + 1]
        headers = {"ETag": '"v1"', "Content-Range": f"bytes {first}-{first + len(body) - 1}/{len(BODY)}"}
        return fault(first, last) or Answer(206, body, headers)  # type: ignore[operator]

    with serving(script) as (endpoint, seen):
        yield connect(endpoint, timeout=1), seen


def _once(answer: Answer) -> object:
    answers = [answer]
    return lambda *_: answers.pop() if answers else None


GOOD = {"ETag": '"v1"', "Content-Range": f"bytes 0-{len(BODY) - 1}/{len(BODY)}"}


@pytest.mark.parametrize(
    "fault",
    [
        Answer(503, b"<Error><Code>SlowDown</Code></Error>"),
        Answer(500),
        Answer(429),
        Answer(206, BODY, GOOD, cut_after=1000),
        Answer(206, BODY, GOOD, cut_after=600_000),
        Answer(200, BODY, {"ETag": '"v1"'}),
        Answer(206, BODY[5:], {**GOOD, "Content-Range": f"bytes 5-{len(BODY) - 1}/{len(BODY)}"}),
        Answer(206, BODY, {**GOOD, "Content-Range": f"bytes 0-{len(BODY) - 1}/{len(BODY) + 1}"}),
    ],
    ids=["503", "500", "429", "cut early", "cut late", "whole object", "other range", "other size"],
)
def test_a_fault_that_passes_costs_another_request_and_no_byte(fault: Answer) -> None:
    with _serving_body(_once(fault)) as (store, seen):
        found = b"".join(store.read_from(PINNED, 0, len(BODY)))

    assert found == BODY
    assert len(seen) == 2


def test_a_body_that_broke_is_resumed_where_it_broke() -> None:
    with _serving_body(_once(Answer(206, BODY, GOOD, cut_after=600_000))) as (store, seen):
        b"".join(store.read_from(PINNED, 0, len(BODY)))

    resumed = int(seen[1].split()[2].split("-")[0])
    assert 0 < resumed <= 600_000
    assert seen[1].endswith('"v1"'), "the resumed read was not pinned"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Answer(412), "source_changed"),
        (Answer(416), "source_changed"),
        (Answer(206, BODY, {**GOOD, "ETag": '"v2"'}), "source_changed"),
        (
            Answer(403, b"<Error><Code>AccessDenied</Code><Message>key AKIA123</Message></Error>"),
            "source_access_denied",
        ),
        (Answer(404), "source_not_found"),
        (Answer(301, headers={"Location": "http://127.0.0.1:1/elsewhere"}), "source_wrong_region"),
        (Answer(400), "source_unreadable"),
    ],
)
def test_a_fault_that_stays_is_asked_once_and_ends_the_job(fault: Answer, code: str) -> None:
    with _serving_body(lambda *_: fault) as (store, seen), pytest.raises(Terminal) as refused:
        list(store.read_from(PINNED, 0, len(BODY)))

    assert refused.value.code == code
    assert "AKIA" not in refused.value.public + str(refused.value)
    assert len(seen) == 1


def test_a_server_that_never_recovers_is_given_up_for_now() -> None:
    with _serving_body(lambda *_: Answer(503)) as (store, seen), pytest.raises(Transient):
        list(store.read_from(PINNED, 0, len(BODY)))

    assert len(seen) == 5


def test_a_server_that_is_not_there_is_given_up_for_now() -> None:
    with pytest.raises(Transient):
        connect("http://127.0.0.1:1").pin(REF)


def test_credentials_are_in_no_repr_and_no_error() -> None:
    keys = Credentials("AKIACANARY", "CANARYSECRET", "CANARYTOKEN")

    assert "CANARY" not in repr(keys) + str(keys)
