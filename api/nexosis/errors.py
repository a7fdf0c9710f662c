"""What goes wrong, in Nexosis' form. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from api.rendering import http_status, retry_header
from common.errors import Refusal

#: Body, status and headers.
Answer = tuple[dict[str, Any], int, dict[str, str]]

#: The service's own words, by the code of a refusal: status, type, message.
_RECORDED = {
    "invalid_columns": (400, "InvalidColumnMetadata", "One or more columns were supplied with invalid metadata"),
    "invalid_date_range": (400, "InvalidDateRange", "Start Date must be before End Date"),
    "no_data": (400, "NoData", "The request has no rows of data."),
}
#: Where ours speak of what this wire has not.
_OWN_WORDS = {
    "mapping_conflict": (
        "A collection of this name keeps the events that it has, and the rows of a dataset take the place of others. "
        "Name another dataset."
    ),
    "too_many_active_imports": "Too many imports are active. Wait until one of them has ended.",
}
_INVALID = (400, "RequestValidation", "Request is invalid")
_STRANGER = (
    "Access denied due to invalid subscription key. Make sure to provide a valid key for an active subscription."
)
#: What the gateway in front of the service answers has no more than a status and a sentence.
_OF_THE_GATEWAY = frozenset({"unauthenticated", "forbidden", "too_many_failures"})


def refusal(refused: Refusal, *, item: tuple[str, str] | None = None) -> Answer:
    """Return the answer to what is refused; ``item``: the type and the name of what the path names."""
    status = http_status(refused)
    if refused.code in _OF_THE_GATEWAY:
        message = _STRANGER if refused.code == "unauthenticated" else refused.public
        return {"statusCode": status, "message": message}, status, retry_header(refused)
    if refused.code == "not_found" and item:
        kind, name = item
        message = f"Item of type {kind} with identifier {name} was not found"
        return error(404, "NotFound", message, {"itemType": kind, "itemId": name})
    details = _in_its_words(_details(refused))
    # What another has made with a key is no fault of this request's form; it is 422 on every wire.
    if refused.code in _RECORDED or (status in (400, 422) and refused.code != "idempotency_key_reused"):
        status, kind, message = _RECORDED.get(refused.code, _INVALID)
        return error(status, kind, message, details or {"request": [refused.public]})
    message = _OWN_WORDS.get(refused.code, refused.public)
    return error(status, _type_of(refused.code), message, details, retry_header(refused))


def _details(refused: Refusal) -> dict[str, Any]:
    if "faults" in refused.details:
        return dict(refused.details["faults"])
    if refused.field:
        return {refused.field: [refused.public]}
    return {name: value for name, value in refused.details.items() if name != "retryAfter"}


def _in_its_words(details: dict[str, Any]) -> dict[str, Any]:
    """Return details with ids and rows called as this wire calls them."""
    said = {name: told for name, told in details.items() if name not in ("mapping.onDuplicate", "onDuplicate")}
    for name in ("activeImports", "activeExports"):
        if name in said:
            said[name] = [str(UUID(found)) for found in said[name]]
    return {name: list(map(_of_row, told)) if isinstance(told, list) else told for name, told in said.items()}


def _of_row(sentence: Any) -> Any:
    return sentence.replace("The line", "The row") if isinstance(sentence, str) else sentence


def _type_of(code: str) -> str:
    """Return the name of an error in the spelling of this wire, of a code or of a name of HTTP's."""
    return "".join(word[:1].upper() + word[1:] for word in code.replace("_", " ").split())


def http(status: int, name: str, message: str, headers: Mapping[str, str]) -> Answer:
    """Return the answer to what HTTP itself has a name for."""
    return error(status, _type_of(name), message, {}, headers)


def postponed(message: str) -> Answer:
    """Return the answer while something of ours is away."""
    return error(503, "ServiceUnavailable", message, {}, {"Retry-After": "5"})


def mistake() -> Answer:
    """Return the answer to a mistake of ours."""
    return error(500, "ServerError", "An unexpected error occurred", {})


def error(
    status: int, kind: str, message: str, details: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Answer:
    """Return an error in all four members."""
    body = {"statusCode": status, "message": message, "errorType": kind, "errorDetails": details}
    return body, status, dict(headers or {})
