"""Scarf's requests into our vocabulary. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping as Lookup
from dataclasses import dataclass
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from api.scarf.render import STATUS
from common.errors import Refusal
from common.model.formats import Compression, Format
from common.model.ids import parse_id
from common.model.imports import ImportSpec, ImportState
from common.model.mapping import Mapping
from common.model.rules import Reference, Rules
from common.model.uploads import BODY

#: Holds all events that a project imports by this wire, which knows no collections.
COLLECTION = "scarf"

#: Kinds of artifact, and by which member an event names one. The vendor's prose calls a pixel's ``$pixel``.
PACKAGE, PIXEL = "package", "tracking-pixel"
_MEMBERS = {PACKAGE: ("$package",), PIXEL: ("$tracking_pixel", "$pixel")}

#: Imports of a page that nobody asks the size of, and at the most: each is read by itself.
PAGE, MOST_OF_A_PAGE = 10, 100


def import_spec(artifact: tuple[str, str] | None, *, compression: Compression | None) -> ImportSpec:
    """Return the spec of a body of events.

    ``artifact``, a kind and an id, is what the path names: events that name none of that kind get it, so that the store
    says whose they are.
    """
    adds = ((_MEMBERS[artifact[0]][0], artifact[1]),) if artifact else ()
    return ImportSpec(
        collection=COLLECTION,
        source=BODY,
        mapping=Mapping(
            id_names=("$unique_id",),
            time_names=("$time",),
            rules=Rules(
                any_shape=True,
                required=(("$time",),),
                references=tuple(Reference(kind, names) for kind, names in _MEMBERS.items()),
                adds=adds,
            ),
        ),
        format=Format.NDJSON,
        compression=compression,
    )


def _is_id(text: str) -> None:
    if parse_id(text) is None:
        raise ValidationError("It is the id of an import, the last one of the page before.")


class ListQuery(Schema):
    """Which imports to list. Anything else is refused: who asks for ``page=2`` must not get the first again."""

    status = fields.List(fields.String(validate=validate.OneOf(sorted({*STATUS.values()}))), load_default=None)
    after = fields.String(load_default=None, validate=_is_id)
    per_page = fields.Integer(load_default=PAGE, validate=validate.Range(1, MOST_OF_A_PAGE))


@dataclass(frozen=True, slots=True)
class ImportList:
    """Which imports are to be listed."""

    #: None: all.
    states: frozenset[ImportState] | None
    #: The id of the import to go on behind.
    after: str | None
    limit: int


def import_list(query: Lookup[str, list[str]]) -> ImportList:
    """Return what a query asks for, given all values of each parameter. Raises Refusal with what is wrong with each."""
    given = {name: values if name == "status" else values[0] for name, values in query.items()}
    try:
        asked: dict[str, Any] = ListQuery().load(given)
    except ValidationError as error:
        raise Refusal("invalid_request", _describe(error)) from None
    states = None if asked["status"] is None else frozenset(s for s, word in STATUS.items() if word in asked["status"])
    return ImportList(states, asked["after"], asked["per_page"])


def _describe(error: ValidationError) -> str:
    messages: dict[str, Any] = error.normalized_messages()  # type: ignore[no-untyped-call]
    return " ".join(f"{name[:64]}: {' '.join(_sentences(texts))}" for name, texts in messages.items())


def _sentences(texts: Any) -> Iterator[str]:
    """Yield what is said of a parameter: of one that may come several times it is said by number."""
    for text in texts.values() if isinstance(texts, dict) else texts:
        if isinstance(text, str):
            yield text
        else:
            yield from _sentences(text)
