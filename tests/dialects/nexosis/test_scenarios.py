"""Nexosis' wire: a file on its way from S3 into a dataset, from the request to the rows that are read."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from tests.dialects.nexosis import seed
from tests.dialects.nexosis.asking import Asking
from tests.stage import Stage

CSV = b"timeStamp,sales,transactions\r\n2012-12-31,2919.51,431\r\n2013-01-01,1288.60,191\r\n2013-01-02,2895.62,443\r\n"
ROWS = [
    {"timeStamp": "2012-12-31T00:00:00.0000000Z", "sales": "2919.51", "transactions": "431"},
    {"timeStamp": "2013-01-01T00:00:00.0000000Z", "sales": "1288.60", "transactions": "191"},
    {"timeStamp": "2013-01-02T00:00:00.0000000Z", "sales": "2895.62", "transactions": "443"},
]
#: A file of the same rows in every form that there is.
FILES = {
    "CSV": CSV,
    "CSV, compressed": gzip.compress(CSV),
    "an array": b'[{"timeStamp":"2012-12-31","sales":2919.51,"transactions":431},\n'
    b' {"timeStamp":"1/1/2013","sales":1288.60,"transactions":191},\n'
    b' {"timeStamp":"2013-01-02T01:00:00+01:00","sales":2895.62,"transactions":443}]',
}
FILES["an array, compressed"] = gzip.compress(FILES["an array"])
FILES["an object with columns and data"] = b'{"columns": {}, "data": %b}' % FILES["an array"]
FILES["an object with data and columns"] = b'{"data": %b, "columns": {}}' % FILES["an array"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_every_form_becomes_the_same_dataset(ask: Asking, name: str) -> None:
    """Nobody declared anything: the first rows tell that one column has the dates, and others numbers."""
    ended = ask.run(FILES[name])
    assert (ended["status"], ended["messages"], ended["columns"]) == ("completed", [], {})
    document = ask.told("GET", "/data/table")
    assert document["data"] == ROWS
    assert (document["isTimeSeries"], document["totalCount"]) == (True, 3)
    number = {"dataType": "numeric", "role": "feature", "imputation": "zeroes", "aggregation": "sum"}
    assert document["columns"] == {
        "timeStamp": {"dataType": "date", "role": "timestamp"},
        "sales": number,
        "transactions": number,
    }


def test_the_documents_file_is_read_back(ask: Asking) -> None:
    ask.run(seed.FILE, "Location-A")
    document = ask.told("GET", "/data/Location-A")
    assert document["data"] == json.loads(seed.FILE)
    text = {"dataType": "string", "role": "feature", "imputation": "mode", "aggregation": "mode"}
    assert document["columns"] == {"col1": text, "col2": text}
    assert document["isTimeSeries"] is False


def test_a_later_import_takes_the_place_of_rows_of_the_same_moments_and_says_so(ask: Asking) -> None:
    ask.run(CSV)
    ended = ask.run(b"timeStamp,sales,transactions\n1/2/2013,1,2\n2013-01-03,3,4\n")
    (message,) = ended["messages"]
    assert (message["severity"], message["message"][-2:]) == ("informational", "1.")
    days = [(row["timeStamp"][:10], row["sales"]) for row in ask.rows()]
    assert days == [("2012-12-31", "2919.51"), ("2013-01-01", "1288.60"), ("2013-01-02", "1"), ("2013-01-03", "3")]


def test_of_rows_of_one_key_in_a_file_the_last_one_stays(ask: Asking) -> None:
    ended = ask.run(b"id,n\na,1\nb,2\na,3\n", columns={"id": {"role": "KEY"}})
    assert ended["columns"] == {"id": {"role": "key"}}
    assert {row["id"]: row["n"] for row in ask.rows()} == {"a": "3", "b": "2"}
    (message,) = ended["messages"]
    assert "a later row has the same key" in message["message"]


def test_keys_of_csv_and_of_json_are_the_same(ask: Asking) -> None:
    ask.run(b"id,n\n7,1\n", columns={"id": {"role": "key"}})
    ask.run(b'[{"id": 7, "n": 2}]')
    assert ask.rows() == [{"id": "7", "n": "2"}]


def test_a_row_without_its_key_is_a_warning_and_the_others_are_stored(ask: Asking) -> None:
    ended = ask.run(b"id,n\na,1\n,2\nc,3\n", columns={"id": {"role": "key"}})
    assert ended["status"] == "completed"
    first, last = ended["messages"]
    assert (first["severity"], first["message"].split(":")[0]) == ("warning", "Row 3")
    assert last["message"].endswith(": 1.")
    assert sorted(row["id"] or "" for row in ask.rows()) == ["a", "c"]


def test_another_key_than_the_datasets_fails_the_import_in_the_services_words(ask: Asking) -> None:
    ask.run(b"key,n\na,1\n", columns={"key": {"dataType": "string", "role": "key"}})
    ended = ask.run(b"key,n\nb,2\n", columns={"key": {"dataType": "numeric"}})
    assert ended["status"] == "failed"
    assert ended["messages"] == [{"severity": "error", "message": seed.KEY_CHANGED}]
    assert [row["key"] for row in ask.rows()] == ["a"]


def test_an_import_and_a_put_go_into_one_dataset(ask: Asking) -> None:
    ask.run(CSV)
    ask.told("PUT", "/data/table", {"data": [{"timeStamp": "2013-01-01", "sales": 0}]}, status=201)
    ask.run(b'[{"timeStamp": "2013-01-02", "sales": 1}]', contentType="JSON")
    assert [row["sales"] for row in ask.rows()] == ["2919.51", "0", "1"]
    assert [row["sales"] for row in ask.rows(startDate="2013-01-01", endDate="1-01-2013")] == ["0"]


def test_cells_with_dots_quotes_and_line_breaks_come_back_as_they_went(ask: Asking) -> None:
    ask.run(b'a.b,"c ""d"""\n"1,\n2","say ""hi"""\n')
    assert ask.rows() == [{"a.b": "1,\n2", 'c "d"': 'say "hi"'}]


def test_a_cancelled_import_is_told_so(ask: Asking, stage: Stage) -> None:
    started = ask.start(CSV)
    stage.desk.cancel_import(stage.caller, started["importId"])
    found = ask.detail(started["importId"])
    assert [entry["status"] for entry in found["statusHistory"]] == ["requested", "cancelled"]
    assert ask("GET", f"/imports/{started['importId']}").headers["Nexosis-Import-Status"] == "Cancelled"


def test_without_keys_what_everybody_may_read_is_imported_and_nothing_else_is(ask: Asking, stage: Stage) -> None:
    """S3 is asked without a signature: the service's own keys are no caller's."""
    for acl in ("private", "public-read"):
        wish: dict[str, Any] = ask.wish(CSV)
        del wish["accessKeyId"], wish["secretAccessKey"]
        stage.s3.put_object_acl(Bucket=stage.bucket, Key=wish["path"], ACL=acl)
        ended = ask.finish(ask.told("POST", "/imports/s3", wish))
        if acl == "private":
            assert (ended["status"], ended["messages"][0]["message"]) == ("failed", seed.FORBIDDEN)
            assert ask.rows() == []
    assert (ended["status"], ask.rows()) == ("completed", ROWS)
