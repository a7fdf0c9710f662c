"""Columns that several tables share, as the model has them."""

from __future__ import annotations

from typing import Any

from common.model.chunks import Counts


def hex_id(uuid: str) -> str:
    """Return the model's spelling of an id: 32 digits, without the dashes of the driver's."""
    return uuid.replace("-", "")


def counts_of(row: Any) -> Counts:
    """Return the receipt of a row that has its six columns."""
    return Counts(row.lines, row.imported, row.replaced, row.duplicates, row.rejected, row.blank)
