"""Paths in letters of any case: clients exist that write ``/imports/S3``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

#: The segments that are no names: those of datasets differ by their case. Letters are those of ASCII.
_FIXED = re.compile(r"/v1/(?:imports(?:/(?:s3|url|azure)(?=/|\Z))?|data)(?=/|\Z)", re.IGNORECASE | re.ASCII)


def fold_path(path: str) -> str:
    """Return a path with the fixed segments of this room's in lower case; any other as it is."""
    found = _FIXED.match(path)
    return found[0].lower() + path[found.end() :] if found else path


class FoldedPaths:
    """WSGI middleware: routes match letters as they stand, and only those of one room are to match others, too."""

    def __init__(self, app: WSGIApplication) -> None:
        """Take the app."""
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve the request."""
        environ["PATH_INFO"] = fold_path(environ.get("PATH_INFO", ""))
        return self._app(environ, start_response)
