"""Bodies sent straight to the service, over gunicorn: whole, in chunks, broken off, too large, too slow, killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any, Self
from urllib.parse import quote, urlsplit

import pytest

from deploy.local.commands import SPOOL_BUCKET
from deploy.local.servers import Servers
from tests.journeys.audit import audit_complete
from tests.journeys.oracle import make_object
from tests.journeys.stack import Answer, S3Address, Stack, open_stack, s3_client, wait_until

LIMIT, PLACES, SECONDS = 20 * 1024 * 1024, 4, 3
NAMES = "&".join(f"{one}={quote(name)}" for one in ("id", "time") for name in
                 {"id": ("id", "$unique_id"), "time": ("timestamp", "$time")}[one])  # fmt: skip
LINE = b'{"id": "canary-body", "filler": "%s"}\n' % (b"x" * 900)


@pytest.fixture(scope="module")
def upload_stack(servers: Servers, localbucket: S3Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Little patience, four places, 20 MiB at the most. In the end nothing is left in its spool bucket."""
    settings = {
        "PENSTOCK_UPLOAD_SECONDS": str(SECONDS),
        "PENSTOCK_UPLOAD_LIMIT": str(PLACES),
        "PENSTOCK_MAX_BODY_BYTES": str(LIMIT),
    }
    with s3_client(localbucket) as client:
        client.create_bucket(Bucket=SPOOL_BUCKET)
    logs = tmp_path_factory.mktemp("logs")
    with open_stack(servers, localbucket, logs, name="uploads", long_work=False, settings=settings) as running:
        yield running
        running.drain()
        # Of all journeys at once: the sweep looks after what broke off when its patience is over (3 s).
        wait_until(lambda: not spool(running), what="the spool bucket is empty")
        wait_until(lambda: running.value("SELECT count(*) FROM uploads") == 0, what="nothing of it is remembered")
    running.check_logs()
    assert not [path for path in logs.glob("*.log") if b"canary-body" in path.read_bytes()], "a body is in a log"


@pytest.fixture
def stack(upload_stack: Stack) -> Iterator[Stack]:
    """The stack with an API that answers."""
    upload_stack.wait_ready()
    yield upload_stack
    upload_stack.cancel_all()


class Wire:
    """A request that a test sends piece by piece."""

    def __init__(self, stack: Stack, collection: str, *headers: str, query: str = "") -> None:
        where = urlsplit(stack.service.api)
        self.socket = socket.create_connection((where.hostname, where.port), timeout=20)
        lines = [
            f"POST /api/imports?collection={collection}&{NAMES}{query} HTTP/1.1",
            f"Host: {where.netloc}",
            f"Authorization: Bearer {stack.service.api_key}",
            *headers,
        ]
        self.socket.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, content: bytes) -> None:
        self.socket.sendall(content)

    def send_chunk(self, content: bytes) -> None:
        """Send a chunk; the empty one is the last."""
        self.send(b"%x\r\n%b\r\n" % (len(content), content))

    def answer(self) -> Answer:
        with HTTPResponse(self.socket, method="POST") as response:
            response.begin()
            return Answer(response.status, dict(response.headers), json.loads(response.read()))


CHUNKED = "Transfer-Encoding: chunked"


def length(content: bytes) -> str:
    return f"Content-Length: {len(content)}"


def post(stack: Stack, collection: str, content: bytes, *headers: str, query: str = "") -> Answer:
    """Send a whole body at once."""
    with Wire(stack, collection, length(content), *headers, query=query) as wire:
        wire.send(content)
        return wire.answer()


@contextmanager
def half_sent(stack: Stack, collection: str, *headers: str) -> Iterator[tuple[Wire, str]]:
    """Give a request a whole part of which is in the bucket, and the id of its import, which waits for more."""
    before = set(imports_of(stack, collection))
    with Wire(stack, collection, f"Content-Length: {LIMIT}", *headers) as wire:
        wire.send(LINE * (9 * 1024 * 1024 // len(LINE)))
        (import_id,) = wait_until(lambda: set(imports_of(stack, collection)) - before, what="the import is admitted")
        wait_until(lambda: is_under_way(stack, wire, import_id), what="bytes are coming", pause=0.05)
        yield wire, import_id


def imports_of(stack: Stack, collection: str) -> list[str]:
    listed = stack.request("GET", f"/api/imports?collection={collection}", native=True).body["items"]
    return [one["id"] for one in listed]


def is_under_way(stack: Stack, wire: Wire, import_id: str) -> bool:
    """Send a little more; return whether the service has noted that bytes came since the import was admitted."""
    wire.send(b"\n" * 70_000)
    return bool(
        stack.value(
            "SELECT touched_at > created_at + interval '0.3 s' FROM uploads JOIN imports ON id = import_id"
            " WHERE id = %(id)s",
            id=import_id,
        )
    )


def spool(stack: Stack) -> list[str]:
    with s3_client(stack.s3) as client:
        return [one["Key"] for one in client.list_objects_v2(Bucket=SPOOL_BUCKET).get("Contents", ())]


def ended(stack: Stack, import_id: str) -> dict[str, Any]:
    status: dict[str, Any] = {}

    def has_ended() -> bool:
        status.update(stack.status(import_id))
        return status["finishedAt"] is not None

    wait_until(has_ended, what="the import has ended")
    return status


def check_broken(stack: Stack, import_id: str, code: str = "upload_broken") -> None:
    """Nothing of the body is stored, its slot is free, and who asks is told why."""
    status = ended(stack, import_id)
    assert (status["status"], status["error"]["code"]) == ("failed", code)
    assert stack.stored(import_id) == 0
    assert status["source"] == {"type": "upload"}
    assert status["counts"]["lines"] == 0
    with stack.redis() as client:
        wait_until(
            lambda: not client.zscore(f"penstock:slots:{stack.service.project.id}", import_id), what="the slot is free"
        )


# --- whole ones


def test_a_body_sent_in_one_piece_is_imported_as_an_object_is(stack: Stack, collection: str) -> None:
    source = make_object(1, 20_000)
    created = post(stack, collection, source.content, "Content-Type: application/x-ndjson")
    assert created.status == 201, created
    assert created.headers["Location"].endswith(f"/api/imports/{created.body['id']}")
    stack.follow(created.body["id"])

    audit_complete(stack, collection, created.body["id"], source)


def test_a_body_sent_in_chunks_of_any_size_is_imported_as_an_object_is(stack: Stack, collection: str) -> None:
    """More of them than a part holds, so that the object is put together."""
    source = make_object(302, 40_000, longest=15_000)
    assert len(source.content) > 8 * 1024 * 1024
    with Wire(stack, collection, CHUNKED) as wire:
        sizes = [1, 10, 1000, 70_000, 200_000]
        start = number = 0
        while start < len(source.content):
            wire.send_chunk(source.content[start : start + sizes[number % len(sizes)]])
            start, number = start + sizes[number % len(sizes)], number + 1
        wire.send_chunk(b"")
        created = wire.answer()
    assert created.status == 201, created
    stack.follow(created.body["id"])

    audit_complete(stack, collection, created.body["id"], source)


@pytest.mark.parametrize("headers", [["Content-Length: 0"], [CHUNKED]])
def test_a_body_of_nothing_is_an_import_of_nothing(stack: Stack, collection: str, headers: list[str]) -> None:
    with Wire(stack, "nothing", *headers) as wire:
        if headers == [CHUNKED]:
            wire.send_chunk(b"")
        created = wire.answer()
    assert created.status == 201, created
    status = ended(stack, created.body["id"])
    assert (status["status"], status["counts"]["lines"], status["progress"]["percent"]) == ("completed", 0, 100)


# --- bodies that break off


def test_a_body_whose_web_process_is_killed_leaves_nothing_and_may_be_sent_again(stack: Stack, collection: str) -> None:
    key = "Idempotency-Key: killed"
    with half_sent(stack, collection, key) as (_, import_id):
        for pid in stack.service.pids["web"]:
            # The arbiter and what it forked.
            os.killpg(os.getpgid(pid), signal.SIGKILL)
        stack.wait_ready()
        check_broken(stack, import_id)

    source = make_object(1, 500)
    again = post(stack, collection, source.content, key)
    assert (again.status, again.headers.get("Idempotent-Replayed")) == (201, None)
    stack.follow(again.body["id"])
    audit_complete(stack, collection, again.body["id"], source)


def test_a_client_that_hangs_up_leaves_nothing(stack: Stack, collection: str) -> None:
    with half_sent(stack, collection) as (wire, import_id):
        wire.socket.close()
        check_broken(stack, import_id)


def test_a_body_of_chunks_that_breaks_off_is_not_taken_for_whole(stack: Stack, collection: str) -> None:
    for rest in (b"", b"10\r\nonly half", b"zz\r\n"):
        with Wire(stack, collection, CHUNKED) as wire:
            wire.send_chunk(LINE)
            wire.send(rest)
            wire.socket.shutdown(socket.SHUT_WR)
            answer = wire.answer()
            assert (answer.status, answer.body["code"]) == (400, "malformed_body")
    for import_id in imports_of(stack, collection):
        check_broken(stack, import_id)


def test_a_body_that_grows_too_large_is_refused_when_it_does(stack: Stack, collection: str) -> None:
    with Wire(stack, collection, CHUNKED) as wire:
        sent = 0
        while sent <= LIMIT:
            wire.send_chunk(LINE * 1000)
            sent += len(LINE) * 1000
        answer = wire.answer()
    assert (answer.status, answer.body["code"], answer.body["limit"]) == (413, "body_too_large", LIMIT)
    (import_id,) = imports_of(stack, collection)
    check_broken(stack, import_id, "body_too_large")

    with Wire(stack, collection, f"Content-Length: {LIMIT + 1}") as wire:
        assert wire.answer().status == 413, "not before its first byte"
    assert imports_of(stack, collection) == [import_id]


def test_an_import_that_is_cancelled_while_its_body_comes_takes_no_more_of_it(stack: Stack, collection: str) -> None:
    with half_sent(stack, collection) as (wire, import_id):
        assert stack.cancel(import_id).status == 200
        wire.socket.settimeout(0.1)
        answer: list[Answer] = []

        def is_told() -> bool:
            wire.send(b"\n" * 70_000)
            try:
                answer.append(wire.answer())
            except TimeoutError:
                return False
            return True

        wait_until(is_told, what="the sender is told")
        assert (answer[0].status, answer[0].body["code"]) == (409, "import_ended")
    assert stack.status(import_id)["status"] == "cancelled"
    assert stack.stored(import_id) == 0


# --- slow ones


@pytest.mark.parametrize("drop", [b"", b"x"])
def test_who_sends_nothing_or_hardly_anything_is_not_waited_for_and_keeps_nobody_waiting(
    stack: Stack, collection: str, drop: bytes
) -> None:
    """As many as there are places; one more is asked to come again."""
    collection = "slow" + str(len(drop))
    wires = [Wire(stack, collection, f"Content-Length: {LIMIT}") for _ in range(PLACES)]
    wait_until(lambda: len(imports_of(stack, collection)) == PLACES, what="all places are taken")
    refused = post(stack, collection, LINE)
    assert (refused.status, refused.body["code"]) == (503, "too_many_uploads")
    assert refused.headers["Retry-After"]

    begun = time.monotonic()
    for wire in wires:
        wire.socket.setblocking(False)
    while time.monotonic() < begun + SECONDS * 3 and len(open_wires := [w for w in wires if not _is_answered(w)]):
        for wire in open_wires:
            wire.socket.send(drop)
        asked = time.monotonic()
        assert stack.request("GET", "/healthz").status == 200
        assert time.monotonic() < asked + 1
        time.sleep(0.1)
    for wire in wires:
        wire.socket.settimeout(20)
        answer = wire.answer()
        assert (answer.status, answer.body["code"]) == (408, "body_too_slow")
        wire.socket.close()
    for import_id in imports_of(stack, collection):
        check_broken(stack, import_id)
    assert post(stack, collection, LINE).status == 201


def _is_answered(wire: Wire) -> bool:
    try:
        return bool(wire.socket.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def test_who_sends_slowly_but_steadily_is_waited_for(stack: Stack, collection: str) -> None:
    """Four times as long as a piece of it may take."""
    content = LINE[:-2] + b" " * 66_000 + b"}\n"
    with Wire(stack, collection, CHUNKED) as wire:
        begun = time.monotonic()
        while time.monotonic() < begun + 2 * SECONDS:
            for start in range(0, len(content), 16_500):
                wire.send_chunk(content[start : start + 16_500])
                time.sleep(0.12)
        wire.send_chunk(b"")
        created = wire.answer()
    assert created.status == 201, created
    assert ended(stack, created.body["id"])["status"] == "completed"


# --- keys


def test_of_two_requests_with_one_key_at_once_one_makes_an_import(stack: Stack, collection: str) -> None:
    source = make_object(1, 500)
    key = "Idempotency-Key: twice"
    with Wire(stack, collection, length(source.content), key) as first:
        wait_until(lambda: imports_of(stack, collection), what="the first is admitted")
        with Wire(stack, collection, length(source.content), key) as second:
            told = second.answer()
            assert (told.status, told.body["code"]) == (409, "request_under_way"), "without a byte of its body"
            assert told.headers["Retry-After"]
        first.send(source.content)
        created = first.answer()
    assert created.status == 201, created
    with Wire(stack, collection, length(source.content), key) as third:
        again = third.answer()
    assert (again.status, again.body["id"]) == (201, created.body["id"])
    assert again.headers["Idempotent-Replayed"] == "true"
    stack.follow(created.body["id"])
    audit_complete(stack, collection, created.body["id"], source)
