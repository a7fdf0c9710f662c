"""Pinpoint's wire: whatever is sent is answered in its form, and never as a mistake of ours."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.dialects.pinpoint.asking import ROLE, Asking

_text = st.text('aé\0"\\ 1.-e/%😀\n', max_size=6)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=6,
)
_MEMBERS = {
    "/jobs/import": {"S3Url": "s3://bucket/a", "RoleArn": ROLE, "Format": "CSV", "RegisterEndpoints": True,
                     "DefineSegment": True, "SegmentId": "0" * 32, "SegmentName": "s", "ExternalId": "e"},
    "/jobs/export": {"S3UrlPrefix": "s3://bucket/a", "RoleArn": ROLE, "SegmentId": "0" * 32, "SegmentVersion": 1},
    "/endpoints/a": {"ChannelType": "SMS", "Address": "1", "Attributes": {"a": ["b"]}, "Metrics": {"a": 1},
                     "Demographic": {}, "Location": {"Latitude": 1}, "User": {"UserId": "u"}, "Id": "i",
                     "RequestId": "r", "EffectiveDate": "d", "OptOut": "ALL", "EndpointStatus": "ACTIVE"},
    "/endpoints": {"Item": [{"Id": "a", "ChannelType": "SMS", "Address": "1"}]},
}  # fmt: skip


@st.composite
def _requests(draw: st.DrawFn) -> tuple[str, str, bytes]:
    """A request that would be right, but for a member or two, or for some bytes."""
    path = draw(st.sampled_from(sorted(_MEMBERS)))
    good = _MEMBERS[path]
    wrong: dict[str, Any] = draw(st.dictionaries(st.sampled_from(sorted(good)), _json, max_size=2))
    body = json.dumps({**good, **wrong}).encode()
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(st.binary(max_size=3)) + body[at + draw(st.integers(0, 3)) :]
    return "POST" if "jobs" in path else "PUT", path, body


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(_requests())
def test_a_request_with_anything_in_it_is_taken_or_refused(ask: Asking, request: tuple[str, str, bytes]) -> None:
    method, path, body = request

    answer = ask(method, path, body)

    assert answer.status_code in (201, 202, 400, 404, 429), answer.text
    document = answer.get_json()
    if answer.status_code == 201:
        ask.stage.desk.cancel_import(ask.stage.caller, document["Id"])
    elif answer.status_code != 202:
        assert set(document) == {"RequestID", "Message"}
        assert answer.headers["x-amzn-ErrorType"].endswith("Exception")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from(["GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS"]),
    st.sampled_from(["", "/jobs/import", "/jobs/export", "/segments", "/endpoints", "/users", "/nothing"]),
    st.text("ab/.%0F2e?&=+;é\\ token-size", max_size=12),
)
def test_a_path_with_anything_in_it_is_answered(ask: Asking, method: str, path: str, rest: str) -> None:
    answer = ask(method, f"{path}/{rest}")

    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.headers["x-amzn-ErrorType"].endswith("Exception")
