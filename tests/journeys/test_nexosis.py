"""Nexosis' document on imports from S3, by curl: its request as it stands, and datasets from files, held to oracles.

What a file comes to is told by the standard library alone.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import signal
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from tests.dialects.nexosis import seed
from tests.journeys.curl import Curl, needs_curl
from tests.journeys.stack import WORKER, Answer, Fault, Stack, s3_client, stopped_workers, wait_until

pytestmark = needs_curl

#: The bucket of the document.
BUCKET = json.loads(seed.REQUEST)["bucket"]
TIMESTAMP = {"timeStamp": {"dataType": "date", "role": "timestamp"}}
#: Lines of a large file, and how many moments they have: three of four lines give way to later ones.
LARGE, MOMENTS = 20_000, 5_000

Row = dict[str, str]


class Nexosis(Curl):
    """curl, as a caller of Nexosis."""

    def told(self, path: str, *arguments: str, status: int = 200) -> Any:
        """Call, and return the document of an answer with this status."""
        answer = self.ask(path, *arguments, wire="nexosis")
        assert answer.status == status, answer
        return answer.body

    def send(self, method: str, path: str, content: str, kind: str = "application/json") -> Answer:
        (self.folder / "sent").write_bytes(content.encode())
        arguments = ("-X", method, "-H", f"Content-Type: {kind}", "--data-binary", "@sent")
        return self.ask(path, *arguments, wire="nexosis")

    def put(self, content: bytes, key: str | None = None) -> str:
        """Store an object in the document's bucket and return its path."""
        key = key or f"nexosis-{uuid4().hex}"
        with s3_client(self.stack.s3) as client:
            client.put_object(Bucket=BUCKET, Key=key, Body=content)
        return key

    def start(self, name: str, content: bytes, **more: Any) -> str:
        """Import a file into a dataset; return the import's id."""
        wish = {"dataSetName": name, "bucket": BUCKET, "path": self.put(content), **more}
        answer = self.send("POST", "/v1/imports/s3", json.dumps(wish))
        assert (answer.status, answer.body["status"]) == (200, "requested"), answer
        return str(answer.body["importId"])

    def end(self, import_id: str) -> Answer:
        """Follow an import to its end and return its last answer, whose header says what its body does."""

        def ended() -> Answer | None:
            answer = self.ask(f"/v1/imports/{import_id}", wire="nexosis")
            assert answer.status == 200, answer
            assert answer.headers["Nexosis-Import-Status"] == answer.body["status"].capitalize()
            return None if answer.body["status"] in ("requested", "started") else answer

        return wait_until(ended, what=f"import {import_id} has ended")

    def run_import(self, name: str, content: bytes, **more: Any) -> dict[str, Any]:
        """Import a file, which is to complete, and return the import."""
        document: dict[str, Any] = self.end(self.start(name, content, **more)).body
        assert document["status"] == "completed", document
        return document

    def pages(self, path: str) -> Iterator[Any]:
        """Yield a list's pages, each from where the one before says that it is."""
        address, number = path, 0
        while address:
            document = self.told(address)
            assert document["pageNumber"] == number, document["links"]
            yield document
            address, number = links_of(document).get("next", ""), number + 1

    def rows(self, name: str, query: str = "pageSize=1000") -> list[Row]:
        """Return the rows of all pages of a dataset."""
        return [row for page in self.pages(f"/v1/data/{name}?{query}") for row in page["data"]]


@pytest.fixture(scope="module")
def bucket(shared_stack: Stack) -> None:
    with s3_client(shared_stack.s3) as client:
        client.create_bucket(Bucket=BUCKET)


@pytest.fixture
def curl(stack: Stack, bucket: None, tmp_path: Path) -> Nexosis:
    return Nexosis(stack, tmp_path)


# --- oracles


def links_of(document: dict[str, Any]) -> dict[str, str]:
    return {link["rel"]: link["href"] for link in document["links"]}


def as_csv(rows: Sequence[Row]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def moment_of(row: Row) -> datetime:
    time = datetime.fromisoformat(row["timeStamp"])
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def told(*files: Sequence[Row]) -> list[Row]:
    """Return the rows of a dataset as it tells them, given its files in order: of each moment the last row."""
    last = {moment_of(row): row for rows in files for row in rows}
    return [{**last[at], "timeStamp": f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.0000000Z"} for at in sorted(last)]


def days(count: int, *, first: int = 0, note: str = "") -> list[Row]:
    """Return rows of so many days, in no order."""
    start = date(2013, 1, 1) + timedelta(days=first)
    rows = [
        {"timeStamp": (start + timedelta(days=n)).isoformat(), "sales": f"{n}.50", "note": f'{note}, "{n}"'}
        for n in range(count)
    ]
    Random(8).shuffle(rows)
    return rows


def moments(count: int, *, seed: int) -> list[Row]:
    """Return rows of moments drawn by chance, in four spellings of them: many come back, near and far."""
    random = Random(seed)
    start = datetime(2016, 1, 1, tzinfo=UTC)
    rows = []
    for number in range(count):
        at = start + timedelta(minutes=random.randrange(MOMENTS))
        spelled = random.choice(
            [
                at.isoformat(),
                f"{at:%Y-%m-%dT%H:%M:%SZ}",
                f"{at:%Y-%m-%d %H:%M:%S}",
                f"{at + timedelta(hours=2):%Y-%m-%dT%H:%M:%S}+02:00",
            ]
        )
        rows.append({"timeStamp": spelled, "number": f"{seed}-{number}", "filling": "x" * random.randrange(80)})
    return rows


# --- imports


def test_the_documents_request_runs_as_it_stands(curl: Nexosis) -> None:
    rows = days(1_100)
    curl.put(as_csv(rows), json.loads(seed.REQUEST)["path"])
    started = curl.send("POST", "/v1/imports/s3", seed.REQUEST)
    assert (started.status, started.headers["Nexosis-Import-Status"]) == (200, "Requested")
    ended = curl.end(started.body["importId"]).body

    for document, sample in ((started.body, seed.STARTED), (ended, seed.COMPLETED)):
        expected = json.loads(sample)
        own = {name: document[name] for name in ("importId", "requestedDate", "statusHistory", "links")}
        assert list(document) == list(expected)
        assert document == {**expected, **own}
        told_statuses, statuses = ([one["status"] for one in each["statusHistory"]] for each in (document, expected))
        assert told_statuses == statuses
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", document["requestedDate"])
        dates = [datetime.fromisoformat(one["date"]) for one in document["statusHistory"]]
        assert dates[0] == datetime.fromisoformat(document["requestedDate"])
        assert dates == sorted(dates)
    assert ended["requestedDate"] == started.body["requestedDate"]
    assert curl.told(links_of(ended)["self"]) == ended

    # Where the link tells to are the rows of the file.
    address = links_of(ended)["data"] + "?pageSize=500"
    pages = list(curl.pages(address))
    assert [len(page["data"]) for page in pages] == [500, 500, 100]
    assert [row for page in pages for row in page["data"]] == told(rows)
    assert {(page["dataSetName"], page["isTimeSeries"], page["totalCount"]) for page in pages} == {
        ("Location-A", True, 1_100)
    }
    assert curl.told(links_of(pages[2])["prev"]) == curl.told(links_of(pages[0])["next"]) == pages[1]
    assert curl.told(links_of(pages[1])["first"])["data"] == pages[0]["data"]
    assert curl.told(links_of(pages[1])["last"])["data"] == pages[2]["data"]

    # The same as CSV.
    read: list[Row] = []
    for number in range(3):
        answer = curl.ask(f"{address}&page={number}", "-H", "Accept: text/csv", wire="nexosis")
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/csv; charset=utf-8")
        read += csv.DictReader(io.StringIO(answer.body.decode(), newline=""))
    assert read == told(rows)


def test_the_list_is_read_by_its_own_links_and_each_item_is_the_import(curl: Nexosis, collection: str) -> None:
    ids = [curl.start(collection, as_csv(days(3, first=n))) for n in range(5)]
    imports = {import_id: curl.end(import_id).body for import_id in ids}
    curl.run_import("another-dataset", as_csv(days(1)))
    asked = f"/v1/imports?dataSetName={collection}&pageSize=2"

    def listed(query: str) -> list[Any]:
        return [item["importId"] for page in curl.pages(asked + query) for item in page["items"]]

    pages = list(curl.pages(asked))
    assert [len(page["items"]) for page in pages] == [2, 2, 1]
    assert [list(page) for page in pages] == [["items", *seed.PAGE_MEMBERS]] * 3
    assert [item for page in pages for item in page["items"]] == [imports[import_id] for import_id in ids[::-1]]
    assert curl.told(links_of(pages[2])["prev"]) == pages[1]
    assert curl.told(links_of(pages[1])["first"])["items"] == pages[0]["items"]
    assert curl.told(asked + "&page=0&page=2") == pages[2]
    assert listed("&sortBy=requestedDate&sortOrder=ASC") == ids

    # Both ends are within.
    since, until = (quote(imports[import_id]["requestedDate"]) for import_id in (ids[1], ids[3]))
    assert listed(f"&requestedAfterDate={since}&requestedBeforeDate={until}") == ids[3:0:-1]


def test_a_file_of_every_form_becomes_the_same_dataset(curl: Nexosis, collection: str) -> None:
    rows = days(300, note="ünïcode\nof two lines")
    text, array = as_csv(rows), json.dumps(rows, indent=2).encode()
    whole = b'{"columns": %b, "data": %b}' % (json.dumps(TIMESTAMP).encode(), array)
    files = [text, gzip.compress(text), array, gzip.compress(array), whole, gzip.compress(whole)]
    started = {f"{collection}-{n}": content for n, content in enumerate(files)}
    ids = [curl.start(name, content) for name, content in started.items()]

    assert [(ended["status"], ended["messages"]) for ended in (curl.end(one).body for one in ids)] == [
        ("completed", [])
    ] * len(files)
    datasets = [curl.told(f"/v1/data/{name}?pageSize=300") for name in started]
    assert [dataset["data"] for dataset in datasets] == [told(rows)] * len(files)
    assert {json.dumps(dataset["columns"]) for dataset in datasets} == {json.dumps(datasets[0]["columns"])}
    listed = curl.told(f"/v1/data?partialName={collection}")
    assert [(item["dataSetName"], item["rowCount"]) for item in listed["items"]] == [(name, 300) for name in started]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, seed.MISSING),
        (b"\x00\x01 neither of them \xff\n" * 9, seed.SHAPELESS),
        (gzip.compress(b"a,b\n1,2\n")[:-9], "Unable to import because we encountered an error"),
    ],
    ids=["that is not there", "of another kind", "cut short"],
)
def test_a_bad_object_is_a_failed_import_that_says_why(curl: Nexosis, content: bytes | None, message: str) -> None:
    name = f"bad-{uuid4().hex}"
    failed = curl.end(curl.start(name, content or b"", **({} if content else {"path": "nobody-put-this"}))).body

    assert [failed["status"], failed["statusHistory"][-1]["status"]] == ["failed", "failed"]
    said = failed["messages"]
    assert [one["severity"] for one in said] == ["error", "error"]
    assert said[0]["message"] == message
    # Of the one that is cut short a row may be there that was read before.
    assert curl.rows(name) in ([], [{"a": "1", "b": "2"}])


# --- rows that take the place of others


def test_rows_are_taken_the_place_of_and_deleted_by_their_moments(curl: Nexosis, collection: str) -> None:
    path = f"/v1/data/{collection}"
    first, second, third = days(60, note="a"), days(40, first=40, note="b"), days(3, first=79, note="c")
    curl.run_import(collection, as_csv(first))
    ended = curl.run_import(collection, as_csv(second))
    assert [message["severity"] for message in ended["messages"]] == ["informational"]
    assert ended["messages"][0]["message"].endswith(": 20.")
    assert curl.rows(collection) == told(first, second)

    put = curl.send("PUT", path, json.dumps({"data": third}))
    assert (put.status, put.headers["Location"]) == (201, curl.stack.service.api + path)
    fourth = days(2, first=80, note="d")
    assert curl.send("PUT", path, as_csv(fourth).decode(), "text/csv").status == 201
    rows = told(first, second, third, fourth)
    assert curl.rows(collection) == rows
    assert len(rows) == 82

    # A timeframe has both of its ends.
    within = f"startDate={rows[10]['timeStamp']}&endDate={rows[29]['timeStamp']}"
    assert curl.rows(collection, f"pageSize=7&{within}") == rows[10:30]
    assert curl.told(f"{path}?{within}", "-X", "DELETE", status=204) == b""
    assert curl.rows(collection) == rows[:10] + rows[30:]
    assert curl.rows(collection, within) == []

    assert curl.told(path, "-X", "DELETE", status=204) == b""
    gone = curl.told(path, status=404)
    assert (gone["errorType"], gone["errorDetails"]) == ("NotFound", {"itemType": "dataSet", "itemId": collection})
    assert curl.told(f"/v1/data?partialName={collection}")["items"] == []
    # A name that is free again may have rows that are named otherwise.
    keyed = curl.run_import(collection, b"key,n\na,1\na,2\n", columns={"key": {"role": "key"}})
    assert keyed["dataSetName"] == collection
    assert curl.rows(collection) == [{"key": "a", "n": "2"}]


def test_of_two_files_at_once_one_settles_what_names_the_rows_of_a_new_dataset(
    curl: Nexosis, collection: str, stack: Stack
) -> None:
    """Each file has its own column of dates: the other has none where the dataset has its timestamp."""
    files = {by: [{by: f"2020-01-{n:02}", "n": f"{by}-{n}"} for n in range(1, 29)] for by in ("saleDay", "shippingDay")}
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %(name)s AND wait_event_type = 'Lock'"
    with stack.database.aside() as tx:
        with stopped_workers(stack):
            ids = {by: curl.start(collection, as_csv(rows)) for by, rows in files.items()}
            tx.one("SELECT FROM collections WHERE name = %(name)s FOR NO KEY UPDATE", name=collection)
        # Both have seen that it has no columns.
        wait_until(lambda: stack.value(waiting, name=WORKER) == 2, what="two workers wait for the dataset")
    ended = {by: curl.end(import_id).body for by, import_id in ids.items()}

    dataset = curl.told(f"/v1/data/{collection}")
    (by,) = (column for column, said in dataset["columns"].items() if said.get("role") == "timestamp")
    (other,) = files.keys() - {by}
    assert dataset["data"] == [{**row, by: row[by] + "T00:00:00.0000000Z"} for row in files[by]]
    assert (ended[by]["status"], ended[by]["messages"]) == ("completed", [])
    assert ended[other]["status"] == "failed"
    assert "and the file has no such column." in ended[other]["messages"][-1]["message"]


# --- whatever dies


def test_killing_workers_loses_no_row_and_of_each_moment_keeps_the_last(
    curl: Nexosis, collection: str, stack: Stack
) -> None:
    rows = moments(LARGE, seed=1)
    keys = {"accessKeyId": stack.key_id, "secretAccessKey": stack.canary}
    import_id = curl.start(collection, as_csv(rows), columns=TIMESTAMP, **keys)

    def kill_pool() -> None:
        for pid in stack.workers_up()[-1].pool:
            os.kill(pid, signal.SIGKILL)

    stack.follow(
        import_id,
        Fault(5, lambda: stack.kill_worker(0)),
        # Not at 0 %: killed before it has the file's line breaks, it cost 6 s more of waiting for its message.
        Fault(20, lambda: os.kill(stack.walker().main, signal.SIGKILL)),
        Fault(35, kill_pool),
        Fault(60, lambda: stack.kill_worker(1)),
        least=2,
    )

    check_large(curl, collection, import_id, rows)


def test_an_emptied_redis_costs_no_row_neither_of_a_dataset_that_has_some(
    curl: Nexosis, collection: str, stack: Stack
) -> None:
    before, rows = moments(3_000, seed=2), moments(LARGE, seed=3)
    check_large(curl, collection, curl.start(collection, as_csv(before), columns=TIMESTAMP), before)
    import_id = curl.start(collection, as_csv(rows))
    stack.follow(import_id, *(Fault(percent, stack.flush) for percent in (0, 20, 50, 80)), least=3)

    check_large(curl, collection, import_id, rows, before=before)


def check_large(
    curl: Nexosis, collection: str, import_id: str, rows: Sequence[Row], *, before: Sequence[Row] = ()
) -> None:
    """Hold a dataset, and what is told of the import that made it, to its file, and to the rows that were there."""
    curl.stack.drain()
    ended = curl.end(import_id).body
    had, brought = ({moment_of(row) for row in each} for each in (before, rows))

    assert (ended["status"], [one["status"] for one in ended["statusHistory"]]) == (
        "completed",
        ["requested", "started", "completed"],
    )
    assert curl.stack.status(import_id)["counts"] == {
        "lines": len(rows),
        "imported": len(brought - had),
        "replaced": len(brought & had),
        "duplicates": len(rows) - len(brought),
        "rejected": 0,
        "blank": 0,
    }
    numbers = [int(one["message"].rsplit(": ", 1)[1].rstrip(".")) for one in ended["messages"]]
    assert numbers == [number for number in (len(brought & had), len(rows) - len(brought)) if number]
    expected = told(before, rows)
    assert curl.rows(collection) == expected
    (item,) = curl.told(f"/v1/data?partialName={collection}")["items"]
    assert item["rowCount"] == len(expected)
