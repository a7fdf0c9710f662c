"""P6 and the source's own troubles: versions are never mixed, refusals are final and named, passing ones heal."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from deploy.local.servers import Servers
from tests.journeys.audit import audit, audit_complete
from tests.journeys.oracle import Object, make_object
from tests.journeys.stack import BUCKET, Fault, S3Address, Stack, open_stack, s3_client
from tests.journeys.stub_s3 import StubS3, no_trouble


@pytest.fixture(scope="module")
def stub() -> Iterator[StubS3]:
    with StubS3() as running:
        yield running


@pytest.fixture(scope="module")
def stack_on_stub(servers: Servers, stub: StubS3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    address = S3Address(stub.endpoint, "stub", "stub")
    with open_stack(servers, address, tmp_path_factory.mktemp("logs"), name="stub") as stack:
        yield stack
    stack.check_logs()


@pytest.fixture(autouse=True)
def calm(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let no trouble reach the next journey."""
    yield
    if "stub" in request.fixturenames:
        request.getfixturevalue("stub").trouble = no_trouble


@pytest.fixture(scope="module")
def stack_on_moto(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    address = S3Address(servers.s3_endpoint, servers.s3_access_key_id, servers.s3_secret_access_key)
    with s3_client(address) as client:
        client.create_bucket(Bucket=BUCKET)
    with open_stack(servers, address, tmp_path_factory.mktemp("logs"), name="moto") as stack:
        yield stack
    stack.check_logs()


def second_version(source: Object) -> bytes:
    """Return other events in as many bytes, so that every range that fits the one fits the other."""
    content = make_object(59, 30_000).content
    assert len(content) > 0.5 * len(source.content)
    return content[: len(source.content)].ljust(len(source.content), b"\n")


def failed_because(stack: Stack, import_id: str, code: str) -> None:
    """Both wires tell the failure; Connect has no codes, only the sentence."""
    native = stack.status(import_id)
    connect = stack.request("GET", f"/event-import/{import_id}").body

    assert (native["status"], (native["error"] or {}).get("code")) == ("failed", code)
    assert (connect["status"], connect["error"]) == ("failed", native["error"]["message"])


def test_an_object_overwritten_under_an_import_fails_it_and_is_never_mixed(stack: Stack, collection: str) -> None:
    source = make_object(51, 40_000)
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


def test_an_object_overwritten_on_a_server_that_checks_if_match_fails_alike(
    stack_on_moto: Stack, collection: str
) -> None:
    source = make_object(52, 8_000)
    other = second_version(source)
    key = stack_on_moto.put(source.content)
    import_id = stack_on_moto.start(key, collection)
    stack_on_moto.follow(import_id, Fault(20, lambda: stack_on_moto.put(other, key)))

    failed_because(stack_on_moto, import_id, "source_changed")
    (found,) = audit(stack_on_moto, collection, (import_id, source))
    assert 0 < found.counts["imported"] < len(source.firsts)


@pytest.mark.parametrize(
    ("status", "code"), [(403, "source_access_denied"), (404, "source_not_found"), (412, "source_changed")]
)
def test_what_s3_refuses_for_good_ends_an_import_under_way(
    stack_on_stub: Stack, stub: StubS3, collection: str, status: int, code: str
) -> None:
    source = make_object(53, 12_000)
    stub.put(f"{BUCKET}/final", source.content)
    import_id = stack_on_stub.start("final", collection)

    def refuse() -> None:
        stub.trouble = lambda method, number: status

    stack_on_stub.follow(import_id, Fault(30, refuse))

    failed_because(stack_on_stub, import_id, code)
    (found,) = audit(stack_on_stub, collection, (import_id, source))
    assert 0 < found.counts["imported"] < len(source.firsts)


@pytest.mark.parametrize(("status", "code"), [(403, "source_access_denied"), (404, "source_not_found")])
def test_what_s3_refuses_at_the_first_look_fails_before_anything_is_stored(
    stack_on_stub: Stack, stub: StubS3, collection: str, status: int, code: str
) -> None:
    source = make_object(54, 2_000)
    stub.put(f"{BUCKET}/refused", source.content)
    stub.trouble = lambda method, number: status
    import_id = stack_on_stub.start("refused", collection)
    stack_on_stub.follow(import_id)

    failed_because(stack_on_stub, import_id, code)
    (found,) = audit(stack_on_stub, collection, (import_id, source))
    assert found.chunks == []


def test_errors_that_pass_and_bodies_that_break_cost_only_time(
    stack_on_stub: Stack, stub: StubS3, collection: str
) -> None:
    source = make_object(55, 8_000)
    stub.put(f"{BUCKET}/moody", source.content)
    stub.trouble = lambda method, number: {1: 503, 3: "break"}.get(number % 5)
    before = stub.refused
    import_id = stack_on_stub.start("moody", collection)
    stack_on_stub.follow(import_id)

    assert stub.refused - before > 5
    audit_complete(stack_on_stub, collection, import_id, source)


def test_an_s3_that_is_away_for_a_while_costs_only_time(stack_on_stub: Stack, stub: StubS3, collection: str) -> None:
    source = make_object(56, 12_000)
    stub.put(f"{BUCKET}/away", source.content)
    import_id = stack_on_stub.start("away", collection)
    times: list[float] = []

    def go_away() -> None:
        back = time.monotonic() + 4.0
        times.append(back)
        stub.trouble = lambda method, number: 503 if time.monotonic() < back else None

    stack_on_stub.follow(import_id, Fault(30, go_away))

    assert time.monotonic() > times[0], "the import ended while S3 was away"
    audit_complete(stack_on_stub, collection, import_id, source)
