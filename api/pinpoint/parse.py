"""Pinpoint's requests into our vocabulary. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec
from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate

from common.errors import Refusal
from common.judging import on_one_line
from common.model.exports import Destination, ExportSpec
from common.model.formats import Compression, Format
from common.model.imports import ImportSpec, Terms
from common.model.mapping import Mapping, OnDuplicate
from common.model.query import Query, parse_query
from common.model.roles import check_role
from common.model.rules import Rules
from common.model.segments import SegmentSpec
from common.model.sources import SourceKind, parse_s3_url

#: Holds all endpoints of a project: this wire knows no collections.
COLLECTION = "endpoints"
#: An endpoint is stored whole: one that comes again takes the place of the one before. Cells of CSV stay strings here,
#: since types go by the whole name of a column and those of numbers, ``Metrics.*``, are the caller's own; what has to
#: be a number is made one when it is read. An Id of JSON that is a number is that of a cell or a path of these
#: digits.
MAPPING = Mapping(
    id_names=("Id",),
    time_names=(),
    on_duplicate=OnDuplicate.REPLACE,
    quoted_line_breaks=False,
    rules=Rules(longest=15 * 1024, required=(("Address",), ("ChannelType",)), names_id="Id", digits_are_text=True),
)

#: Whose limit of active imports and of bytes it is.
DOOR = "pinpoint"
_FORMATS = {"CSV": Format.CSV, "JSON": Format.NDJSON}
_CHANNELS = (
    *("PUSH", "GCM", "APNS", "APNS_SANDBOX", "APNS_VOIP", "APNS_VOIP_SANDBOX", "ADM", "SMS", "VOICE", "EMAIL"),
    *("BAIDU", "CUSTOM", "IN_APP"),
)

#: Endpoints of a batch.
MOST_OF_A_BATCH = 100
#: Endpoints of a user that are told; the service has fifteen at the most.
MOST_OF_A_USER = 1_000
#: Items of a page that nobody asks the size of, and at the most: each job is read by itself.
PAGE, MOST_OF_A_PAGE = 50, 100
#: Faults of a request that its refusal names.
_MOST_FAULTS = 10

#: What a query without a timeframe is read against.
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_PAGE_SIZE = re.compile(r"0*([1-9][0-9]{0,8})", re.ASCII)
_TOKEN = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_BATCH = msgspec.json.Decoder(list[msgspec.Raw])


class _Request(Schema):
    """What is not known is left out: a later version of an SDK may send more."""

    class Meta:
        """Options of marshmallow."""

        unknown = EXCLUDE


def _text(*, most: int = 255, **more: Any) -> fields.String:
    """Return a field of text that any column can hold."""
    plain = validate.Regexp(r"[^\x00-\x1f\x7f]*\Z", error="It holds control characters.")
    return fields.String(validate=[validate.Length(1, most), plain], **more)


def _optional(*, most: int = 255) -> fields.String:
    return _text(most=most, load_default=None, allow_none=True)


def _flag() -> fields.Boolean:
    # The defaults of marshmallow take "on", "1" and their like.
    return fields.Boolean(truthy={True}, falsy={False}, load_default=False, allow_none=True)


class ImportJobRequest(_Request):
    """An ImportJobRequest of the service model."""

    S3Url = _text(most=2048, required=True)
    RoleArn = _text(most=2048, required=True)
    Format = fields.String(required=True, validate=validate.OneOf(sorted(_FORMATS)))
    RegisterEndpoints = _flag()
    DefineSegment = _flag()
    SegmentId = _optional()
    SegmentName = _optional()
    ExternalId = _optional(most=1224)


class ExportJobRequest(_Request):
    """An ExportJobRequest of the service model."""

    S3UrlPrefix = _text(most=2048, required=True)
    RoleArn = _text(most=2048, required=True)
    SegmentId = _optional()
    SegmentVersion = fields.Integer(
        strict=True, load_default=None, allow_none=True, validate=validate.Range(1, 2**31 - 1)
    )


class EndpointRequest(_Request):
    """An EndpointRequest of the service model, so far as anything here depends on it."""

    Address = fields.String(allow_none=True)
    ChannelType = fields.String(allow_none=True, validate=validate.OneOf(_CHANNELS))
    EndpointStatus = fields.String(allow_none=True, validate=validate.OneOf(["ACTIVE", "INACTIVE"]))
    OptOut = fields.String(allow_none=True, validate=validate.OneOf(["ALL", "NONE"]))
    Attributes = fields.Dict(fields.String(), fields.List(fields.String()), allow_none=True)
    Metrics = fields.Dict(fields.String(), fields.Float(), allow_none=True)
    Demographic = fields.Dict(allow_none=True)
    Location = fields.Dict(allow_none=True)
    User = fields.Dict(allow_none=True)


class ApplicationRequest(_Request):
    """A CreateApplicationRequest of the service model."""

    Name = _text(most=64, required=True)


def import_spec(body: Any, *, limit: int, most_bytes: int) -> ImportSpec:
    """Return the spec of an import job, given what this wire's imports are held to.

    Raises Refusal ``invalid_request`` with what is wrong with each member, or naming the one at fault.
    """
    asked = _load(ImportJobRequest(), body)
    source = parse_s3_url(asked["S3Url"], kind=SourceKind.OBJECT_OR_PREFIX, field="S3Url")
    segment = SegmentSpec(asked["SegmentId"], asked["SegmentName"], counted_by="ChannelType")
    return ImportSpec(
        collection=COLLECTION,
        source=replace(source, role=check_role(asked["RoleArn"], field="RoleArn")),
        mapping=MAPPING,
        format=_FORMATS[asked["Format"]],
        terms=Terms(DOOR, limit, most_bytes, asked=_definition(asked)),
        segment=segment if asked["DefineSegment"] or asked["SegmentId"] else None,
    )


def _definition(asked: dict[str, Any]) -> dict[str, Any]:
    """Return what a job tells again of its request."""
    always = {name: asked[name] for name in ("S3Url", "RoleArn", "Format")}
    flags = {name: bool(asked[name]) for name in ("RegisterEndpoints", "DefineSegment")}
    given = {name: asked[name] for name in ("ExternalId", "SegmentName") if asked[name]}
    return {**always, **flags, **given}


@dataclass(frozen=True, slots=True)
class ExportWish:
    """A request for an export job."""

    destination: Destination
    #: None: all endpoints.
    segment_id: str | None
    #: None: the latest.
    version: int | None

    def spec(self, *, import_number: int | None) -> ExportSpec:
        """Return the spec, given the number of the import whose endpoints the segment has."""
        segment = {"SegmentId": self.segment_id, "SegmentVersion": self.version}
        return ExportSpec(
            collection=COLLECTION,
            destination=self.destination,
            import_number=import_number,
            # What this query is in the caller's words.
            asked={name: value for name, value in segment.items() if value is not None},
            # The service writes gzip, and so its callers read that.
            compression=Compression.GZIP,
            suffix="json",
        )


def export_wish(body: Any) -> ExportWish:
    """Return what a request for an export job asks for. Raises Refusal as ``import_spec`` does."""
    asked = _load(ExportJobRequest(), body)
    if asked["SegmentVersion"] is not None and asked["SegmentId"] is None:
        raise Refusal("invalid_request", "A version is of a segment: send its SegmentId too.", field="SegmentVersion")
    place = parse_s3_url(asked["S3UrlPrefix"], kind=SourceKind.PREFIX, field="S3UrlPrefix")
    role = check_role(asked["RoleArn"], field="RoleArn")
    return ExportWish(Destination.beneath(replace(place, role=role)), asked["SegmentId"], asked["SegmentVersion"])


def application_name(body: Any) -> str:
    """Return the name of an application that is to be made. Raises Refusal as ``import_spec`` does."""
    name: str = _load(ApplicationRequest(), body)["Name"]
    return name


def endpoint_line(body: bytes, endpoint_id: str) -> bytes:
    """Return the endpoint of a request as a line; the id that its path names is the one that counts.

    Raises Refusal as ``import_spec`` does.
    """
    return _line(body, endpoint_id, field="")


def endpoint_lines(body: bytes) -> list[bytes]:
    """Return the endpoints of a batch as lines, in their order. Raises Refusal as ``import_spec`` does."""
    try:
        items = _BATCH.decode(_MEMBERS.decode(body).get("Item", msgspec.Raw(b"null")))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Refusal("malformed_json", "The body is not a JSON object whose Item is a list of endpoints.") from None
    if not 1 <= len(items) <= MOST_OF_A_BATCH:
        text = f"A batch has 1 to {MOST_OF_A_BATCH} endpoints, and this one {len(items)}."
        raise Refusal("invalid_request", text, field="Item")
    return [_line(bytes(item), None, field=f"Item.{number}.") for number, item in enumerate(items)]


def _line(body: bytes, endpoint_id: str | None, *, field: str) -> bytes:
    try:
        members = _MEMBERS.decode(body)
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = "The endpoint is not a JSON object."
        raise Refusal("malformed_json", text, field=field.rstrip(".") or None) from None
    _load(EndpointRequest(), value, field=field)
    endpoint_id = value.get("Id") if endpoint_id is None else endpoint_id
    if not isinstance(endpoint_id, str) or not endpoint_id:
        raise Refusal("invalid_request", "An endpoint of a batch has an Id, which is a string.", field=f"{field}Id")
    members.pop("Id", None)
    return on_one_line(msgspec.json.encode({"Id": endpoint_id, **members}))


def user_query(user_id: str) -> Query:
    """Return the query of the endpoints of a user."""
    return parse_query({"filter": {"User.UserId": {"eq": user_id}}}, now=_NEVER)


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is asked for."""

    limit: int
    #: The number to go on before; None: from the beginning.
    before: int | None


def page(query: dict[str, list[str]]) -> Page:
    """Return what a query asks for, given all values of each parameter. Raises Refusal ``invalid_request``."""
    size, token = _single(query, "page-size"), _single(query, "token")
    limit = _PAGE_SIZE.fullmatch(size or str(PAGE))
    if limit is None:
        text = f"It takes a number from 1 on; a page has {MOST_OF_A_PAGE} items at the most."
        raise Refusal("invalid_request", text, field="page-size")
    if token and not _TOKEN.fullmatch(token):
        raise Refusal("invalid_request", "It is the NextToken of the page before.", field="token")
    return Page(min(int(limit[1]), MOST_OF_A_PAGE), int(token) if token else None)


def _single(query: dict[str, list[str]], name: str) -> str:
    """Return the value of a parameter, "" where it has none."""
    values = query.get(name, [""])
    if len(values) > 1:
        # A signature holds for them in any order.
        raise Refusal("invalid_request", "It is there more than once.", field=name)
    return values[0]


def _load(schema: Schema, body: Any, *, field: str = "") -> dict[str, Any]:
    try:
        asked: dict[str, Any] = schema.load(body)
    except ValidationError as error:
        faults = islice(_describe(error.messages, field), _MOST_FAULTS)
        raise Refusal("invalid_request", " ".join(faults)) from None
    return asked


def _describe(messages: Any, where: str) -> Iterator[str]:
    """Yield what is wrong, each with its place."""
    if isinstance(messages, dict):
        for name, inner in messages.items():
            yield from _describe(inner, where if name == "_schema" else f"{where}{str(name)[:64]}.")
    else:
        place = where.rstrip(".") or "The body"
        yield f"{place}: {' '.join(map(str, messages))}"
