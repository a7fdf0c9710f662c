"""The native request into our vocabulary. Pure."""

from __future__ import annotations

from typing import Any

from common.errors import Refusal
from common.model.collections import check_collection
from common.model.imports import Credentials, ImportSpec
from common.model.mapping import Mapping, OnDuplicate
from common.model.sources import parse_s3_url


def import_spec(asked: dict[str, Any]) -> ImportSpec:
    """Return the spec of a request that the schema has passed. Raises Refusal naming the field at fault."""
    source, mapping = asked["source"], asked.get("mapping", {})
    default = Mapping()
    return ImportSpec(
        collection=check_collection(asked["collection"]),
        source=parse_s3_url(source["url"], region=source.get("region")),
        mapping=Mapping(
            id_names=mapping.get("id", default.id_names),
            time_names=mapping.get("time", default.time_names),
            on_duplicate=OnDuplicate(mapping.get("onDuplicate", default.on_duplicate)),
        ),
        credentials=_credentials(source),
        max_rejects=asked.get("onError", {}).get("maxErrors"),
    )


def error_position(cursor: str | None) -> tuple[int, int]:
    """Return the position that a cursor of the schema's form stands for."""
    chunk, _, line = (cursor or "").partition("-")
    return (int(chunk), int(line)) if cursor else (-1, -1)


def _credentials(source: dict[str, Any]) -> Credentials | None:
    key_id, secret = source.get("accessKeyId"), source.get("secretAccessKey")
    if key_id is None and secret is None and "sessionToken" not in source:
        return None
    if key_id is None or secret is None:
        missing = "source.accessKeyId" if key_id is None else "source.secretAccessKey"
        raise Refusal("credentials_incomplete", "accessKeyId and secretAccessKey go together.", field=missing)
    return Credentials(key_id, secret, source.get("sessionToken"))
