"""Columns that several tables share, as the model has them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec

from common.errors import Refusal
from common.model.chunks import Counts
from common.model.columns import Columns
from common.model.mapping import ColumnType, Mapping, OnDuplicate
from common.model.rules import NO_RULES, Rules

#: Bytes, as they are stored, of the columns on a page of several tables or imports.
_MOST_OF_COLUMNS = 8 * 1024 * 1024


def hex_id(uuid: str) -> str:
    """Return the model's spelling of an id: 32 digits, without the dashes of the driver's."""
    return uuid.replace("-", "")


def counts_of(row: Any) -> Counts:
    """Return the receipt of a row that has its six columns."""
    return Counts(row.lines, row.imported, row.replaced, row.duplicates, row.rejected, row.blank)


def mapping_json(mapping: Mapping) -> str:
    """Return a mapping as its column holds it."""
    members: dict[str, Any] = {
        "id": mapping.id_names,
        "time": mapping.time_names,
        "onDuplicate": mapping.on_duplicate,
        "types": dict(mapping.types),
        "quotedLineBreaks": mapping.quoted_line_breaks,
    }
    # Only what differs: pushes are compared by this text with those of versions that did not know the words.
    if not mapping.dots_nest:
        members["dotsNest"] = False
    if mapping.month_first:
        members["monthFirst"] = True
    if mapping.id_is_time:
        members["idIsTime"] = True
    if mapping.rules != NO_RULES:
        members["rules"] = msgspec.to_builtins(mapping.rules)
    return json.dumps(members)


def remembered_json(mapping: Mapping) -> str:
    """Return what of a mapping a collection remembers, as its column holds it."""
    return mapping_json(replace(mapping, rules=NO_RULES))


def mapping_of(value: Any) -> Mapping:
    """Return the mapping of a column; those that were written before there were other formats lack what is CSV's."""
    return Mapping(
        tuple(value["id"]),
        tuple(value["time"]),
        OnDuplicate(value["onDuplicate"]),
        tuple((column, ColumnType(kind)) for column, kind in value.get("types", {}).items()),
        value.get("quotedLineBreaks", True),
        value.get("dotsNest", True),
        value.get("monthFirst", False),
        value.get("idIsTime", False),
        msgspec.convert(value.get("rules", {}), Rules),
    )


def check_page(size: int) -> None:
    """Raise Refusal ``page_too_large`` where the columns that a page tells of have more bytes than it may have.

    20 tables of 10,000 columns each made an answer of 19 MB, and a process larger by 100.
    """
    if size > _MOST_OF_COLUMNS:
        text = f"The columns on this page are described by more than {_MOST_OF_COLUMNS // 2**20} MiB. Ask for less."
        raise Refusal("page_too_large", text)


def columns_json(columns: Columns | None) -> str | None:
    """Return the columns of a table as their column holds them; None of what is no table."""
    return None if columns is None else json.dumps(msgspec.to_builtins(columns))


def columns_of(value: Any) -> Columns | None:
    """Return the columns of a table; None of what is no table."""
    return None if value is None else msgspec.convert(value, Columns)
