"""What the rooms' renderers share. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from common.errors import Refusal

#: HTTP status by the code of a refusal; those not named here are 422: understood, and not to be done as asked.
_HTTP_STATUS = {
    "invalid_event": 400,
    "invalid_idempotency_key": 400,
    "malformed_batch": 400,
    "malformed_body": 400,
    "malformed_host": 400,
    "malformed_json": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "body_too_slow": 408,
    "collection_in_use": 409,
    "import_ended": 409,
    "export_ended": 409,
    "mapping_conflict": 409,
    "request_under_way": 409,
    "body_too_large": 413,
    "event_too_large": 413,
    "page_too_large": 413,
    "too_many_events": 413,
    "too_slow": 413,
    "unsupported_body": 415,
    "unsupported_encoding": 415,
    "too_many_active_exports": 429,
    "too_many_active_imports": 429,
    "too_many_failures": 429,
    "no_such_import_source": 501,
    "uploads_unavailable": 501,
    "too_many_uploads": 503,
}


def http_status(refused: Refusal) -> int:
    """Return the HTTP status of a refusal. A room whose document says otherwise has its own."""
    return _HTTP_STATUS.get(refused.code, 422)


def retry_header(refused: Refusal) -> dict[str, str]:
    """Return the header that says when to ask again, where the refusal knows."""
    return {"Retry-After": str(refused.details["retryAfter"])} if "retryAfter" in refused.details else {}


#: What 401 has to say, how to show a key, and 415: what a body may be encoded with.
_HEADERS = {
    401: {"WWW-Authenticate": 'Bearer realm="penstock"'},
    415: {"Accept-Encoding": "gzip, zstd, identity"},
}


def headers_of_refusal(refused: Refusal) -> dict[str, str]:
    """Return the headers of a refusal on a wire whose keys are Bearer tokens."""
    return _HEADERS.get(http_status(refused)) or retry_header(refused)


def iso_time(value: datetime | None) -> str | None:
    """Return a time as both wires write it: UTC, milliseconds, ``Z``."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z" if value else None


def exact_time(value: datetime | None) -> str | None:
    """Return a time to the microsecond: UTC, ``Z``."""
    # Not strftime: it writes the year 1 without its zeros.
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z") if value else None
