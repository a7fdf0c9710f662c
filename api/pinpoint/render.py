"""Our vocabulary into Pinpoint's JSON. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from itertools import islice
from typing import Any
from zlib import crc32

import msgspec

from api.rendering import http_status, iso_time, retry_header
from common.errors import Refusal
from common.model.collections import StoredEvent
from common.model.exports import ExportState, ExportStatus
from common.model.formats import Format
from common.model.imports import ImportState, ImportStatus
from common.model.pushes import Verdict
from common.model.rejects import LineError, RejectCode
from common.model.segments import Segment
from common.model.uploads import is_spooled

#: What could not be taken in, of a job: so many are shown, and all are counted.
MOST_FAILURES = 100
#: Endpoints of a request whose faults are told.
_MOST_FAULTS = 10

_JOB_STATUS = {
    ImportState.PENDING: "CREATED",
    ImportState.PLANNING: "INITIALIZING",
    ImportState.RUNNING: "PROCESSING",
    ImportState.PAUSED: "PENDING_JOB",
    ImportState.COMPLETED: "COMPLETED",
    ImportState.COMPLETED_WITH_ERRORS: "COMPLETED",
    ImportState.FAILED: "FAILED",
    # There is no word for it, and clients wait for one of these two.
    ImportState.CANCELLED: "FAILED",
}
_EXPORT_STATUS = {
    ExportState.PENDING: "CREATED",
    ExportState.RUNNING: "PROCESSING",
    ExportState.COMPLETED: "COMPLETED",
    ExportState.FAILED: "FAILED",
    ExportState.CANCELLED: "FAILED",
}
#: States in which nobody has looked at the objects yet.
_NEW = frozenset({ImportState.PENDING, ImportState.PLANNING})

#: By HTTP status: the name of the error, by which clients tell them apart. Of others the first of their hundred.
_ERRORS = {
    400: "BadRequestException",
    403: "ForbiddenException",
    404: "NotFoundException",
    405: "MethodNotAllowedException",
    409: "ConflictException",
    413: "PayloadTooLargeException",
    429: "TooManyRequestsException",
    500: "InternalServerErrorException",
    503: "ServiceUnavailableException",
}
#: What is wrong with a signature has names of its own, and is 403, as everything is that 401 stands for elsewhere.
_SIGNATURE_ERRORS = {
    "missing_token": "MissingAuthenticationTokenException",
    "incomplete_signature": "IncompleteSignatureException",
    "bad_signature": "InvalidSignatureException",
    "expired_signature": "InvalidSignatureException",
}

_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_DEMOGRAPHIC = ("AppVersion", "Locale", "Make", "Model", "ModelVersion", "Platform", "PlatformVersion", "Timezone")
_PLACE = ("City", "Country", "PostalCode", "Region")
_COORDINATES = ("Latitude", "Longitude")

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_STRING = msgspec.json.Decoder(str)


def import_job(status: ImportStatus, errors: Iterable[LineError], app_id: str) -> dict[str, Any]:
    """Return an ImportJobResponse, given the first lines that could not be taken."""
    counts, pieces = status.progress.counts, status.pieces
    objects = {
        "CompletedPieces": pieces.completed,
        "FailedPieces": pieces.failed,
        "TotalPieces": pieces.total,
    }
    totals = {"TotalFailures": counts.rejected, "TotalProcessed": counts.lines - counts.blank}
    is_new = status.state in _NEW
    failures = [*islice(_failures(status, errors), MOST_FAILURES)]
    return {
        "ApplicationId": app_id,
        "Id": status.id,
        "JobStatus": _JOB_STATUS[status.state],
        **({} if is_new else objects),
        **_dates(status),
        "Type": "IMPORT",
        **({} if is_new else totals),
        **({"Failures": failures} if failures else {}),
        "Definition": _definition(status),
    }


def _dates(status: ImportStatus | ExportStatus) -> dict[str, Any]:
    ended = {"CompletionDate": iso_time(status.finished_at)} if status.finished_at else {}
    return {"CreationDate": iso_time(status.created_at), **ended}


def _failures(status: ImportStatus, errors: Iterable[LineError]) -> Iterator[str]:
    """Yield why the job failed, what is wrong with each of its objects, and then the lines."""
    if status.state is ImportState.CANCELLED:
        yield "The import was cancelled."
    if status.error:
        yield status.error.message
    if status.pieces.total > 1:
        yield from (f"{piece.key}: {piece.error.message}" for piece in status.pieces.objects if piece.error)
    for error in errors:
        # Where a body is spooled is nobody's business.
        place = "" if is_spooled(status.source, status.id) else f"{error.key}, "
        yield f"{place}line {error.index + 1}: {_sentence(error.code)}"


def _definition(status: ImportStatus) -> dict[str, Any]:
    """Return the Definition of a job: as it was asked for, or what it comes to where another wire asked."""
    asked = status.asked if "S3Url" in status.asked else _translated(status)
    first = {name: asked[name] for name in ("S3Url", "RoleArn")}
    external = asked.get("ExternalId") or status.external_id
    rest = {name: value for name, value in asked.items() if name not in {*first, "ExternalId"}}
    segment = {"SegmentId": status.segment_id} if status.segment_id else {}
    return {**first, **({"ExternalId": external} if external else {}), **rest, **segment}


def _translated(status: ImportStatus) -> dict[str, Any]:
    return {
        "S3Url": "" if is_spooled(status.source, status.id) else status.source.url,
        "RoleArn": status.source.role or "",
        "Format": "CSV" if Format.CSV in (status.format, *status.pieces.formats) else "JSON",
        "RegisterEndpoints": True,
        "DefineSegment": status.segment_id is not None,
    }


def export_job(status: ExportStatus, app_id: str) -> dict[str, Any]:
    """Return an ExportJobResponse."""
    spec, written = status.spec, len(status.objects)
    is_lost = status.state in (ExportState.FAILED, ExportState.CANCELLED)
    objects = {"CompletedPieces": written, "FailedPieces": int(is_lost), "TotalPieces": max(written, 1)}
    reason = status.error.message if status.error else "The export was cancelled."
    segment = {name: spec.asked[name] for name in ("SegmentId", "SegmentVersion") if name in spec.asked}
    is_new = status.state is ExportState.PENDING
    return {
        "ApplicationId": app_id,
        "Id": status.id,
        "JobStatus": _EXPORT_STATUS[status.state],
        **({} if is_new else objects),
        **_dates(status),
        "Type": "EXPORT",
        **({} if is_new else {"TotalFailures": 0, "TotalProcessed": status.events_done}),
        **({"Failures": [reason]} if is_lost else {}),
        "Definition": {"S3UrlPrefix": spec.destination.url, "RoleArn": spec.destination.role or "", **segment},
    }


def listed(items: Sequence[Any], following: int | None) -> dict[str, Any]:
    """Return a page of a list; ``following`` is the number to go on before, None at the end."""
    return {"Item": items, **({"NextToken": str(following)} if following else {})}


def segment(found: Segment, brought: ImportStatus, app_id: str) -> dict[str, Any]:
    """Return a SegmentResponse, given the import that its endpoints came by."""
    definition = _definition(brought)
    asked = {name: definition.get(name, "") for name in ("ExternalId", "Format", "RoleArn", "S3Url")}
    return {
        "ApplicationId": app_id,
        "Arn": _arn(f"apps/{app_id}/segments/{found.id}"),
        "CreationDate": iso_time(found.created_at),
        "Id": found.id,
        "ImportDefinition": {**asked, "ChannelCounts": dict(found.by_member), "Size": found.members or 0},
        "LastModifiedDate": iso_time(found.modified_at),
        **({"Name": found.name} if found.name else {}),
        "SegmentType": "IMPORT",
        "Version": found.version,
    }


def application(app_id: str, name: str, created_at: datetime) -> dict[str, Any]:
    """Return an ApplicationResponse."""
    return {"Arn": _arn(f"apps/{app_id}"), "CreationDate": iso_time(created_at), "Id": app_id, "Name": name}


def _arn(path: str) -> str:
    # A form that clients parse: there is no region of ours, and no account but the application.
    return f"arn:aws:mobiletargeting:us-east-1:000000000000:{path}"


# --- endpoints: what is stored is whatever a line held


def endpoint(found: StoredEvent, app_id: str) -> bytes:
    """Return an EndpointResponse as JSON.

    Of what is stored only that which the response has a place for, in the form that it has there: a list where CSV had
    one cell, a number where it had digits. The digits of numbers stay as they are.
    """
    return msgspec.json.encode(_endpoint(found.payload, app_id, of=found))


def endpoints(lines: Iterable[bytes], app_id: str) -> bytes:
    """Return an EndpointsResponse as JSON, of lines that have an Id and a CreationDate."""
    return msgspec.json.encode({"Item": [_endpoint(line, app_id) for line in lines]})


def _endpoint(line: bytes, app_id: str, *, of: StoredEvent | None = None) -> dict[str, Any]:
    members = _members(msgspec.Raw(line))
    endpoint_id = _text(members.get("Id")) or (of.id if of else "")
    created = _text(members.get("CreationDate")) or (iso_time(of.time) if of else None)
    found = {
        "Address": _text(members.get("Address")),
        "ApplicationId": app_id,
        "Attributes": _lists(members.get("Attributes")),
        "ChannelType": _text(members.get("ChannelType")),
        "CohortId": str(crc32(endpoint_id.encode()) % 100),
        "CreationDate": created,
        "Demographic": _texts(members.get("Demographic"), _DEMOGRAPHIC),
        "EffectiveDate": _text(members.get("EffectiveDate")) or created,
        "EndpointStatus": _text(members.get("EndpointStatus")) or "ACTIVE",
        "Id": endpoint_id,
        "Location": {
            **_texts(members.get("Location"), _PLACE),
            **{name: value for name, value in _numbers(members.get("Location")).items() if name in _COORDINATES},
        },
        "Metrics": _numbers(members.get("Metrics")),
        "OptOut": _text(members.get("OptOut")) or "NONE",
        "RequestId": _text(members.get("RequestId")),
        "User": _user(_members(members.get("User"))),
    }
    return {name: value for name, value in found.items() if value is not None}


def _user(members: Mapping[str, msgspec.Raw]) -> dict[str, Any]:
    attributes, user_id = _lists(members.get("UserAttributes")), _text(members.get("UserId"))
    return {**({"UserAttributes": attributes} if attributes else {}), **({"UserId": user_id} if user_id else {})}


def _members(value: msgspec.Raw | None) -> dict[str, msgspec.Raw]:
    """Return the members of an object, none of anything else."""
    return _MEMBERS.decode(value) if value is not None and bytes(value).lstrip().startswith(b"{") else {}


def _text(value: msgspec.Raw | None) -> str | None:
    """Return a string, or a number as it is written; None of anything else, of an empty string too."""
    token = bytes(value or b"").strip()
    if token.startswith(b'"'):
        return _STRING.decode(token) or None
    return token.decode() if _NUMBER.fullmatch(token) else None


def _texts(value: msgspec.Raw | None, names: Sequence[str]) -> dict[str, str]:
    members = _members(value)
    found = {name: _text(members.get(name)) for name in names}
    return {name: text for name, text in found.items() if text is not None}


def _lists(value: msgspec.Raw | None) -> dict[str, list[str]]:
    """Return members as lists of texts; one that has none is left out."""
    found = {name: _list(inner) for name, inner in _members(value).items()}
    return {name: texts for name, texts in found.items() if texts}


def _list(value: msgspec.Raw) -> list[str]:
    parts = _LIST.decode(value) if bytes(value).lstrip().startswith(b"[") else [value]
    texts = (_boolean(part) or _text(part) for part in parts)
    return [text for text in texts if text is not None]


def _boolean(value: msgspec.Raw) -> str | None:
    token = bytes(value).strip()
    return token.decode() if token in (b"true", b"false") else None


def _numbers(value: msgspec.Raw | None) -> dict[str, msgspec.Raw]:
    """Return the members that are numbers, or digits in quotes."""
    tokens = {name: (_text(inner) or "").encode() for name, inner in _members(value).items()}
    return {name: msgspec.Raw(token) for name, token in tokens.items() if _NUMBER.fullmatch(token)}


def check_taken(verdicts: Sequence[Verdict]) -> None:
    """Raise Refusal where endpoints of a request were not taken, with their places among them. The others were."""
    faults = [(at, _sentence(verdict)) for at, verdict in enumerate(verdicts) if isinstance(verdict, RejectCode)]
    if not faults:
        return
    if len(verdicts) == 1:
        raise Refusal("invalid_request", faults[0][1])
    told = " ".join(f"Item.{at}: {sentence}" for at, sentence in faults[:_MOST_FAULTS])
    more = f" .. and {len(faults) - _MOST_FAULTS} more." if len(faults) > _MOST_FAULTS else ""
    text = f"{len(faults)} of {len(verdicts)} endpoints were not taken; the others were. {told}{more}"
    raise Refusal("invalid_request", text)


def _sentence(code: RejectCode) -> str:
    if code is RejectCode.MISSING_MEMBER:
        return "The endpoint has no Address, or no ChannelType."
    return code.sentence.replace("The line", "The endpoint")


# --- errors


def message(text: str, request_id: str) -> dict[str, str]:
    """Return a MessageBody: what an update answers, and every error."""
    return {"RequestID": request_id, "Message": text}


def refusal(refused: Refusal, request_id: str) -> tuple[dict[str, str], int, dict[str, str]]:
    """Return body, status and headers of a refusal. What is wrong with a request is 400 here."""
    name, status = _SIGNATURE_ERRORS.get(refused.code), http_status(refused)
    if name or status == HTTPStatus.UNAUTHORIZED:
        status = HTTPStatus.FORBIDDEN
    status = status if status in _ERRORS else 400
    text = f"{refused.field}: {refused.public}" if refused.field else refused.public
    return error(status, text, request_id, retry_header(refused), name=name)


def error(
    status: int, text: str, request_id: str, headers: Mapping[str, str] | None = None, *, name: str | None = None
) -> tuple[dict[str, str], int, dict[str, str]]:
    """Return body, status and headers of an error."""
    name = name or _ERRORS.get(status) or _ERRORS[status // 100 * 100]
    return message(text, request_id), status, {**(headers or {}), "x-amzn-ErrorType": name}
