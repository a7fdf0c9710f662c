"""An application that says of each request whether its signature holds: for a server to be put in front of."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from werkzeug.wsgi import get_input_stream

from api.pinpoint.sent import read_sent
from api.pinpoint.signing import read_claim
from api.proxies import BelievedProxies
from common.errors import Refusal

KEY_ID, SECRET = "AKIDEXAMPLE", "a secret/+ of 40 characters, or about so"
#: What requests stood for that are to fail until they are sent again.
_seen: set[bytes] = set()


def _answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    sent = read_sent(environ, get_input_stream(environ).read())
    headers = [("Content-Type", "application/json")]
    try:
        claim = read_claim(sent)
        claim.check_secret(SECRET if claim.access_key_id == KEY_ID else None)
        claim.check_time(datetime.now(UTC))
    except Refusal as refusal:
        start_response("403 Forbidden", [*headers, ("x-amzn-ErrorType", refusal.code)])
        return [json.dumps({"message": refusal.public}).encode()]
    if "/seen-before/" in sent.path and claim.request not in _seen:
        _seen.add(claim.request)
        start_response("500 Internal Server Error", headers)
        return [b"{}"]
    start_response("200 OK", headers)
    return [json.dumps({"path": sent.path}).encode()]


#: Behind a proxy at 127.0.0.1, as behind nginx on the same host.
app = BelievedProxies(_answer, "127.0.0.1")
