"""Requests as botocore signs them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from unittest.mock import patch

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from api.pinpoint.signing import SERVICE, Sent


def sign(request: Sent, key_id: str, secret: str, *, at: datetime | None = None, service: str = SERVICE) -> Sent:
    """Return the request with the headers that sign it, as of a time, or of now."""
    ours = AWSRequest(request.method, f"https://host{request.path}?{request.query}", data=request.body)
    for name, values in request.headers.items():
        for value in values:
            ours.headers[name] = value
    signer = botocore.auth.SigV4Auth(Credentials(key_id, secret), service, "us-east-1")
    with patch.object(botocore.auth, "get_current_datetime", lambda: at or datetime.now(UTC)):
        signer.add_auth(ours)
    headers: dict[str, list[str]] = {}
    for name, value in ours.headers.items():
        headers.setdefault(name.lower(), []).append(value)
    return replace(request, headers=headers)
