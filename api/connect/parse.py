"""Connect's JSON into our vocabulary. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from api.relaxed import read_query
from common.errors import Refusal
from common.model.collections import check_collection
from common.model.exports import Destination, ExportSpec, Fill
from common.model.formats import Compression, Format
from common.model.imports import Credentials, ImportSpec
from common.model.mapping import Mapping
from common.model.query import Query, parse_query
from common.model.rules import NameRules, Rules
from common.model.sources import SourceKind, parse_s3_url

RULES = Rules(
    longest=64 * 1024,
    names=NameRules(longest=255, periods=False, reserved=("_id",), reserved_prefixes=("tp_",)),
)
#: Connect's events have ``id`` and ``timestamp``; lines written for other importers are read as well.
MAPPING = Mapping(id_names=("id", "$unique_id"), time_names=("timestamp", "$time"), rules=RULES)


#: Exported events have both, also those that came without.
FILL = Fill("id", "timestamp")
#: Events of an export to S3.
MOST_EXPORTED = 1_000_000

#: Keys of S3 go into HTTP headers.
KEY = validate.Regexp(r"[\x21-\x7e]{1,256}\Z", error="Up to 256 printable ASCII characters.")


class S3Request(Schema):
    """The parameters that name a place in S3: all of them required, all strings."""

    s3Path = fields.String(required=True, validate=validate.Length(1, 2048))  # noqa: N815
    s3AccessKeyId = fields.String(required=True, validate=KEY)  # noqa: N815
    s3SecretAccessKey = fields.String(required=True, validate=KEY)  # noqa: N815


class ImportRequest(S3Request):
    """The seed's four parameters."""

    collection = fields.String(required=True)


class ExportRequest(S3Request):
    """The seed's four parameters. Without a query every event is exported, as with an empty one."""

    query = fields.Raw(load_default=None, allow_none=True)


def import_spec(body: Any) -> ImportSpec:
    """Return the spec of an import. Raises Refusal ``invalid_request`` with every field at fault."""
    asked = _load(ImportRequest(), body)
    return ImportSpec(
        collection=check_collection(asked["collection"]),
        source=parse_s3_url(asked["s3Path"], kind=SourceKind.OBJECT, field="s3Path"),
        mapping=MAPPING,
        credentials=_credentials(asked),
        format=Format.NDJSON,
        compression=Compression.NONE,
    )


def export_spec(collection: str, body: Any, *, now: datetime) -> ExportSpec:
    """Return the spec of an export to ``<s3Path>/<id>.json``, one event a line.

    ``now`` is what a relative timeframe is relative to. Raises Refusal ``invalid_request`` with every field at fault,
    ``invalid_query``.
    """
    asked = _load(ExportRequest(), body)
    query = {} if asked["query"] is None else asked["query"]
    return ExportSpec(
        collection=collection,
        destination=Destination.beneath(parse_s3_url(asked["s3Path"], kind=SourceKind.PREFIX, field="s3Path")),
        query=parse_query(query, now=now),
        asked=query,
        credentials=_credentials(asked),
        fill=FILL,
        most_events=MOST_EXPORTED,
        suffix="json",
    )


def small_query(text: str | None, *, now: datetime) -> Query:
    """Return the query of an export that is an answer. Raises Refusal ``malformed_query``, ``invalid_query``."""
    return parse_query(read_query(text), now=now)


def _load(schema: Schema, body: Any) -> dict[str, Any]:
    try:
        asked: dict[str, Any] = schema.load(body)
    except ValidationError as error:
        raise Refusal("invalid_request", "The request is not valid.", errors=_list(error)) from None
    return asked


def _credentials(asked: dict[str, Any]) -> Credentials:
    return Credentials(asked["s3AccessKeyId"], asked["s3SecretAccessKey"])


def _list(error: ValidationError) -> list[dict[str, str]]:
    messages: dict[str, Any] = error.normalized_messages()  # type: ignore[no-untyped-call]
    return [
        {"field": "body" if name == "_schema" else name, "description": " ".join(map(str, texts))}
        for name, texts in messages.items()
    ]
