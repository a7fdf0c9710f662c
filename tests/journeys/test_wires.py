"""The documents' own samples, run by curl as they stand; and one import, whichever wire it came by, on all of them."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from deploy.local.servers import Servers
from tests.dialects.connect import seed as connect
from tests.dialects.scarf import seed as scarf
from tests.journeys.curl import Curl, needs_curl
from tests.journeys.stack import BUCKET, Answer, S3Address, Stack, open_stack, s3_client, stopped_workers, wait_until

pytestmark = needs_curl

#: What the documents allow: of imports at a time.
LIMIT = 15
#: The buckets of Connect's two documents, and one for bodies.
IMPORT_BUCKET, EXPORT_BUCKET, SPOOL_BUCKET = "mybucket", "my-bucket", "wires-spool"
SETTINGS = {
    "PENSTOCK_IMPORT_LIMIT": str(LIMIT),
    "PENSTOCK_CHUNK_BYTES": str(1024 * 1024),
    "PENSTOCK_SPOOL_BUCKET": SPOOL_BUCKET,
}
LARGE = 200_000
WIRES = ["native", "connect", "scarf"]
#: Two events, one of them twice, and a line that is none.
MIXED = b"""\
{"id": "a", "$unique_id": "a", "$time": "2024-06-04T00:00:00Z", "$package": "%(package)s"}
{"id": "b", "$unique_id": "b", "$time": "2024-06-05T00:00:00Z", "$package": "%(package)s"}
{"id": "a", "$unique_id": "a", "$time": "2024-06-06T00:00:00Z", "$package": "%(package)s"}
{"id": "c",
""" % {b"package": scarf.PACKAGE.encode()}


class Wires(Curl):
    """curl, as a caller of each wire."""

    def start(self, wire: str, content: bytes, collection: str) -> str:
        """Import events by a wire, which keeps them in a collection of its own if it is Scarf's; return the id."""
        if wire == "scarf":
            return str(self.send(content).body["id"]).replace("-", "")
        key = self.stack.put(content)
        return self.stack.start(key, collection) if wire == "connect" else self.stack.start_native(key, collection)

    def send(self, content: bytes, *arguments: str, path: str = "/v2/{owner}/import") -> Answer:
        """Send a body of events by Scarf's wire."""
        (self.folder / "sent").write_bytes(content)
        answer = self.ask(path, "-X", "POST", *(arguments or ("--data-binary", "@sent")))
        assert answer.status == 200, answer
        return answer

    def of_scarf(self, import_id: str, verb: str = "", *arguments: str) -> Answer:
        return self.ask(f"/v2/imports/{{owner}}/{import_id}{verb}", *arguments)

    def listed_by_scarf(self, *parameters: str) -> list[str]:
        answer = self.ask("/v2/imports/{owner}?" + "&".join(parameters))
        assert answer.status == 200, answer
        return [one["id"].replace("-", "") for one in answer.body["event_imports"]]

    def end_of_scarf(self, import_id: str) -> dict[str, Any]:
        """Follow an import by Scarf's wire to its end."""

        def ended() -> dict[str, Any] | None:
            answer = self.of_scarf(import_id)
            assert answer.status == 200, answer
            return None if answer.body["status"] == "importing" else dict(answer.body)

        return wait_until(ended, what=f"import {import_id} has ended")


@pytest.fixture(scope="module")
def wired_stack(servers: Servers, localbucket: S3Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """As many imports at a time as the documents allow."""
    with s3_client(localbucket) as client:
        for bucket in (IMPORT_BUCKET, EXPORT_BUCKET, SPOOL_BUCKET):
            client.create_bucket(Bucket=bucket)
    logs = tmp_path_factory.mktemp("logs")
    with open_stack(servers, localbucket, logs, name="wires", settings=SETTINGS) as running:
        yield running
        running.drain()
    running.check_logs()


@pytest.fixture
def stack(wired_stack: Stack) -> Iterator[Stack]:
    wired_stack.wait_ready()
    yield wired_stack
    wired_stack.cancel_all()


@pytest.fixture
def curl(stack: Stack, tmp_path: Path) -> Wires:
    return Wires(stack, tmp_path)


def events_of(stack: Stack, import_id: str) -> list[bytes]:
    rows = stack.rows(
        "SELECT payload::text AS payload FROM events WHERE import_number ="
        " (SELECT number FROM imports WHERE id = %(id)s) ORDER BY byte_offset",
        id=import_id,
    )
    return [row.payload.encode() for row in rows]


def follow(curl: Wires, location: str, end: str) -> dict[str, Any]:
    """Watch a job of Connect's where its Location tells to, to its end, which is to be this one."""

    def ended() -> dict[str, Any] | None:
        answer = curl.ask(location, wire="connect")
        assert answer.status == 200, answer
        return dict(answer.body) if answer.body["finished"] else None

    document = wait_until(ended, what=f"{location} tells of an end")
    assert (document["status"], document["error"]) == (end, None)
    return document


# --- Connect


def test_connects_sample_of_an_import_runs_as_it_stands(curl: Wires, stack: Stack) -> None:
    with s3_client(stack.s3) as client:
        client.put_object(Bucket=IMPORT_BUCKET, Key="purchases.json", Body=connect.FILE)
    created = curl.run(connect.SCRIPT)
    assert (created.status, created.body) == (201, b"")
    document = follow(curl, created.headers["Location"], "complete")

    assert list(document) == list(json.loads(connect.REPLY))
    assert (document["importedEvents"], document["duplicateEvents"], document["eventErrors"]) == (2, 0, [])
    assert (document["collection"], document["percentComplete"]) == ("purchases", 100)
    assert re.fullmatch(r"\d+/s", document["insertRate"])
    assert events_of(stack, created.headers["Location"].rsplit("/", 1)[1]) == connect.FILE.splitlines()


def test_connects_samples_of_exports_run_as_they_stand(curl: Wires, stack: Stack, collection: str) -> None:
    wait_until(lambda: datetime.now(UTC).time() < time(23, 59, 40), what="today has a while to go")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    lines = [
        b'{"product": "apple", "price": 1.10}',
        b'{"product": "pear", "price": 2.00}',
        # One with both names that are filled in elsewhere comes back to the byte.
        b'{"id": "28c86f2e-4ad8-423a-85ea-b09a5ab9549d", "timestamp": "%s", "product": "apple"}' % now.encode(),
        b'{"product": "apple", "timestamp": "2015-07-28T00:00:30.295Z"}',
    ]
    stack.follow(curl.start("connect", b"\n".join(lines), collection))
    path = f"/events/{collection}/export"

    (curl.folder / "query").write_text(connect.QUERY)
    small = curl.ask(path, "--get", "--data-urlencode", "query@query", wire="connect")
    assert (small.status, list(small.body)) == (200, ["results"])
    assert as_imported(small.body["results"]) == as_imported([json.loads(lines[0]), json.loads(lines[2])], filled=False)

    created = curl.ask(path, "--data", connect.EXPORT_REQUEST, wire="connect")
    assert (created.status, created.body) == (201, b"")
    document = follow(curl, created.headers["Location"], "Complete")
    with s3_client(stack.s3) as client:
        written = client.get_object(Bucket=EXPORT_BUCKET, Key=f"exports/{document['filename']}")["Body"].read()

    assert list(document) == list(json.loads(connect.EXPORT_REPLY))
    assert document["filename"] == created.headers["Location"].rsplit("/", 1)[1] + ".json"
    assert document["transferredBytes"] == document["totalBytes"] == len(written)
    assert lines[2] in written.splitlines()
    assert as_imported(map(json.loads, written.splitlines())) == as_imported(map(json.loads, lines[:3]), filled=False)


def as_imported(events: Iterable[dict[str, Any]], *, filled: bool = True) -> list[str]:
    """Return events without id and time, which each of them has to have where they are ``filled`` in."""
    found = [*events]
    assert not filled or all({"id", "timestamp"} <= set(event) for event in found)
    return sorted(json.dumps({**event, "id": 0, "timestamp": 0}, sort_keys=True) for event in found)


# --- Scarf


def test_scarfs_sample_runs_as_it_stands(curl: Wires, stack: Stack) -> None:
    (curl.folder / "events.ndjson").write_bytes(scarf.FILE)
    answer = curl.run(scarf.SCRIPT)
    assert answer.status == 200
    assert list(answer.body) == list(json.loads(scarf.STARTED))
    assert (answer.body["owner"], answer.body["status"]) == (stack.service.project.name, "importing")

    document = curl.end_of_scarf(answer.body["id"])
    assert list(document) == list(answer.body)
    assert {**document, "updated_at": answer.body["updated_at"]} == {
        **answer.body,
        "status": "done",
        "events_total": 3,
        "events_successfully_imported": 3,
    }
    assert events_of(stack, answer.body["id"]) == scarf.FILE.splitlines()
    times = "SELECT time FROM events WHERE import_number = (SELECT number FROM imports WHERE id = %(id)s) ORDER BY 1"
    assert [row.time.day for row in stack.rows(times, id=answer.body["id"])] == [1, 4, 25]

    # The same file again: of each id the first event was processed, and the rest is ignored.
    again = curl.end_of_scarf(curl.run(scarf.SCRIPT).body["id"])
    counted = (again["events_total"], again["events_successfully_imported"], again["events_failed_to_import"])
    assert counted == (3, 0, 0)
    assert (again["error_log_sample"], again["warning_log_sample"]) == ([], [])


def test_scarfs_log_tells_of_each_line_that_was_not_taken_and_of_the_end(curl: Wires) -> None:
    content = b'{"$time": "2024-06-04T00:00:00Z"}\n{"$package": "%s"}\n{\n' % scarf.PACKAGE.encode() + scarf.FILE
    started = curl.send(content).body["id"]
    document = curl.end_of_scarf(started)
    answer = curl.of_scarf(started, "/log")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/x-ndjson")
    log = [json.loads(line) for line in answer.body.splitlines()]

    assert [(entry["type"], entry["class"], entry["line"]) for entry in log] == [
        ("artifact-not-found", "warning", 1),
        ("failed-to-decode", "error", 2),
        ("failed-to-decode", "error", 3),
        ("progress", "info", 6),
    ]
    assert {**json.loads(scarf.BAD_LINE), "line": 3} == log[2]
    assert (log[3]["events_count"], log[3]["failed_events_count"]) == (6, 3)
    assert (document["events_total"], document["events_failed_to_import"]) == (6, 3)
    assert (document["error_log_sample"], document["warning_log_sample"]) == (log[1:3], log[:1])


def test_scarfs_list_goes_on_behind_the_last_import_of_a_page(curl: Wires) -> None:
    ids = [curl.start("scarf", scarf.FILE, "") for _ in range(5)]
    for import_id in ids:
        curl.end_of_scarf(import_id)
    ids.reverse()

    assert curl.listed_by_scarf("per_page=2") == ids[:2]
    assert curl.listed_by_scarf("per_page=2", f"after={ids[1]}") == ids[2:4]
    assert curl.listed_by_scarf("per_page=5", "status=importing", "status=done") == ids
    assert not set(ids) & set(curl.listed_by_scarf("status=importing"))


def test_the_script_as_it_is_printed_sends_an_empty_body_which_is_an_import_of_no_events(
    curl: Wires, stack: Stack
) -> None:
    """For want of a backslash curl is not told of the file: what follows is another command, which there is not."""
    printed = scarf.SCRIPT.replace("/import \\\n", "/import\n")
    assert printed != scarf.SCRIPT
    started = curl.run(printed, ends=127).body["id"]
    document = curl.end_of_scarf(started)
    (entry,) = map(json.loads, curl.of_scarf(started, "/log").body.splitlines())

    assert (document["status"], document["events_total"], document["events_failed_to_import"]) == ("done", 0, 0)
    assert (entry["type"], entry["events_count"]) == ("progress", 0)
    assert stack.status(started)["status"] == "completed"


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/v2/packages/{owner}/%s/import", b'"$package":"%s"'),
        ("/v2/tracking-pixels/{owner}/%s/import", b'"$tracking_pixel":"%s"'),
    ],
)
def test_an_artifact_of_the_path_is_that_of_events_which_name_none(
    curl: Wires, stack: Stack, path: str, named: bytes
) -> None:
    artifact, other = str(uuid4()).upper(), str(uuid4())
    own = b'{"$time":"2024-06-04T00:00:00Z",' + named % other.encode() + b"}"
    started = curl.send(b'{"$time":"2024-06-04T00:00:00Z"}\n' + own, path=path % artifact).body["id"]
    document = curl.end_of_scarf(started)

    assert (document["events_successfully_imported"], document["events_failed_to_import"]) == (2, 0)
    filled = b'{"$time":"2024-06-04T00:00:00Z",' + named % artifact.lower().encode() + b"}"
    assert events_of(stack, started) == [filled, own]


def test_a_body_of_200_000_lines_comes_in_pieces_and_by_gzip(curl: Wires, stack: Stack) -> None:
    """By the path that names the package, which the events do not."""
    lines = [
        b'{"$time":"2024-06-04T00:%02d:%02dZ","$unique_id":"large-%d","n":%d}' % (n // 60 % 60, n % 60, n, n)
        for n in range(LARGE)
    ]
    whole = b"\n".join(lines)  # the last line has no end
    started = curl.send(
        gzip.compress(whole, 1),
        *("--upload-file", "sent", "-H", "Transfer-Encoding: chunked", "-H", "Content-Encoding: gzip"),
        path=f"/v2/packages/{{owner}}/{scarf.PACKAGE}/import",
    ).body["id"]
    document = curl.end_of_scarf(started)

    assert (document["events_total"], document["events_successfully_imported"]) == (LARGE, LARGE)
    (found,) = stack.rows(
        "SELECT count(*) AS events, md5(string_agg(md5(payload::text), '' ORDER BY byte_offset)) AS digest FROM events"
        " WHERE import_number = (SELECT number FROM imports WHERE id = %(id)s)",
        id=started,
    )
    named = [b'%s,"$package":"%s"}' % (line[:-1], scarf.PACKAGE.encode()) for line in lines]
    digest = hashlib.md5("".join(hashlib.md5(line).hexdigest() for line in named).encode()).hexdigest()
    assert (found.events, found.digest) == (LARGE, digest)


def test_the_sixteenth_import_is_refused_in_the_words_of_each_wire(curl: Wires, stack: Stack, collection: str) -> None:
    with stopped_workers(stack):
        ids = [curl.start(WIRES[number % 3], scarf.FILE, collection) for number in range(LIMIT)]
        assert curl.listed_by_scarf("status=importing", "per_page=50") == ids[::-1]

        (curl.folder / "events.ndjson").write_bytes(scarf.FILE)
        refused = curl.run(scarf.SCRIPT)
        assert refused.status == 422
        assert scarf.TOO_MANY in refused.body["message"]
        assert int(refused.headers["Retry-After"]) > 0
        assert curl.run(connect.SCRIPT).status == 429
        body = json.dumps({"collection": collection, "source": {"url": f"s3://{BUCKET}/any"}})
        assert curl.ask("/api/imports", "-H", "Content-Type: application/json", "--data", body).status == 429

        # An import that ends makes room.
        assert curl.of_scarf(ids[0], "/abort", "-X", "POST").status == 204
        ids.append(str(curl.run(scarf.SCRIPT).body["id"]))
    for import_id in ids[1:]:
        assert curl.end_of_scarf(import_id)["status"] == "done"


# --- one import, on each wire


@pytest.mark.parametrize("wire", WIRES)
def test_an_import_is_told_of_alike_whichever_wire_it_came_by(curl: Wires, stack: Stack, wire: str) -> None:
    collection = "scarf" if wire == "scarf" else f"alike-{wire}"
    import_id = curl.start(wire, MIXED.replace(b'"a"', b'"%s"' % f"a-{wire}".encode()), collection)
    by_scarf = curl.end_of_scarf(import_id)
    by_connect = curl.ask(f"/event-import/{import_id}", wire="connect").body
    native = curl.ask(f"/api/imports/{import_id}").body
    listed = curl.ask(f"/api/imports?collection={collection}").body["items"]
    errors = curl.ask(f"/api/imports/{import_id}/errors").body["items"]

    counts = {"lines": 4, "imported": 2, "replaced": 0, "duplicates": 1, "rejected": 1, "blank": 0}
    assert (native["status"], native["counts"]) == ("completed_with_errors", counts)
    assert import_id in [one["id"] for one in listed]
    assert (by_connect["status"], by_connect["collection"]) == ("complete", collection)
    assert (by_connect["importedEvents"], by_connect["duplicateEvents"]) == (2, 1)
    assert (by_scarf["status"], by_scarf["events_total"]) == ("done", 4)
    assert (by_scarf["events_successfully_imported"], by_scarf["events_failed_to_import"]) == (2, 1)
    assert import_id in curl.listed_by_scarf("status=done", "per_page=3")

    # Lines count from 0, but for Scarf's.
    assert [error["index"] for error in errors] == [error["index"] for error in by_connect["eventErrors"]] == [3]
    assert [error["line"] for error in by_scarf["error_log_sample"]] == [4]
    assert len(events_of(stack, import_id)) == 2


@pytest.mark.parametrize("ending", ["native", "scarf"])
@pytest.mark.parametrize("wire", WIRES)
def test_an_import_of_any_wire_is_ended_by_any_that_can(
    curl: Wires, stack: Stack, collection: str, wire: str, ending: str
) -> None:
    with stopped_workers(stack):
        import_id = curl.start(wire, scarf.FILE, collection)
        assert stack.status(import_id)["status"] in ("pending", "planning")
        if ending == "native":
            answer = curl.ask(f"/api/imports/{import_id}/cancel", "-X", "POST")
            assert (answer.status, answer.body["status"]) == (200, "cancelled")
        else:
            answer = curl.of_scarf(import_id, "/abort", "-X", "POST")
            assert (answer.status, answer.body) == (204, b"")

        assert curl.ask(f"/api/imports/{import_id}").body["status"] == "cancelled"
        assert curl.of_scarf(import_id).body["status"] == "aborted"
        by_connect = curl.ask(f"/event-import/{import_id}", wire="connect").body
        assert (by_connect["status"], by_connect["error"]) == ("failed", "The import was cancelled.")
        assert import_id in curl.listed_by_scarf("status=aborted", "per_page=1")
        assert import_id not in curl.listed_by_scarf("status=done", "status=importing")
    assert events_of(stack, import_id) == []
