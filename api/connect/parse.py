"""Connect's JSON into our vocabulary. Pure."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from common.errors import Refusal
from common.model.collections import check_collection
from common.model.formats import Compression, Format
from common.model.imports import Credentials, ImportSpec
from common.model.mapping import Mapping
from common.model.sources import SourceKind, parse_s3_url

#: Connect's events have ``id`` and ``timestamp``; lines written for other importers are read as well.
MAPPING = Mapping(id_names=("id", "$unique_id"), time_names=("timestamp", "$time"))


#: Keys of S3 go into HTTP headers.
KEY = validate.Regexp(r"[\x21-\x7e]{1,256}\Z", error="Up to 256 printable ASCII characters.")


class ImportRequest(Schema):
    """The seed's four parameters: all of them required, all strings."""

    collection = fields.String(required=True)
    s3Path = fields.String(required=True, validate=validate.Length(1, 2048))  # noqa: N815
    s3AccessKeyId = fields.String(required=True, validate=KEY)  # noqa: N815
    s3SecretAccessKey = fields.String(required=True, validate=KEY)  # noqa: N815


def import_spec(body: Any) -> ImportSpec:
    """Return the spec of an import. Raises Refusal ``invalid_request`` with every field at fault."""
    try:
        asked = ImportRequest().load(body)
    except ValidationError as error:
        raise Refusal("invalid_request", "The request is not valid.", errors=_list(error)) from None
    return ImportSpec(
        collection=check_collection(asked["collection"]),
        source=parse_s3_url(asked["s3Path"], kind=SourceKind.OBJECT, field="s3Path"),
        mapping=MAPPING,
        credentials=Credentials(asked["s3AccessKeyId"], asked["s3SecretAccessKey"]),
        format=Format.NDJSON,
        compression=Compression.NONE,
    )


def _list(error: ValidationError) -> list[dict[str, str]]:
    messages: dict[str, Any] = error.normalized_messages()  # type: ignore[no-untyped-call]
    return [
        {"field": "body" if name == "_schema" else name, "description": " ".join(map(str, texts))}
        for name, texts in messages.items()
    ]
