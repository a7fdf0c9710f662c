"""A request as it was sent, out of what WSGI makes of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from werkzeug.datastructures import EnvironHeaders

from api.pinpoint.signing import Sent

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


def read_sent(environ: WSGIEnvironment, body: bytes) -> Sent:
    """Return the request of the environment, whose body was read already.

    ``PATH_INFO`` is decoded, and how it was encoded is signed: gunicorn and werkzeug have the request's target as it
    came in ``RAW_URI``. Host is the one that the caller asked for where the proxies of the settings say so
    (``BelievedProxies`` has put it there); a proxy that changes Host and sends no X-Forwarded-Host breaks signatures.
    Repeated headers come joined by commas, which is how they are signed.
    """
    # The absolute form, which is sent to proxies, has the host in front.
    target = re.sub("^[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*", "", environ["RAW_URI"]).partition("#")[0]
    path, _, query = target.partition("?")
    headers: dict[str, list[str]] = {}
    for name, value in EnvironHeaders(environ):
        headers.setdefault(name.lower(), []).append(value)
    return Sent(environ["REQUEST_METHOD"], path, query, headers, body)
