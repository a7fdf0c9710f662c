"""JSON as people write it in an address: names without quotes, strings in single ones. Pure."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pyjson5

from common.errors import Refusal

#: Bytes. gunicorn takes an address of 8,190, but a query may come elsewhere, too.
MAX_QUERY = 8 * 1024
#: Brackets open at once; a query needs four.
_MAX_DEPTH = 32


def read_query(text: str | None, *, field: str = "query") -> Any:
    """Return what the text of a query says, as JSON values; of none or an empty one ``{}``.

    Strict JSON is read as bodies are; what is none is read as JSON5, which is JSON with the liberties of JavaScript
    (unquoted names, single quotes, comments, trailing commas, hexadecimal numbers). Its NaN and Infinity are no JSON
    values. Raises Refusal ``malformed_query``.
    """
    if not text or not text.strip():
        return {}
    if len(text.encode(errors="replace")) > MAX_QUERY:
        raise Refusal("malformed_query", f"The query is longer than {MAX_QUERY} bytes.", field=field)
    try:
        return _read(text)
    except (ValueError, RecursionError):
        raise Refusal("malformed_query", "The query JSON supplied is not valid.", field=field) from None


def _read(text: str) -> Any:
    """Return what the text says; ValueError, RecursionError if it says nothing that JSON could."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        value = _read_json5(text)
    # Asked only whether there are values that JSON has not.
    json.dumps(value, allow_nan=False)
    return value


def _read_json5(text: str) -> Any:
    try:
        return pyjson5.decode(text, maxdepth=_MAX_DEPTH)
    except pyjson5.Json5DecoderException as error:
        raise ValueError(error.message) from None
