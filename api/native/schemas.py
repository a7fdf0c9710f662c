"""What the native wire takes and gives: marshmallow validates by it, and the OpenAPI document is made of it."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from common.model.imports import ImportState


class Names(fields.Field[Any]):
    """A member's name, or several in order of preference."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> tuple[str, ...]:
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not 1 <= len(names) <= 8:
            message = "A name, or a list of one to eight names."
            raise ValidationError(message)
        if not all(isinstance(name, str) and 0 < len(name) <= 255 for name in names):
            message = "A name is a string of 1 to 255 characters."
            raise ValidationError(message)
        return tuple(dict.fromkeys(names))


def _printable(most: int) -> validate.Regexp:
    """Return the check of what goes into an HTTP header."""
    return validate.Regexp(rf"[\x21-\x7e]{{1,{most}}}\Z", error=f"Up to {most} printable ASCII characters.")


class SourceRequest(Schema):
    """An S3 object, and the keys that open it."""

    url = fields.String(required=True, validate=validate.Length(1, 2048), metadata={"description": "s3://bucket/key"})
    region = fields.String(validate=validate.Length(1, 32))
    accessKeyId = fields.String(load_only=True, validate=_printable(256))  # noqa: N815
    secretAccessKey = fields.String(load_only=True, validate=_printable(256))  # noqa: N815
    sessionToken = fields.String(load_only=True, validate=_printable(4096))  # noqa: N815


_NAMES = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 8}]}


class MappingRequest(Schema):
    """Which members hold an event's id and time."""

    id = Names(metadata=_NAMES)
    time = Names(metadata=_NAMES)
    onDuplicate = fields.String(validate=validate.OneOf(["keep"]))  # noqa: N815


class OnErrorRequest(Schema):
    """When bad lines end the import."""

    maxErrors = fields.Integer(strict=True, validate=validate.Range(0, 2**62))  # noqa: N815


class ImportRequest(Schema):
    """An import to start."""

    collection = fields.String(required=True)
    source = fields.Nested(SourceRequest, required=True)
    format = fields.String(validate=validate.OneOf(["auto", "ndjson"]))
    compression = fields.String(validate=validate.OneOf(["auto", "none"]))
    mapping = fields.Nested(MappingRequest)
    onError = fields.Nested(OnErrorRequest)  # noqa: N815


class ListQuery(Schema):
    """Which imports to list."""

    cursor = fields.Integer(validate=validate.Range(1, 2**62))
    limit = fields.Integer(load_default=50, validate=validate.Range(1, 200))
    status = fields.Enum(ImportState, by_value=True)
    collection = fields.String(validate=validate.Regexp(r"[^\x00-\x1f/]{1,255}\Z"))


class ErrorsQuery(Schema):
    """Where to go on among an import's errors."""

    cursor = fields.String(validate=validate.Regexp(r"[0-9]{1,9}-[0-9]{1,18}\Z"))
    limit = fields.Integer(load_default=1000, validate=validate.Range(1, 1000))


class SourceReply(Schema):
    """The source as asked for, without its keys."""

    url = fields.String()
    region = fields.String()


class ChunksReply(Schema):
    """Chunks by state."""

    total = fields.Integer()
    done = fields.Integer()
    running = fields.Integer()
    failed = fields.Integer()


class ProgressReply(Schema):
    """How far the import is."""

    percent = fields.Float()
    bytesRead = fields.Integer()  # noqa: N815
    bytesTotal = fields.Integer(allow_none=True)  # noqa: N815
    eventsPerSecond = fields.Integer()  # noqa: N815
    etaSeconds = fields.Integer(allow_none=True)  # noqa: N815
    chunks = fields.Nested(ChunksReply)


class CountsReply(Schema):
    """The receipt: lines is the sum of all the others."""

    lines = fields.Integer()
    imported = fields.Integer()
    replaced = fields.Integer()
    duplicates = fields.Integer()
    rejected = fields.Integer()
    blank = fields.Integer()


class FailureReply(Schema):
    """Why an import failed."""

    code = fields.String()
    message = fields.String()


class HistoryReply(Schema):
    """A status and when it began."""

    status = fields.String()
    at = fields.String()


class CreatedByReply(Schema):
    """Who asked for the import: the id of the key, which is no secret."""

    keyId = fields.String()  # noqa: N815


class LinksReply(Schema):
    """Where to go from here."""

    self = fields.String()
    errors = fields.String()
    cancel = fields.String()


class ImportReply(Schema):
    """An import's status."""

    id = fields.String()
    collection = fields.String()
    status = fields.String()
    createdAt = fields.String()  # noqa: N815
    startedAt = fields.String(allow_none=True)  # noqa: N815
    finishedAt = fields.String(allow_none=True)  # noqa: N815
    createdBy = fields.Nested(CreatedByReply, allow_none=True)  # noqa: N815
    source = fields.Nested(SourceReply)
    format = fields.String()
    compression = fields.String()
    progress = fields.Nested(ProgressReply)
    counts = fields.Nested(CountsReply)
    error = fields.Nested(FailureReply, allow_none=True)
    statusHistory = fields.List(fields.Nested(HistoryReply))  # noqa: N815
    links = fields.Nested(LinksReply)


class ImportListReply(Schema):
    """A page of imports, newest first."""

    items = fields.List(fields.Nested(ImportReply))
    next = fields.String(allow_none=True)


class LineErrorReply(Schema):
    """A rejected line."""

    index = fields.Integer()
    byteOffset = fields.Integer()  # noqa: N815
    length = fields.Integer()
    code = fields.String()
    reason = fields.String()


class ErrorListReply(Schema):
    """A page of rejected lines, in the order of the file."""

    items = fields.List(fields.Nested(LineErrorReply))
    rejected = fields.Integer(metadata={"description": "All of them, listed yet or not."})
    next = fields.String(allow_none=True)


class Problem(Schema):
    """Problem details, RFC 9457; ``code`` is stable."""

    type = fields.String()
    title = fields.String()
    status = fields.Integer()
    detail = fields.String()
    code = fields.String()
    request_id = fields.String(data_key="requestId")
