"""P6 and the source's own troubles: versions are never mixed, refusals are final and named, passing ones heal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from deploy.local.servers import Servers
from tests.failing_s3 import FailingS3, Trouble
from tests.journeys.audit import audit, audit_complete
from tests.journeys.oracle import Object, make_object
from tests.journeys.stack import BUCKET, Fault, Stack, s3_client


@pytest.fixture
def on_moto(slow: Stack, dripping: FailingS3, servers: Servers) -> Iterator[Stack]:
    """The stack behind whose S3 is a server that checks If-Match."""
    usual, dripping.upstream = dripping.upstream, urlsplit(servers.s3_endpoint)
    with s3_client(slow.s3) as client:
        client.create_bucket(Bucket=BUCKET)
    yield slow
    dripping.upstream = usual


def second_version(source: Object) -> bytes:
    """Return other events in as many bytes, so that every range that fits the one fits the other."""
    content = make_object(16, 40_000, repeated=0).content
    assert len(content) > 0.5 * len(source.content)
    return content[: len(source.content)].ljust(len(source.content), b"\n")


def failed_because(stack: Stack, import_id: str, code: str) -> None:
    """Both wires tell the failure; Connect has no codes, only the sentence."""
    native = stack.status(import_id)
    connect = stack.request("GET", f"/event-import/{import_id}").body

    assert (native["status"], (native["error"] or {}).get("code")) == ("failed", code)
    assert (connect["status"], connect["error"]) == ("failed", native["error"]["message"])


def test_an_object_overwritten_under_an_import_fails_it_and_is_never_mixed(stack: Stack, collection: str) -> None:
    source = make_object(1, 40_000)
    other = second_version(source)  # made beforehand: the import would be over meanwhile
    key = stack.put(source.content)
    import_id = stack.start(key, collection)
    stack.follow(
        import_id,
        # The same bytes once more are the same version.
        Fault(5, lambda: stack.put(source.content, key)),
        Fault(20, lambda: stack.put(other, key)),
    )

    failed_because(stack, import_id, "source_changed")
    (found,) = audit(stack, collection, (import_id, source))
    assert 0 < found.counts["imported"] < len(source.firsts)


def test_an_object_overwritten_on_a_server_that_checks_if_match_fails_alike(on_moto: Stack, collection: str) -> None:
    source = make_object(1, 8_000)
    other = second_version(source)
    key = on_moto.put(source.content)
    import_id = on_moto.start(key, collection)
    on_moto.follow(import_id, Fault(20, lambda: on_moto.put(other, key)))

    failed_because(on_moto, import_id, "source_changed")
    (found,) = audit(on_moto, collection, (import_id, source))
    assert 0 < found.counts["imported"] < len(source.firsts)


@pytest.mark.parametrize(
    ("status", "code"), [(403, "source_access_denied"), (404, "source_not_found"), (412, "source_changed")]
)
def test_what_s3_refuses_for_good_ends_an_import_under_way(
    slow: Stack, dripping: FailingS3, collection: str, status: int, code: str
) -> None:
    source = make_object(1, 12_000)
    key = slow.put(source.content)
    import_id = slow.start(key, collection)

    def refuse() -> None:
        dripping.rule = lambda _: status

    slow.follow(import_id, Fault(30, refuse))

    failed_because(slow, import_id, code)
    (found,) = audit(slow, collection, (import_id, source))
    assert 0 < found.counts["imported"] < len(source.firsts)


@pytest.mark.parametrize(("status", "code"), [(403, "source_access_denied"), (404, "source_not_found")])
def test_what_s3_refuses_at_the_first_look_fails_before_anything_is_stored(
    slow: Stack, dripping: FailingS3, collection: str, status: int, code: str
) -> None:
    source = make_object(1, 2_000)
    key = slow.put(source.content)
    dripping.rule = lambda _: status
    import_id = slow.start(key, collection)
    slow.follow(import_id)

    failed_because(slow, import_id, code)
    (found,) = audit(slow, collection, (import_id, source))
    assert found.chunks == []


def test_errors_that_pass_and_bodies_that_break_cost_only_time(
    slow: Stack, dripping: FailingS3, collection: str
) -> None:
    source = make_object(1, 8_000)
    key = slow.put(source.content)
    dripping.rule = lambda asked: {1: 503, 3: Trouble.BROKEN}.get(asked.number % 5)
    import_id = slow.start(key, collection)
    slow.follow(import_id)

    assert len(dripping.troubled) > 5
    audit_complete(slow, collection, import_id, source)


def test_an_s3_that_is_away_for_a_while_costs_only_time(slow: Stack, dripping: FailingS3, collection: str) -> None:
    source = make_object(1, 12_000)
    key = slow.put(source.content)
    import_id = slow.start(key, collection)
    times: list[float] = []

    def go_away() -> None:
        back = time.monotonic() + 4.0
        times.append(back)
        dripping.rule = lambda _: 503 if time.monotonic() < back else None

    slow.follow(import_id, Fault(30, go_away))

    assert time.monotonic() > times[0], "the import ended while S3 was away"
    audit_complete(slow, collection, import_id, source)
