"""The native request into our vocabulary. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from api.relaxed import read_query
from common.errors import Refusal
from common.model.collections import check_collection
from common.model.exports import Destination, ExportSpec, Fill
from common.model.formats import Compression, Format
from common.model.imports import AUTO, Credentials, IfSeen, ImportSpec
from common.model.mapping import ColumnType, Mapping, OnDuplicate
from common.model.query import Query, parse_query
from common.model.roles import check_role
from common.model.sources import SourceKind, SourceRef, list_keys, parse_s3_url
from common.model.uploads import BODY

#: The name of a timeframe, or of a zone.
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_+/-]*", re.ASCII)
#: What the type of a body says of its events. Other types say nothing: curl names one that is none of theirs.
_FORMATS = {
    "application/x-ndjson": Format.NDJSON,
    "application/ndjson": Format.NDJSON,
    "text/csv": Format.CSV,
}


def import_spec(asked: dict[str, Any]) -> ImportSpec:
    """Return the spec of a request that the schema has passed. Raises Refusal naming the field at fault."""
    source = asked["source"]
    mapping = _mapping(asked.get("mapping", {}))
    return ImportSpec(
        collection=check_collection(asked["collection"]),
        source=_source(source),
        mapping=Mapping(**mapping),
        named=frozenset(mapping),
        credentials=_credentials(source, "source"),
        max_rejects=asked.get("onError", {}).get("maxErrors"),
        format=Format(asked["format"]) if asked.get("format", AUTO) != AUTO else None,
        compression=Compression(asked["compression"]) if asked.get("compression", AUTO) != AUTO else None,
        if_seen=IfSeen(asked.get("ifSeen", IfSeen.IMPORT)),
    )


def _mapping(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a mapping that a request names."""
    made: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "id": ("id_names", tuple),
        "time": ("time_names", tuple),
        "onDuplicate": ("on_duplicate", OnDuplicate),
        # Sorted: the order of an object's members asks for nothing else.
        "types": ("types", lambda types: tuple((column, ColumnType(types[column])) for column in sorted(types))),
        "quotedLineBreaks": ("quoted_line_breaks", bool),
    }
    return {made[name][0]: made[name][1](value) for name, value in asked.items() if name in made}


def upload_spec(asked: dict[str, Any], *, media_type: str, compression: Compression | None) -> ImportSpec:
    """Return the spec of a body with events, by its query and its headers. Raises Refusal."""
    if media_type == "multipart/form-data":
        text = "Send the events themselves as the body, not a form that holds them: curl --data-binary @events.ndjson"
        raise Refusal("unsupported_body", text, field="Content-Type")
    named, mapping = asked["format"], _mapping(asked)
    return ImportSpec(
        collection=check_collection(asked["collection"]),
        source=BODY,
        mapping=Mapping(**mapping),
        named=frozenset(mapping),
        max_rejects=asked.get("maxErrors"),
        format=_FORMATS.get(media_type) if named is None else None if named == AUTO else Format(named),
        compression=compression,
    )


def check_names_object(media_type: str) -> None:
    """Raise Refusal ``collection_required`` for a body of events that says not where they belong."""
    if media_type in _FORMATS:
        text = (
            "Events sent as the body need the name of their collection in the query: POST /api/imports?collection=name"
        )
        raise Refusal("collection_required", text, field="collection")


def events_query(asked: dict[str, Any]) -> Callable[[datetime], Query]:
    """Return the query of three parameters, given the time that a relative timeframe is relative to.

    Raises Refusal, and so does what is returned.
    """
    value = {name: _member(asked[name], name) for name in ("filter", "timeframe", "timezone") if name in asked}

    def at(now: datetime) -> Query:
        try:
            return parse_query(value, now=now)
        except Refusal as refused:
            # The members of the query are parameters of their own here.
            raise Refusal(refused.code, refused.public, field=(refused.field or "").removeprefix("query.")) from None

    return at


def _member(text: str, name: str) -> Any:
    """Return what a parameter says; a bare word is a string."""
    return text if name != "filter" and _WORD.fullmatch(text) else read_query(text, field=name)


def export_spec(asked: dict[str, Any], *, now: datetime) -> ExportSpec:
    """Return the spec of a request that the schema has passed. Raises Refusal naming the field at fault.

    ``now`` is what a relative timeframe is relative to: whoever begins the export anew reads the same window.
    """
    place, kind = asked["destination"], Format(asked.get("format", Format.NDJSON))
    ref = parse_s3_url(place["url"], kind=SourceKind.PREFIX, region=place.get("region"), field="destination.url")
    role = check_role(place["roleArn"], field="destination.roleArn") if "roleArn" in place else None
    if "columns" in asked and kind is not Format.CSV:
        raise Refusal("columns_without_csv", "Columns are of CSV: this export has none.", field="columns")
    query = asked.get("query", {})
    return ExportSpec(
        collection=check_collection(asked["collection"]),
        destination=Destination.beneath(replace(ref, role=role)),
        query=parse_query(query, now=now),
        asked=query,
        credentials=_credentials(place, "destination"),
        format=kind,
        compression=Compression(asked.get("compression", Compression.NONE)),
        columns=tuple(asked.get("columns", ())),
        fill=Fill(**asked["fill"]) if "fill" in asked else Fill(),
        part_bytes=asked.get("partBytes"),
    )


def error_position(cursor: str | None) -> tuple[int, int]:
    """Return the position that a cursor of the schema's form stands for."""
    chunk, _, line = (cursor or "").partition("-")
    return (int(chunk), int(line)) if cursor else (-1, -1)


def _source(source: dict[str, Any]) -> SourceRef:
    kind, keys = SourceKind(source["type"]) if "type" in source else None, source.get("keys")
    if keys is not None and kind not in (None, SourceKind.MANIFEST):
        raise Refusal("keys_without_manifest", "A list of keys is of the type manifest.", field="source.type")
    ref = parse_s3_url(source["url"], kind=kind if keys is None else SourceKind.PREFIX, region=source.get("region"))
    if keys is not None:
        ref = list_keys(ref, keys)
    return replace(ref, role=check_role(source["roleArn"])) if "roleArn" in source else ref


def _credentials(place: dict[str, Any], named: str) -> Credentials | None:
    """Return the keys of a source or a destination."""
    key_id, secret = place.get("accessKeyId"), place.get("secretAccessKey")
    if key_id is None and secret is None and "sessionToken" not in place:
        return None
    if "roleArn" in place:
        text = f"The {named} has keys of its own and a role; send one or the other."
        raise Refusal("credentials_and_role", text, field=f"{named}.roleArn")
    if key_id is None or secret is None:
        missing = f"{named}.accessKeyId" if key_id is None else f"{named}.secretAccessKey"
        raise Refusal("credentials_incomplete", "accessKeyId and secretAccessKey go together.", field=missing)
    return Credentials(key_id, secret, place.get("sessionToken"))
