"""What the native wire takes and gives: marshmallow validates by it, and the OpenAPI document is made of it."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from common.model.exports import LEAST_PART_BYTES, MOST_COLUMNS, MOST_PART_BYTES, ExportState
from common.model.formats import Compression, Format
from common.model.imports import SHOWN_OBJECTS, IfSeen, ImportState
from common.model.mapping import ColumnType, OnDuplicate
from common.model.sources import MAX_KEY_BYTES, MAX_LISTED, SourceKind


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


def _text(most: int) -> validate.Regexp:
    """Return the check of a text that a row can hold: every json operator of Postgres fails on one with U+0000."""
    error = f"A text of 1 to {most} characters, none of them U+0000."
    return validate.Regexp(rf"[^\x00]{{1,{most}}}\Z", error=error)


_URL = "s3://bucket/key, s3://bucket/prefix/, a glob such as s3://bucket/logs/**/*.json, or the https form of these."
_TYPE = (
    "What the url names. Without it the url's form says; a manifest, an object with a key a line, is always declared."
)


class KeysRequest(Schema):
    """What opens a bucket: keys, or a role."""

    region = fields.String(validate=validate.Length(1, 32))
    accessKeyId = fields.String(load_only=True, validate=_printable(256))  # noqa: N815
    secretAccessKey = fields.String(load_only=True, validate=_printable(256))  # noqa: N815
    sessionToken = fields.String(load_only=True, validate=_printable(4096))  # noqa: N815
    roleArn = fields.String(validate=validate.Length(1, 2048))  # noqa: N815


class SourceRequest(KeysRequest):
    """Objects of S3, and the keys or the role that open them."""

    url = fields.String(required=True, validate=validate.Length(1, 2048), metadata={"description": _URL})
    type = fields.String(validate=validate.OneOf([*SourceKind]), metadata={"description": _TYPE})
    keys = fields.List(
        fields.String(validate=validate.Length(1, MAX_KEY_BYTES)),
        validate=validate.Length(1, MAX_LISTED),
        metadata={"description": "A list of keys in the place of one: each follows the bucket or prefix of the url."},
    )


_NAMES: dict[str, list[dict[str, Any]]] = {
    "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 8}]
}


#: Columns that a mapping may type.
_MOST_TYPES = 1000


class MappingRequest(Schema):
    """How a line becomes an event. What is left out is as in the collection's first import, or else the default."""

    id = Names(metadata=_NAMES)
    time = Names(metadata=_NAMES)
    onDuplicate = fields.String(  # noqa: N815
        validate=validate.OneOf(list(OnDuplicate)),
        metadata={
            "description": "Of lines with one id: keep the first (default), or replace it by the last of the latest "
            "import. Every import into a collection has the rule of its first one."
        },
    )
    types = fields.Dict(
        keys=fields.String(validate=validate.Length(1, 255)),
        values=fields.String(validate=validate.OneOf(list(ColumnType))),
        validate=validate.Length(max=_MOST_TYPES),
        metadata={"description": "Of CSV: types by column, named as in the header. All others are strings."},
    )
    quotedLineBreaks = fields.Boolean(  # noqa: N815
        truthy={True}, falsy={False}, metadata={"description": "Of CSV: whether a quoted cell may hold line breaks."}
    )


class OnErrorRequest(Schema):
    """When bad lines end the import."""

    maxErrors = fields.Integer(strict=True, validate=validate.Range(0, 2**62))  # noqa: N815


class ImportRequest(Schema):
    """An import to start."""

    collection = fields.String(required=True)
    source = fields.Nested(SourceRequest, required=True)
    format = fields.String(validate=validate.OneOf(["auto", *Format]))
    compression = fields.String(validate=validate.OneOf(["auto", *Compression]))
    ifSeen = fields.String(validate=validate.OneOf([*IfSeen]))  # noqa: N815
    mapping = fields.Nested(MappingRequest)
    onError = fields.Nested(OnErrorRequest)  # noqa: N815


class QueryNames(Names):
    """The same in a query: the parameter, once for each name."""

    is_multiple = True


class UploadQuery(Schema):
    """How to import the events that are the body of the request."""

    collection = fields.String(metadata={"description": "Its presence says that the body is the events."})
    format = fields.String(
        validate=validate.OneOf(["auto", *Format]),
        load_default=None,
        metadata={"description": "Left out: by the body's type, application/x-ndjson or text/csv, else by its bytes."},
    )
    id = QueryNames(metadata=_NAMES["oneOf"][1])
    time = QueryNames(metadata=_NAMES["oneOf"][1])
    onDuplicate = fields.String(validate=validate.OneOf(list(OnDuplicate)))  # noqa: N815
    maxErrors = fields.Integer(validate=validate.Range(0, 2**62))  # noqa: N815


class CollectionsQuery(Schema):
    """Where to go on among the project's collections."""

    cursor = fields.String(validate=_text(255), metadata={"description": "The name to go on after."})
    limit = fields.Integer(load_default=50, validate=validate.Range(1, 200))


_JSON = "JSON, whose names need no quotes and whose strings may have single ones"


class EventsQuery(Schema):
    """Which events of a collection to read, and where to go on."""

    filter = fields.String(metadata={"description": f"{_JSON}, such as {{price: {{gt: 25}}, color: 'red'}}."})
    timeframe = fields.String(
        metadata={"description": f"{_JSON}, such as {{previous: {{days: 3}}}}, or a name such as yesterday."}
    )
    timezone = fields.String(metadata={"description": "Of a relative timeframe: an IANA name, or hours from UTC."})
    cursor = fields.UUID(metadata={"description": "The id to go on after."})
    limit = fields.Integer(load_default=100, validate=validate.Range(1, 1000))


class DestinationRequest(KeysRequest):
    """Where an export goes, and the keys or the role that may write there."""

    url = fields.String(
        required=True,
        validate=validate.Length(1, 2048),
        metadata={"description": "s3://bucket/prefix/ or the https form; what it names is taken for a folder."},
    )


#: msgspec, which looks for them, has no field whose name holds one of these.
_member = validate.Regexp(
    r"[^\x00-\x1f\"\\]{1,255}\Z",
    error="A name of 1 to 255 characters, none of them a quote, a backslash, or a control character.",
)


class FillRequest(Schema):
    """Names of two members that every exported event shall have."""

    id = fields.String(required=True, validate=_member)
    time = fields.String(required=True, validate=_member)

    @validates_schema
    def _differ(self, data: dict[str, Any], **_: Any) -> None:
        if data["id"] == data["time"]:
            message = "The two names have to differ."
            raise ValidationError(message, "time")


class ExportRequest(Schema):
    """An export to start."""

    collection = fields.String(required=True)
    destination = fields.Nested(DestinationRequest, required=True)
    query = fields.Dict(
        keys=fields.String(),
        metadata={"description": "filter, timeframe and timezone, all optional. A relative timeframe is fixed now."},
    )
    format = fields.String(validate=validate.OneOf([Format.NDJSON, Format.CSV]))
    compression = fields.String(validate=validate.OneOf([Compression.NONE, Compression.GZIP, Compression.ZSTD]))
    columns = fields.List(
        fields.String(validate=_text(1024)),
        validate=validate.Length(1, MOST_COLUMNS),
        metadata={"description": "Of CSV: dotted paths. Left out: all members at the top of any event, by name."},
    )
    fill = fields.Nested(
        FillRequest,
        metadata={"description": "Adds the event's id and time, under these names, where its line had none."},
    )
    partBytes = fields.Integer(  # noqa: N815
        strict=True,
        validate=validate.Range(LEAST_PART_BYTES, MOST_PART_BYTES),
        metadata={
            "description": "Size from which an object is full and another begins; a manifest is written after the last."
        },
    )


_STATES = {"description": "The parameter once for each status that may be listed. Left out: any."}


class ExportsQuery(Schema):
    """Which exports to list."""

    cursor = fields.Integer(validate=validate.Range(1, 2**62))
    limit = fields.Integer(load_default=50, validate=validate.Range(1, 200))
    status = fields.List(fields.Enum(ExportState, by_value=True), metadata=_STATES)
    collection = fields.String(validate=validate.Regexp(r"[^\x00-\x1f/]{1,255}\Z"))


class ListQuery(Schema):
    """Which imports to list."""

    cursor = fields.Integer(validate=validate.Range(1, 2**62))
    limit = fields.Integer(load_default=50, validate=validate.Range(1, 200))
    status = fields.List(fields.Enum(ImportState, by_value=True), metadata=_STATES)
    collection = fields.String(validate=validate.Regexp(r"[^\x00-\x1f/]{1,255}\Z"))


class ErrorsQuery(Schema):
    """Where to go on among an import's errors."""

    cursor = fields.String(validate=validate.Regexp(r"[0-9]{1,9}-[0-9]{1,18}\Z"))
    limit = fields.Integer(load_default=1000, validate=validate.Range(1, 1000))


class SourceReply(Schema):
    """The source as asked for, without its keys."""

    type = fields.String(metadata={"description": "object, prefix, glob, manifest; or upload: the request's body."})
    url = fields.String()
    region = fields.String()
    roleArn = fields.String(metadata={"description": "Where the source has a role."})  # noqa: N815
    externalId = fields.String(metadata={"description": "What the role's trust policy has to ask for."})  # noqa: N815


class MappingReply(Schema):
    """How lines become events: as asked for, and filled in."""

    id = fields.List(fields.String())
    time = fields.List(fields.String())
    onDuplicate = fields.String()  # noqa: N815
    types = fields.Dict(keys=fields.String(), values=fields.String())
    quotedLineBreaks = fields.Boolean()  # noqa: N815


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


class PiecesReply(Schema):
    """The import's objects by what became of them."""

    total = fields.Integer()
    completed = fields.Integer()
    failed = fields.Integer()


class ObjectReply(Schema):
    """One of the import's objects."""

    key = fields.String()
    bytes = fields.Integer()
    format = fields.String(allow_none=True)
    compression = fields.String(allow_none=True)
    status = fields.String()
    error = fields.Nested(FailureReply, allow_none=True)


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
    format = fields.String(metadata={"description": "As found, ``mixed`` where objects differ; until then as asked."})
    compression = fields.String(metadata={"description": "Likewise."})
    pieces = fields.Nested(PiecesReply)
    objects = fields.List(
        fields.Nested(ObjectReply), metadata={"description": f"The first {SHOWN_OBJECTS} of them, in order."}
    )
    previousImport = fields.String(  # noqa: N815
        allow_none=True,
        metadata={"description": "The latest completed import of the collection that took one of the same objects."},
    )
    mapping = fields.Nested(MappingReply)
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

    object = fields.String(metadata={"description": "The key of the object it stands in."})
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


_NOT_MEASURED = " Null where a version of before stored some of them and did not measure."


class CollectionReply(Schema):
    """What a collection holds."""

    name = fields.String()
    events = fields.Integer()
    bytes = fields.Integer(
        allow_none=True, metadata={"description": f"As lines, each with its line break.{_NOT_MEASURED}"}
    )
    firstTime = fields.String(  # noqa: N815
        allow_none=True,
        metadata={
            "description": "No event is earlier. Exact but where events took the place of others, which may have been "
            f"earlier still. Null where there is none.{_NOT_MEASURED}"
        },
    )
    lastTime = fields.String(  # noqa: N815
        allow_none=True, metadata={"description": "Likewise: no event is later."}
    )
    createdAt = fields.String()  # noqa: N815
    timeIndex = fields.Boolean(  # noqa: N815
        metadata={"description": "Whether a timeframe finds events here that were stored in no order of their times."}
    )


class CollectionListReply(Schema):
    """A page of collections, by name."""

    items = fields.List(fields.Nested(CollectionReply))
    next = fields.String(allow_none=True)


class EventReply(Schema):
    """A stored event."""

    id = fields.String(metadata={"description": "Names it inside its collection: a UUID, its own or one made for it."})
    time = fields.String()
    event = fields.Dict(metadata={"description": "As it came in, to the byte."})


class EventListReply(Schema):
    """A page of events, by id."""

    items = fields.List(fields.Nested(EventReply))
    next = fields.String(allow_none=True, metadata={"description": "While it is not null there may be more."})


class Problem(Schema):
    """Problem details, RFC 9457; ``code`` is stable."""

    type = fields.String()
    title = fields.String()
    status = fields.Integer()
    detail = fields.String()
    code = fields.String()
    request_id = fields.String(data_key="requestId")


class DestinationReply(Schema):
    """The destination as asked for, without its keys."""

    url = fields.String()
    region = fields.String()
    roleArn = fields.String(metadata={"description": "Where the destination has a role."})  # noqa: N815
    externalId = fields.String(metadata={"description": "What the role's trust policy has to ask for."})  # noqa: N815


class TimeframeReply(Schema):
    """A window of time, open where a bound is null; its end is not in it."""

    start = fields.String(allow_none=True)
    end = fields.String(allow_none=True)


class ExportProgressReply(Schema):
    """How far the present attempt is. One that died is begun again, from nothing."""

    percent = fields.Float()
    eventsWritten = fields.Integer()  # noqa: N815
    eventsTotal = fields.Integer(allow_none=True)  # noqa: N815
    bytesWritten = fields.Integer()  # noqa: N815
    bytesTotal = fields.Integer(  # noqa: N815
        allow_none=True, metadata={"description": "Of CSV and of what is compressed known at its end only."}
    )
    eventsPerSecond = fields.Integer()  # noqa: N815
    etaSeconds = fields.Integer(allow_none=True)  # noqa: N815


class WrittenObjectReply(Schema):
    """An object of a completed export."""

    key = fields.String()
    events = fields.Integer()
    bytes = fields.Integer()
    sha256 = fields.String()


class ExportLinksReply(Schema):
    """Where to go from here."""

    self = fields.String()
    cancel = fields.String()


class ExportReply(Schema):
    """An export's status."""

    id = fields.String()
    collection = fields.String()
    status = fields.String()
    createdAt = fields.String()  # noqa: N815
    startedAt = fields.String(allow_none=True)  # noqa: N815
    finishedAt = fields.String(allow_none=True)  # noqa: N815
    snapshotAt = fields.String(  # noqa: N815
        allow_none=True, metadata={"description": "What was stored at this instant is exported, and nothing later."}
    )
    createdBy = fields.Nested(CreatedByReply, allow_none=True)  # noqa: N815
    query = fields.Dict(keys=fields.String())
    timeframe = fields.Nested(TimeframeReply, metadata={"description": "What the query's timeframe came to."})
    destination = fields.Nested(DestinationReply)
    format = fields.String()
    compression = fields.String()
    columns = fields.List(fields.String())
    fill = fields.Nested(FillRequest, allow_none=True)
    partBytes = fields.Integer(allow_none=True)  # noqa: N815
    progress = fields.Nested(ExportProgressReply)
    objects = fields.List(fields.Nested(WrittenObjectReply))
    manifest = fields.String(allow_none=True, metadata={"description": "Its key; of an export in parts."})
    error = fields.Nested(FailureReply, allow_none=True)
    statusHistory = fields.List(fields.Nested(HistoryReply))  # noqa: N815
    links = fields.Nested(ExportLinksReply)


class ExportListReply(Schema):
    """A page of exports, newest first."""

    items = fields.List(fields.Nested(ExportReply))
    next = fields.String(allow_none=True)
