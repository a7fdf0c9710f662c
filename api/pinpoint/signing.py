"""Signature Version 4 of AWS, verified: whose secret signed a request, and when. Pure.

Own code: no library that is kept up verifies signatures, and botocore, which makes them, may be imported where S3 is
alone. Its signer is what the tests compare with.

What is signed binds the method, the path, the query, the signed headers and the body, which is hashed here. It does not
bind the order of parameters, the white space in headers, nor empty and dotted segments of the path: whoever routes a
request, or knows one that is sent again, must not find another meaning in these.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import quote

from common.errors import Refusal

#: By which name clients of this dialect sign.
SERVICE = "mobiletargeting"
#: How far the signer's clock may be from ours, either way. Within this a signature is good, and may be repeated.
SKEW = timedelta(minutes=15)

_ALGORITHM = "AWS4-HMAC-SHA256"
_END = "aws4_request"
_STAMP = "%Y%m%dT%H%M%SZ"
#: Signed with where no such access key exists, so that the answer takes as long.
_NOBODY = secrets.token_urlsafe(30)
_PRINTABLE = bytes(range(0x21, 0x7F))
#: Beside host and whatever begins with x-amz-: whoever could change them would change what is asked for.
_SIGNED_TOO = ("content-type", "idempotency-key")
_HASH = "x-amz-content-sha256"
#: The SDKs of AWS draw a number for each call, and send it with each try of it.
_INVOCATION = "amz-sdk-invocation-id"

_FORMS: dict[str, re.Pattern[str]] = {
    "Credential": re.compile(rf"[A-Za-z0-9]{{1,128}}/[0-9]{{8}}/[a-z0-9-]{{1,64}}/[a-z0-9-]{{1,64}}/{_END}"),
    "SignedHeaders": re.compile(r"[!#$%&'*+.^_`|~a-z0-9;-]{1,4096}"),
    "Signature": re.compile(r"[0-9a-f]{64}"),
}


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it was sent: of path, query and headers each character is a byte, as WSGI has them."""

    method: str
    #: Percent-encoded, as the sender did it; without the query.
    path: str
    #: Without its question mark.
    query: str
    #: By names in lower case. Each value as it came, or several of them joined by commas.
    headers: dict[str, list[str]]
    body: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request says of its signature: true once both checks have passed, and of no use before."""

    access_key_id: str
    #: 32 bytes.
    signature: bytes
    signed_at: datetime
    #: 32 bytes that stand for what is asked for here: a request that is sent again has the same, and so have two alike
    #: of one second. A client that signs the number of its call is understood better: all tries of a call have the same
    #: and no other call has. boto3 sends that number, but adds it after signing: anybody could change it.
    request: bytes
    #: Day, region and service.
    scope: str
    string_to_sign: str = field(repr=False)

    def check_secret(self, secret: str | None) -> None:
        """Raise Refusal ``bad_signature``, the same for every cause, unless the secret made the signature.

        It is None where there is no such access key: that takes as long.
        """
        right = hmac.compare_digest(_sign(self, secret or _NOBODY), self.signature)
        if secret is None or not right:
            raise _bad(
                "No access key of ours has made this signature over this request. Look at the access key id, at its"
                " secret, and at what changes the method, path, query, body or a signed header on the way: host is one."
            )

    def check_time(self, now: datetime) -> None:
        """Raise Refusal ``expired_signature`` where it is too old or too young: for who has the secret to see."""
        if abs(now - self.signed_at) > SKEW:
            text = f"The request was signed at {self.signed_at:%Y-%m-%dT%H:%M:%SZ}, more than"
            text += f" {SKEW.seconds // 60} minutes from the time here, {now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}."
            raise Refusal("expired_signature", text)


def read_claim(sent: Sent, *, service: str = SERVICE) -> Claim:
    """Return whose signature the request shows, and over what.

    Raises Refusal: ``missing_token``, ``incomplete_signature`` where something is missing or must have been signed,
    ``bad_signature`` where it is for another service or body.
    """
    parts = _read_authorization(sent)
    signed = tuple(parts["SignedHeaders"].split(";"))
    _check_signed(sent, signed)
    access_key_id, scope = parts["Credential"].split("/", 1)
    day, _, named, _ = scope.split("/")
    if named != service:
        raise _bad(f"The signature is for another service: its credential has to name {service!r}.")
    signed_at = _read_time(sent, signed)
    stamp = f"{signed_at:{_STAMP}}"
    if stamp[:8] != day:
        raise _incomplete("The day in the signature's credential is not that of the request's date.")
    _check_body(sent)
    signature = bytes.fromhex(parts["Signature"])
    string_to_sign = "\n".join((_ALGORITHM, stamp, scope, _hash(_canonical_request(sent, signed).encode())))
    return Claim(access_key_id, signature, signed_at, _stands_for(sent, signed) or signature, scope, string_to_sign)


# --- what was claimed


def _read_authorization(sent: Sent) -> dict[str, str]:
    """Return the three parts of the Authorization header, each in its form."""
    values = sent.headers.get("authorization", [])
    if not values and "X-Amz-Signature=" in sent.query:
        raise _incomplete("A signature in the query is not taken: sign with the Authorization header.")
    scheme, _, rest = values[0].strip().partition(" ") if values else ("", "", "")
    if scheme != _ALGORITHM:
        text = f"The request is not signed: it takes an Authorization header of {_ALGORITHM}."
        raise Refusal("missing_token", text)
    if len(values) > 1:
        raise _incomplete("The request has more than one Authorization header.")
    found = [part.strip().partition("=") for part in rest.split(",")]
    parts = {name: value for name, _, value in found}
    for name, form in _FORMS.items():
        if not form.fullmatch(parts.get(name, "")):
            raise _incomplete(f"{name} of the Authorization header is missing or malformed.")
    if len(found) != len(_FORMS):
        raise _incomplete(f"The Authorization header takes {', '.join(_FORMS)}, each once.")
    return parts


def _check_signed(sent: Sent, signed: tuple[str, ...]) -> None:
    """Refuse a request of which too little is signed: the rest anybody on the way may have written."""
    if signed != tuple(sorted(set(signed))):
        raise _incomplete("SignedHeaders takes names in lower case, sorted, each once, with semicolons between them.")
    must = {"host", *(name for name in sent.headers if name in _SIGNED_TOO or name.startswith("x-amz-"))}
    if unsigned := sorted(must - set(signed)):
        raise _incomplete(f"The signature leaves out what it has to cover: {', '.join(unsigned)}.")
    if lost := [name for name in signed if name not in sent.headers]:
        raise _incomplete(f"These headers are signed, and did not arrive: {', '.join(lost)}.")


def _read_time(sent: Sent, signed: tuple[str, ...]) -> datetime:
    """Return when the request says that it was signed."""
    name = next((name for name in ("x-amz-date", "date") if name in signed), None)
    if name is None:
        raise _incomplete("The signature has to cover the header x-amz-date, or date.")
    text = ",".join(sent.headers[name]).strip()
    read: Callable[[str], datetime] = parsedate_to_datetime
    if re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", text):
        read = _read_stamp
    elif name == "x-amz-date":
        raise _incomplete("The header x-amz-date takes a time like 20180605T214915Z.")
    try:
        at = read(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise _incomplete(f"The header {name} holds no time.") from None


def _read_stamp(text: str) -> datetime:
    return datetime.strptime(text, _STAMP).replace(tzinfo=UTC)


def _check_body(sent: Sent) -> None:
    """Refuse a body that is not the one of which the request has the hash, where it has any."""
    declared = sent.headers.get(_HASH)
    if declared is None or declared == [_hash(sent.body)]:
        return
    if not re.fullmatch("[0-9a-f]{64}", declared[0]):
        raise _incomplete(f"{_HASH} takes the SHA-256 of the body: unsigned and streamed bodies are not taken.")
    raise _bad(f"The body is not the one that was signed: its SHA-256 is not that of {_HASH}.")


def _incomplete(text: str) -> Refusal:
    return Refusal("incomplete_signature", text)


def _bad(text: str) -> Refusal:
    return Refusal("bad_signature", text)


def _stands_for(sent: Sent, signed: tuple[str, ...]) -> bytes | None:
    """Return what all tries of a call have in common and nothing else has, if the client tells."""
    if _INVOCATION not in signed:
        return None
    # As it is signed, not as it was sent: of what the signature holds for in two spellings, anybody may send either.
    number, query = _canonical_value(sent.headers[_INVOCATION]), _canonical_query(sent.query)
    parts = (number, sent.method.upper(), _canonical_path(sent.path), query, _hash(sent.body))
    return hashlib.sha256("\n".join(parts).encode()).digest()


# --- what the signature has to be


def _sign(claim: Claim, secret: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (*claim.scope.split("/"), claim.string_to_sign):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _canonical_request(sent: Sent, signed: tuple[str, ...]) -> str:
    headers = "".join(f"{name}:{_canonical_value(sent.headers[name])}\n" for name in signed)
    return "\n".join(
        (
            sent.method.upper(),
            _canonical_path(sent.path),
            _canonical_query(sent.query),
            headers,
            ";".join(signed),
            _hash(sent.body),
        )
    )


def _canonical_path(path: str) -> str:
    """Return the path as every service but S3 has it: normal, and encoded once more than it was sent."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    end = "/" if kept and path.endswith("/") else ""
    return quote(("/" + "/".join(kept) + end).encode("latin-1"), safe="/~")


def _canonical_query(query: str) -> str:
    """Return the parameters sorted, encoded as they were sent: what another encoding may mean is not ours to guess."""
    if not query:
        return ""
    quoted = quote(query.encode("latin-1"), safe=_PRINTABLE)
    pairs = sorted(tuple(pair.partition("=")[::2]) for pair in quoted.split("&"))
    return "&".join("=".join(pair) for pair in pairs)


def _canonical_value(values: list[str]) -> str:
    return ",".join(" ".join(value.split()) for value in values)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
