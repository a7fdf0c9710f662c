"""Nexosis' wire: whatever is sent is answered in its form, and never as a mistake of ours."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from tests.dialects.nexosis.asking import ERROR, Asking

_text = st.text('aé\0"\\ 1.-e/%😀\n,;', max_size=6)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=6,
)
_column = st.fixed_dictionaries(
    {},
    optional={
        "dataType": st.sampled_from(["date", "numeric", "string", "TEXT", "logical", "", None, 1]),
        "role": st.sampled_from(["key", "timestamp", "target", "Feature", None, "x"]),
        "imputation": _json,
        "aggregation": st.sampled_from(["sum", "mean", "", None]),
    },
)
_columns = st.dictionaries(st.sampled_from(["a", "b", "", "\0", "a.b", "é"]), _column, max_size=3)
_cell = _json | st.sampled_from(["2017-01-01", "1/2/2017", "1e999999", "9" * 600])
_row = st.dictionaries(st.sampled_from(["a", "b", "", "\0", "a.b", "é"]), _cell, max_size=3)
_REQUEST: dict[str, Any] = {
    "dataSetName": "hostile", "bucket": "bucket", "path": "key", "region": "us-east-1", "columns": {},
    "accessKeyId": "a", "secretAccessKey": "s", "accesKeyId": "b", "contentType": "csv",
}  # fmt: skip

_once = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def _damaged(draw: st.DrawFn, body: bytes) -> bytes:
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(body)))
        return body[:at] + draw(st.binary(max_size=3)) + body[at + draw(st.integers(0, 3)) :]
    return body


@st.composite
def _requests(draw: st.DrawFn) -> bytes:
    """A request that would be right, but for a member or two, or for some bytes."""
    wrong = draw(st.dictionaries(st.sampled_from(sorted(_REQUEST)), _json, max_size=2))
    asked = {**_REQUEST, "columns": draw(_columns), **wrong}
    return _damaged(draw, json.dumps(asked).encode())


@st.composite
def _puts(draw: st.DrawFn) -> tuple[bytes, str]:
    """Rows that may be taken, as JSON or as CSV, or that some bytes were made of."""
    if draw(st.booleans()):
        said = {"data": draw(st.lists(_row, max_size=4) | _json), "columns": draw(_columns | _json)}
        return _damaged(draw, json.dumps(said).encode()), "application/json"
    lines = draw(
        st.lists(st.sampled_from(["a,b", "1,2", '"', ",", '"x""y",2', "2017-01-01,", "", "é,\0", "1"]), max_size=6)
    )
    return _damaged(draw, "\r\n".join(lines).encode()), "text/csv"


def _check_refused(answer: TestResponse) -> None:
    assert answer.headers["Content-Type"] == "application/json"
    assert list(answer.get_json()) in (ERROR, ERROR[:2])
    assert answer.get_json()["statusCode"] == answer.status_code


@_once
@given(_requests())
def test_a_request_with_anything_in_it_is_taken_or_refused(ask: Asking, body: bytes) -> None:
    answer = ask("POST", "/imports/s3", body)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 200:
        import_id = answer.get_json()["importId"]
        assert ask.detail(import_id) == {**answer.get_json(), "links": ask.detail(import_id)["links"]}
        ask.stage.desk.cancel_import(ask.stage.caller, import_id)
    else:
        _check_refused(answer)


@_once
@given(_puts())
def test_rows_with_anything_in_them_are_all_taken_or_none(ask: Asking, put: tuple[bytes, str]) -> None:
    body, kind = put
    ask("DELETE", "/data/hostile")
    answer = ask("PUT", "/data/hostile", body, Content_Type=kind)
    assert answer.status_code in (201, 400), answer.text
    if answer.status_code == 400:
        _check_refused(answer)
        assert ask("GET", "/data/hostile").status_code == 404, "nothing was made"
        return
    document = ask.told("GET", "/data/hostile")
    assert document["totalCount"] == len(document["data"]) > 0
    assert {name: document[name] for name in ("dataSetSize", "columns")} == {
        name: answer.get_json()[name] for name in ("dataSetSize", "columns")
    }
    assert ask("GET", "/data/hostile", Accept="text/csv").status_code == 200
    assert ask("GET", "/data/hostile", query={"startDate": "2016-01-01"}).status_code in (200, 400)


_names = st.sampled_from(
    ["page", "pageSize", "PAGE", "startDate", "endDate", "include", "sortBy", "sortOrder", "dataSetName", "partialName",
     "requestedAfterDate", "cascade"]
)  # fmt: skip
_values = st.sampled_from(["1", "2017-01-01", "99999999999", "-1", "asc", "9999-12-31", "0001-01-01T00:00+14:00"])


@_once
@given(
    st.sampled_from(["GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS"]),
    st.sampled_from(["/imports", "/Imports/S3", "/data", "/DATA/a", "/imports/url", "/data/a/b"]),
    st.text("ab/.%0F2e;é\\ \n", max_size=12),
    st.lists(st.tuples(_names, _text | _values), max_size=4),
)
def test_a_path_and_a_query_with_anything_in_them_are_answered(
    ask: Asking, method: str, path: str, rest: str, query: list[tuple[str, str]]
) -> None:
    answer = ask(method, path + (quote(rest, safe="/%") if rest else ""), b"{}", query=query)
    assert answer.status_code < 500 or (answer.status_code == 501 and path == "/imports/url"), answer.text
    if answer.status_code >= 400 and method != "HEAD":
        _check_refused(answer)


_header = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=20)


@_once
@given(
    st.dictionaries(
        st.sampled_from(
            ["Accept", "Content-Type", "Content-Encoding", "Idempotency-Key", "Accept-Charset", "X-Request-Id", "Range"]
        ),
        _header | st.sampled_from(["text/csv", "gzip", "text/csv;q=nan", "*/*;q=", "application/json;charset=x"]),
        max_size=3,
    )
)
def test_headers_with_anything_in_them_are_answered(ask: Asking, headers: dict[str, str]) -> None:
    given = {name.replace("-", "_"): value for name, value in headers.items()}
    for method, path in (
        ("GET", "/data/hostile"),
        ("PUT", "/data/hostile"),
        ("GET", "/imports"),
        ("POST", "/imports/s3"),
    ):
        answer = ask(method, path, b'{"data": [{"a": "1"}]}', **given)
        assert answer.status_code < 500, answer.text


@_once
@given(_header)
def test_a_key_of_any_letters_is_nobodys(ask: Asking, key: str) -> None:
    answer = Asking(ask.client, ask.stage, key)("GET", "/imports")
    assert answer.status_code in (401, 429)
    assert list(answer.get_json()) == ERROR[:2]
