"""Who asks, in which application, and what stands for the request among those that may be it once more."""

from __future__ import annotations

import hashlib
from typing import cast

from flask import current_app, g, request

from api.accounts import AccountDesk
from api.callers import Caller
from api.pinpoint.sent import read_sent
from api.pinpoint.signing import read_claim
from api.signers import Signers
from api.web import bearer, idempotency_key, read_body, runtime
from common.errors import Refusal

_SIGNED = "AWS4-HMAC-SHA256 "


def identify() -> None:
    """Know the account that asks, before anything else of the request is looked at.

    It signs, or shows a bearer key, which is simpler where no SDK does the signing. Raises Refusal.
    """
    authorization = request.headers.get("Authorization", "")
    if authorization.lower().startswith("bearer "):
        g.account, g.signed = bearer(), None
        return
    # Of a stranger who signs nothing no body is waited for.
    body = read_body() if authorization.startswith(_SIGNED) else b""
    sent = read_sent(request.environ, body)
    _check_path(sent.path)
    claim = read_claim(sent)
    signers = cast(Signers, current_app.extensions["penstock-signers"])
    g.account, g.signed = signers.identify(claim, address=request.remote_addr or ""), claim.request


def _check_path(path: str) -> None:
    """Refuse a path that stands for another one where it is signed: its signature may have been made for that."""
    *parts, last = path.split("/")[1:]
    if {"", ".", ".."} & {*parts} or last in (".", ".."):
        raise Refusal("not_found", "A part of the path is empty, or consists of dots alone. Percent-encode slashes.")


def account() -> Caller:
    """Return the account that asks."""
    return cast(Caller, g.account)


def enter(app_id: str) -> Caller:
    """Return the account as it acts in one of its applications. Raises Refusal ``not_found``."""
    return AccountDesk(runtime()).enter(account(), app_id)


def key_of_request() -> str | None:
    """Return the idempotency key of a request that makes a job: the caller's own, or that of what was signed.

    The SDKs of AWS send a request again that got no answer, and whoever has seen a signed one can, too.
    """
    signed, own = cast("bytes | None", g.signed), idempotency_key()
    if own and signed:
        # Signatures hold for any number of spaces: with one more it would be another key, and anybody could send it.
        return " ".join(own.split())
    return own or (f"signed {signed.hex()}" if signed else None)


def request_itself() -> bytes | None:
    """Return 32 bytes that stand for a request which makes no job, if it may be known when it is sent again."""
    key = key_of_request()
    if key is None:
        return None
    # Without the query, which asks for nothing where something is written: signatures hold for it in any order.
    parts = (key.encode(), request.method.encode(), request.path.encode(), read_body())
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()
