"""Scarf's wire: how imports are listed, told of, and ended, whichever wire they came by."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID, uuid4

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.scarf import parse, render, routes
from common.errors import Terminal
from common.ledger import imports
from common.model.chunks import Counts
from common.model.imports import Failure, ImportState, ImportStatus, Progress
from common.model.mapping import Mapping
from common.model.rejects import LineError, RejectCode
from common.model.sources import SourceKind, SourceRef
from tests.dialects.scarf import seed
from tests.stage import Stage, event, ndjson
from workers.imports.load import load_chunk
from workers.imports.plan import plan_import

STARTED = datetime(2024, 6, 30, 10, 0, 0, tzinfo=UTC)


def a_status(**changes: Any) -> ImportStatus:
    """An import as it was just made, but for the changes."""
    given: dict[str, Any] = {
        "id": UUID(json.loads(seed.STARTED)["id"]).hex,
        "number": 1,
        "collection": parse.COLLECTION,
        "state": ImportState.PENDING,
        "source": SourceRef("bucket", "key"),
        "mapping": Mapping(),
        "created_at": STARTED,
        "started_at": None,
        "finished_at": None,
        "read_at": datetime(2024, 6, 30, 11, 0, 0, 7, tzinfo=UTC),
        "bytes_total": None,
        "chunks_total": 0,
        "chunks_running": 0,
        "progress": Progress(),
        "error": None,
        "history": ((ImportState.PENDING, STARTED),),
    }
    return ImportStatus(**{**given, **changes})


def get(client: FlaskClient, stage: Stage, key: str, path: str = "", *, method: str = "GET") -> TestResponse:
    path = f"/v2/imports/{stage.caller.project_id}{path}"
    return client.open(path, method=method, headers={"Authorization": f"Bearer {key}"})


def listed(client: FlaskClient, stage: Stage, key: str, query: Any = ()) -> list[str]:
    """Return the ids of a list, without dashes."""
    answer = get(client, stage, key, f"?{urlencode(query, doseq=True)}")
    assert answer.status_code == 200, answer.text
    assert list(answer.get_json()) == ["event_imports"]
    return [UUID(one["id"]).hex for one in answer.get_json()["event_imports"]]


def test_the_descriptions_import_is_rendered_to_the_letter() -> None:
    found = render.event_import(a_status(), "acme")
    assert found == json.loads(seed.STARTED)
    assert list(found) == list(json.loads(seed.STARTED)), "the order of the members"


@pytest.mark.parametrize("state", ImportState)
def test_every_state_has_a_word_of_scarfs(state: ImportState) -> None:
    ended = {"finished_at": datetime(2024, 6, 30, 10, 30, tzinfo=UTC)} if state.ended else {}
    found = render.event_import(a_status(state=state, **ended), "acme")
    words = {"completed": "done", "completed_with_errors": "done", "failed": "aborted", "cancelled": "aborted"}
    assert found["status"] == words.get(state.value, "importing")
    assert found["updated_at"] == (
        "2024-06-30T10:30:00.000000Z" if state.ended
        else "2024-06-30T10:00:00.000000Z" if state is ImportState.PENDING
        else "2024-06-30T11:00:00.000007Z"
    )  # fmt: skip


def test_counts_leave_duplicates_out_and_blank_lines_altogether() -> None:
    counts = Counts(lines=2164, imported=2000, replaced=158, duplicates=1, rejected=3, blank=2)
    found = render.event_import(a_status(state=ImportState.RUNNING, progress=Progress(counts)), "acme")
    assert (found["events_total"], found["events_successfully_imported"], found["events_failed_to_import"]) == (
        2162,
        2158,
        3,
    )


def test_a_failure_is_never_silent() -> None:
    failed = a_status(
        state=ImportState.FAILED, error=Failure("object_changed", "The object has changed."), finished_at=STARTED
    )
    errors = [LineError((0, n), "key", n, 0, 1, RejectCode.INVALID_JSON) for n in range(30)]
    found = render.event_import(failed, "acme", render.log_entries(failed, render.sample(errors), {}))
    first, *rest = found["error_log_sample"]
    assert first == render.progress(failed)
    assert (first["type"], first["class"]) == ("progress", "error")
    assert first["human_friendly_message"].startswith("The object has changed.")
    assert [entry["line"] for entry in rest] == [*range(1, 11)], "the first ten"
    assert found["warning_log_sample"] == []


def test_each_sample_has_its_own_first_lines() -> None:
    codes = [RejectCode.INVALID_JSON] * 50 + [RejectCode.UNKNOWN_REFERENCE] * 50
    errors = [LineError((0, n), "key", n, 0, 1, code) for n, code in enumerate(codes)]
    assert [error.index for error in render.sample(errors)] == [*range(10), *range(50, 60)]


def test_of_several_objects_an_entry_says_which() -> None:
    status = a_status(source=SourceRef("bucket", "logs/", kind=SourceKind.PREFIX))
    error = LineError((0, 0), "logs/a.json", 0, 0, 1, RejectCode.EMPTY_ID)
    for total, expected in ((1, False), (2, True)):
        several = a_status(source=status.source, pieces=type(status.pieces)(total))
        (entry,) = render.log_entries(several, [error], {})
        assert ("logs/a.json" in entry["human_friendly_message"]) is expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"$package": "a", "$tracking_pixel": "b", "$pixel": "c"}',
         {"package_id": "a", "tracking_pixel_id": "b"}),
        (b'{"$tracking_pixel": null, "$pixel": "c"}', {"tracking_pixel_id": "c"}),
        (b'{"$package": "\\u0000\\ud83d\\ude00", "x": 1e999}', {"package_id": "\0\U0001f600"}),
        (b'{"$package": {"a": 1}}', {}),
        (b'{"$package": "a", "x": "cut o', {}),
        (b'{"$package": "\\ud800"}', {}),
        (b'{"$package": "\xff"}', {}),
        (b"[" * 5000, {}),
        (b'{"x": ' + b"[" * 5000, {}),
        (b"[1]", {}),
        (b"", {}),
    ],
)  # fmt: skip
def test_artifacts_are_read_from_what_is_kept_of_a_line(line: bytes, expected: dict[str, str]) -> None:
    found = render.named_artifacts(line)
    assert found == expected
    render.log_lines([found])


# --- one job, several views


def test_imports_of_every_wire_are_listed_newest_first(client: FlaskClient, stage: Stage, key: str) -> None:
    bearer = {"Authorization": f"Bearer {key}"}
    connect = {"X-API-Key": key, "X-Project-Id": stage.caller.project_id}
    s3 = {"s3Path": stage.put(b"").url, "s3AccessKeyId": "a", "s3SecretAccessKey": "s"}
    first = client.post("/event-import", json={"collection": "a", **s3}, headers=connect).headers["Location"]
    second = client.post("/api/imports?collection=b", data=b"{}", headers=bearer).get_json()
    third = client.post(f"/v2/{stage.caller.project_id}/import", data=b"{}", headers=bearer).get_json()

    ids = [UUID(third["id"]).hex, second["id"], first.rsplit("/", 1)[1]]
    assert listed(client, stage, key) == ids
    native = client.get(f"/api/imports/{ids[0]}", headers=bearer).get_json()
    assert (native["collection"], native["status"]) == (parse.COLLECTION, "pending")
    assert get(client, stage, key, f"/{ids[2]}").get_json()["status"] == "importing"

    assert client.post(f"/api/imports/{ids[0]}/cancel", headers=bearer).status_code == 200
    assert get(client, stage, key, f"/{UUID(ids[0])}").get_json()["status"] == "aborted"
    assert get(client, stage, key, f"/{ids[2]}/abort", method="POST").status_code == 204
    assert client.get(first, headers=connect).get_json()["status"] == "failed"


def test_a_list_is_chosen_by_status_and_read_page_by_page(client: FlaskClient, stage: Stage, key: str) -> None:
    done = [stage.run(ndjson(event("a"))).id, stage.run(b"{bad").id]
    aborted = [stage.start(b""), stage.start(b"")]
    stage.desk.cancel_import(stage.caller, aborted[0])
    with stage.runtime.database.transaction() as tx:
        assert imports.fail_import(tx, aborted[1], Terminal("credentials_expired", "Its keys are no more."))
    active = [stage.start(b"") for _ in range(9)]
    newest = [*done, *aborted, *active][::-1]

    assert listed(client, stage, key) == newest[:10], "ten where nobody says how many"
    assert listed(client, stage, key, {"status": "done"}) == done[::-1]
    assert listed(client, stage, key, {"status": "aborted"}) == aborted[::-1]
    assert listed(client, stage, key, {"status": ["aborted", "done"]}) == newest[9:]
    assert listed(client, stage, key, {"status": "importing", "per_page": 100}) == active[::-1]

    pages: list[str] = []
    while page := listed(client, stage, key, {"per_page": 4, **({"after": UUID(pages[-1])} if pages else {})}):
        pages += page
    assert pages == newest
    (failed,) = get(client, stage, key, "?status=aborted&per_page=1").get_json()["event_imports"]
    assert failed["error_log_sample"][0]["human_friendly_message"].startswith("Its keys are no more.")


@pytest.mark.parametrize(
    "query",
    [
        "per_page=abc", "per_page=0", "per_page=-1", "per_page=101", "per_page=1e3", "per_page=", "per_page=%00",
        "per_page=" + "9" * 5000, "per_page=9223372036854775808", "status=paused", "status=", "status[]=done",
        "status=done&status=nonsense", "status=%ed%a0%80", "after=", "after=nonsense", "after=%00", "after=-1",
        "after=" + "0" * 31, "page=2", "x%00=1", "%ff=%ff",
    ],
)  # fmt: skip
def test_a_list_that_cannot_be_made_is_refused_and_says_why(
    client: FlaskClient, stage: Stage, key: str, query: str
) -> None:
    answer = get(client, stage, key, f"?{query}")
    assert (answer.status_code, answer.get_json()["code"]) == (422, "invalid-request"), answer.text
    assert set(answer.get_json()) == {"code", "message"}
    assert answer.get_json()["message"]


@pytest.mark.parametrize("import_id", ["0" * 32, str(UUID(int=0)), "nonsense", "%00", "%ff", "1" * 5000, "log"])
def test_an_import_of_nobodys_or_of_another_project_is_not_found(
    client: FlaskClient, stage: Stage, key: str, import_id: str
) -> None:
    other = Stage(stage.settings, stage.bucket)
    theirs = other.run(b"{bad").id
    for asked in (import_id, theirs, str(UUID(theirs))):
        for path, method in (("", "GET"), ("/log", "GET"), ("/abort", "POST")):
            answer = get(client, stage, key, f"/{asked}{path}", method=method)
            assert (answer.status_code, answer.get_json()["code"]) == (404, "not-found"), (asked, path)
            assert set(answer.get_json()) == {"code", "message"}
    after = get(client, stage, key, f"?after={theirs}")
    assert (after.status_code, after.get_json()["code"]) == (404, "not-found")
    other.close()


# --- the log


def test_a_log_of_any_length_is_read_page_by_page(
    client: FlaskClient, stage: Stage, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line is missing or told twice, wherever pages and chunks end."""
    body = b"\n".join(b"{bad" if n % 3 else json.dumps({"n": n}).encode() for n in range(300))
    status = stage.run(body)
    assert status.chunks_total > 3
    expected = [n + 1 for n in range(300) if n % 3]
    for page in (1, 7, 200, 1000):
        monkeypatch.setattr(routes, "_PAGE", page)
        entries = [json.loads(line) for line in get(client, stage, key, f"/{status.id}/log").data.splitlines()]
        assert [entry["line"] for entry in entries[:-1]] == expected
        assert entries[-1]["type"] == "progress"


def test_a_log_is_sent_as_it_is_read(
    client: FlaskClient, stage: Stage, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = stage.run(b"\n".join([b"{bad"] * 30))
    pages: list[int] = []
    list_errors = imports.list_errors

    def watched(*given: Any, **named: Any) -> Any:
        pages.append(named["limit"])
        return list_errors(*given, **named)

    monkeypatch.setattr(routes, "_PAGE", 10)
    monkeypatch.setattr(imports, "list_errors", watched)
    answer = client.get(
        f"/v2/imports/{stage.caller.project_id}/{status.id}/log",
        headers={"Authorization": f"Bearer {key}"},
        buffered=False,
    )
    pieces = iter(answer.response)
    sizes = [(len(next(pieces).splitlines()), len(pages)) for _ in range(4)]
    assert sizes == [(10, 1), (10, 2), (10, 3), (1, 3)], "lines, and pages read by then"
    answer.close()


def test_artifacts_of_large_lines_are_told_though_not_all_lines_are_held_at_once(
    client: FlaskClient, stage: Stage, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.desk._AT_ONCE", 3000)
    read: list[int] = []
    read_rejected = imports.read_rejected

    def watched(*given: Any) -> Any:
        found = read_rejected(*given)
        read.append(sum(len(line) for _, line in found))
        return found

    monkeypatch.setattr(imports, "read_rejected", watched)
    spec = parse.import_spec(None, compression=None)
    ids = [str(uuid4()) for _ in range(20)]
    body = ndjson(*({"$package": one, "$time": 0, "filler": "x" * 1000} for one in ids))
    status = stage.run(body, mapping=spec.mapping, collection=parse.COLLECTION)

    entries = [json.loads(line) for line in get(client, stage, key, f"/{status.id}/log").data.splitlines()]
    assert [entry.get("package_id") for entry in entries[:-1]] == ids
    assert max(read) < 2 * 3000
    sample = get(client, stage, key, f"/{status.id}").get_json()["warning_log_sample"]
    assert sample == entries[:10]


def test_a_log_of_an_import_under_way_has_what_is_known_so_far(client: FlaskClient, stage: Stage, key: str) -> None:
    import_id = stage.start(b"\n".join([b"{bad" + b" " * 60] * 12))
    plan_import(stage.runtime, import_id)
    first, _, third, *_ = stage.chunk_ids(import_id)
    for chunk_id in (first, third):
        load_chunk(stage.runtime, chunk_id)
    *entries, progress = (json.loads(line) for line in get(client, stage, key, f"/{import_id}/log").data.splitlines())

    document = get(client, stage, key, f"/{import_id}").get_json()
    assert document["status"] == "importing"
    assert [entry["line"] for entry in entries] == [*range(1, len(entries) + 1)]
    assert 0 < len(entries) < progress["failed_events_count"] == document["events_failed_to_import"]


def test_aborting_ends_an_import_for_good_and_changes_none_that_has_ended(
    client: FlaskClient, stage: Stage, key: str
) -> None:
    (chunk, *_) = stage.planned(ndjson(*(event(str(n)) for n in range(10))))
    import_id = stage.import_of(chunk)
    for _ in range(2):
        answer = get(client, stage, key, f"/{UUID(import_id)}/abort", method="POST")
        assert (answer.status_code, answer.data) == (204, b"")
    load_chunk(stage.runtime, chunk)
    assert stage.rows() == []
    document = get(client, stage, key, f"/{import_id}").get_json()
    assert (document["status"], document["error_log_sample"]) == ("aborted", [])
    (last,) = get(client, stage, key, f"/{import_id}/log").data.splitlines()
    assert json.loads(last)["human_friendly_message"].startswith("The import was aborted.")

    done = stage.run(ndjson(event("a")))
    assert get(client, stage, key, f"/{done.id}/abort", method="POST").status_code == 204
    assert get(client, stage, key, f"/{done.id}").get_json()["status"] == "done"


def test_a_body_that_breaks_off_is_an_aborted_import_that_says_so(client: FlaskClient, stage: Stage, key: str) -> None:
    answer = client.post(
        f"/v2/{stage.caller.project_id}/import",
        headers={"Authorization": f"Bearer {key}"},
        data=seed.FILE,
        environ_overrides={"CONTENT_LENGTH": str(len(seed.FILE) + 1), "wsgi.input_terminated": True},
    )
    assert (answer.status_code, answer.get_json()["code"]) == (400, "malformed-body")
    (import_id,) = listed(client, stage, key)
    document = get(client, stage, key, f"/{import_id}").get_json()
    assert document["status"] == "aborted"
    assert document["error_log_sample"][0]["human_friendly_message"]
