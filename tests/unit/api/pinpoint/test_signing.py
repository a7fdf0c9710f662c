"""Signatures: those of botocore and of the published test suite hold; a request that was altered has none."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import assume, example, given
from hypothesis import strategies as st

from api.pinpoint import signing
from api.pinpoint.signing import SERVICE, SKEW, Claim, Sent, read_claim
from common.errors import Refusal
from tests.signed import sign

#: Of the published suite, which is for a service named "service".
KEY_ID, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
NOW = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
SUITE_DATE = ("X-Amz-Date", "20150830T123600Z")
TOKEN = (
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthA"
    "x7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6"
    "d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
)


def sent(
    method: str = "GET", target: str = "/", headers: list[tuple[str, str]] | None = None, body: bytes = b""
) -> Sent:
    """Return a request with all that it was sent with, its host and the suite's date unless the headers name others."""
    path, _, query = target.encode().decode("latin-1").partition("?")
    found: dict[str, list[str]] = {}
    for name, value in [("Host", "example.amazonaws.com"), *(headers or [])]:
        found.setdefault(name.lower(), []).append(value)
    return Sent(method, path, query, found, body)


def check(request: Sent, *, secret: str | None = SECRET, now: datetime = NOW, service: str = "service") -> Claim:
    claim = read_claim(request, service=service)
    claim.check_secret(secret)
    claim.check_time(now)
    return claim


def refused(request: Sent, **more: Any) -> str:
    with pytest.raises(Refusal) as refusal:
        check(request, **more)
    return refusal.value.code


def signed(request: Sent, *, at: datetime = NOW, secret: str = SECRET, service: str = "service") -> Sent:
    return sign(request, KEY_ID, secret, at=at, service=service)


# --- the published suite

RESERVED = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
FORM = ("Content-Type", "application/x-www-form-urlencoded")
#: Name, method, target, headers beside host and date, body, signed headers beside those, signature. Left out: folded
#: header values, which no server of HTTP/1.1 takes, and the one about a header that is added after signing.
SUITE: list[tuple[str, str, str, list[tuple[str, str]], bytes, str, str]] = [
    ("get-vanilla", "GET", "/", [], b"", "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    (
        "get-header-key-duplicate",
        "GET",
        "/",
        [("My-Header1", "value2"), ("My-Header1", "value2"), ("My-Header1", "value1")],
        b"",
        "my-header1",
        "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
    ),
    (
        "get-header-value-order",
        "GET",
        "/",
        [("My-Header1", value) for value in ("value4", "value1", "value3", "value2")],
        b"",
        "my-header1",
        "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01",
    ),
    (
        "get-header-value-trim",
        "GET",
        "/",
        [("My-Header1", " value1"), ("My-Header2", ' "a   b   c"')],
        b"",
        "my-header1;my-header2",
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
    ),
    (
        "get-unreserved",
        "GET",
        f"/{RESERVED}",
        [],
        b"",
        "",
        "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
    ),
    ("get-utf8", "GET", "/ሴ", [], b"", "", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
    (
        "get-vanilla-empty-query-key",
        "GET",
        "/?Param1=value1",
        [],
        b"",
        "",
        "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb",
    ),
    (
        "get-vanilla-query-order-key",
        "GET",
        "/?Param1=value2&Param1=Value1",
        [],
        b"",
        "",
        "eedbc4e291e521cf13422ffca22be7d2eb8146eecf653089df300a15b2382bd1",
    ),
    (
        "get-vanilla-query-order-key-case",
        "GET",
        "/?Param2=value2&Param1=value1",
        [],
        b"",
        "",
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    (
        "get-vanilla-query-order-value",
        "GET",
        "/?Param1=value2&Param1=value1",
        [],
        b"",
        "",
        "5772eed61e12b33fae39ee5e7012498b51d56abc0abb7c60486157bd471c4694",
    ),
    (
        "get-vanilla-query-unreserved",
        "GET",
        f"/?{RESERVED}={RESERVED}",
        [],
        b"",
        "",
        "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
    ),
    (
        "get-vanilla-utf8-query",
        "GET",
        "/?ሴ=bar",
        [],
        b"",
        "",
        "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
    ),
    ("post-vanilla", "POST", "/", [], b"", "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    (
        "post-header-key-sort",
        "POST",
        "/",
        [("My-Header1", "value1")],
        b"",
        "my-header1",
        "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
    ),
    (
        "post-header-value-case",
        "POST",
        "/",
        [("My-Header1", "VALUE1")],
        b"",
        "my-header1",
        "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d",
    ),
    (
        "post-vanilla-query",
        "POST",
        "/?Param1=value1",
        [],
        b"",
        "",
        "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
    ),
    (
        "post-x-www-form-urlencoded",
        "POST",
        "/",
        [FORM],
        b"Param1=value1",
        "content-type",
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ),
    (
        "post-x-www-form-urlencoded-parameters",
        "POST",
        "/",
        [(FORM[0], f"{FORM[1]}; charset=utf8")],
        b"Param1=value1",
        "content-type",
        "1a72ec8f64bd914b0e42e42607c7fbce7fb2c7465f63e3092b3b0d39fa77a6fe",
    ),
    *(
        (name, "GET", target, [], b"", "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31")
        for name, target in (
            ("get-relative", "/example/.."),
            ("get-relative-relative", "/example1/example2/../.."),
            ("get-slash", "//"),
            ("get-slash-dot-slash", "/./"),
        )
    ),
    (
        "get-slash-pointless-dot",
        "GET",
        "/./example",
        [],
        b"",
        "",
        "ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5",
    ),
    (
        "get-slashes",
        "GET",
        "//example//",
        [],
        b"",
        "",
        "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84",
    ),
    (
        "get-space",
        "GET",
        "/example space/",
        [],
        b"",
        "",
        "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741",
    ),
    (
        "post-sts-header-before",
        "POST",
        "/",
        [("X-Amz-Security-Token", TOKEN)],
        b"",
        "x-amz-security-token",
        "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
    ),
]


@pytest.mark.parametrize(("name", "method", "target", "headers", "body", "more", "signature"), SUITE)
def test_the_published_signatures_hold(
    name: str, method: str, target: str, headers: list[tuple[str, str]], body: bytes, more: str, signature: str
) -> None:
    names = ";".join(sorted(["host", "x-amz-date", *filter(None, more.split(";"))]))
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20150830/us-east-1/service/aws4_request,"
        f" SignedHeaders={names}, Signature={signature}"
    )
    claim = check(sent(method, target, [*headers, SUITE_DATE, ("Authorization", authorization)], body))

    assert (claim.access_key_id, claim.signature.hex(), claim.signed_at) == (KEY_ID, signature, NOW)


# --- botocore as the oracle

VISIBLE = "".join(map(chr, range(0x21, 0x7F)))
segments = st.one_of(
    st.sampled_from(["", ".", "..", "a", "%2F", "%2f", "~", "%7E", "+", "%20", "%25"]),
    st.text(st.sampled_from([c for c in VISIBLE if c not in "?#"]), max_size=5),
    st.text(max_size=4).map(lambda text: quote(text.encode("utf-8", "replace"), safe="")),
)
paths = st.lists(segments, max_size=5).map(lambda found: "/" + "/".join(found))
parameters = st.one_of(
    st.sampled_from(["", "=", "a", "a=", "a=1", "a=2", "b=%20", "b=+", "A=1", "a%3D=1", "a==1"]),
    st.text(st.sampled_from([c for c in VISIBLE if c not in "#&"]), max_size=6),
)
queries = st.lists(parameters, max_size=4).map("&".join)
values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_categories=["Cc"]), max_size=12)
names = st.sampled_from(["content-type", "x-amz-meta-a", "x-amz-meta-b", "x-other", "my_header", "accept"])
requests = st.builds(
    Sent,
    st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
    paths,
    queries,
    st.dictionaries(names, st.lists(values, min_size=1, max_size=3), max_size=4).map(
        lambda found: {**found, "host": ["pinpoint.example.com:8443"]}
    ),
    st.binary(max_size=20),
)


@given(requests)
@example(sent("PUT", "/v1/apps/%C3%BC%2F..%2Fx/endpoints/a:b@c", body="{ü}".encode()))
@example(sent(target="/?b=2&a=1&a=0&a-b=3&a%20=4"))
@example(sent(headers=[("X-Amz-A", " \ta  b\t\t c "), ("X-Amz-A", ""), ("X-Amz-A", "é\xa0\xa0ü")]))
def test_what_botocore_signs_holds(request: Sent) -> None:
    there = signed(request)

    claim = check(there)
    assert (claim.access_key_id, claim.signed_at) == (KEY_ID, NOW)
    assert claim.signature.hex() in there.headers["authorization"][0]
    assert refused(there, secret="another") == refused(there, secret=None) == "bad_signature"


@given(st.data())
def test_what_was_altered_on_the_way_does_not_hold(data: st.DataObject) -> None:
    there = signed(data.draw(requests))
    part = data.draw(st.sampled_from(["method", "path", "query", "headers", "body"]))
    other = data.draw(requests)
    altered = replace(there, **{part: getattr(other, part)})
    if part == "headers":
        kept = {name: there.headers[name] for name in ("authorization", "x-amz-date")}
        seen = {
            name: found for name, found in other.headers.items() if name in there.headers or name.startswith("x-amz-")
        }
        altered = replace(altered, headers={**seen, **kept})
    assume(_canonical(altered) != _canonical(there))

    assert refused(altered) in ("bad_signature", "incomplete_signature")


def _canonical(request: Sent) -> str:
    """Return what botocore has signed of a request: what that leaves out may be altered."""
    ours = AWSRequest(request.method, f"https://host{request.path}?{request.query}", data=request.body)
    for name, found in request.headers.items():
        for value in found:
            ours.headers[name] = value
    assert urlsplit(ours.url).path == request.path
    return botocore.auth.SigV4Auth(Credentials(KEY_ID, SECRET), "service", "us-east-1").canonical_request(ours)


def _with(request: Sent, **headers: str | None) -> Sent:
    """Return the request with other headers, underscores for dashes, or without those that are None."""
    changed = {name.replace("_", "-"): value for name, value in headers.items()}
    kept = {name: values for name, values in request.headers.items() if name not in changed}
    return replace(request, headers={**kept, **{name: [value] for name, value in changed.items() if value is not None}})


ONE = sent("PUT", "/v1/apps/a%20b/endpoints?x=1&x=2&y=3", [FORM], b'{"Item": []}')


@pytest.mark.parametrize(
    "altered",
    [
        replace(ONE, method="POST"),
        replace(ONE, path="/v1/apps/a b/endpoints"),
        replace(ONE, path="/v1/apps/a%2520b/endpoints"),
        replace(ONE, path="/v1/apps/a%20b/endpoints/"),
        replace(ONE, query="x=2&x=1&y=4"),
        replace(ONE, query="x=1&y=2&x=3"),
        replace(ONE, query="x=1&x=2"),
        replace(ONE, query=""),
        replace(ONE, body=b'{"Item": [1]}'),
        replace(ONE, body=b""),
        replace(ONE, headers={**ONE.headers, "host": ["other.example.com"]}),
        replace(ONE, headers={**ONE.headers, "content-type": ["text/plain"]}),
        replace(ONE, headers={**ONE.headers, "content-type": [FORM[1].upper()]}),
    ],
)
def test_each_part_of_a_request_is_signed(altered: Sent) -> None:
    there = signed(ONE)
    headers = {**there.headers, **altered.headers}

    assert check(there)
    assert refused(replace(altered, headers=headers)) == "bad_signature"


def test_another_day_region_service_key_or_algorithm_does_not_hold() -> None:
    there = signed(ONE)
    (authorization,) = there.headers["authorization"]
    for part, other, code in (
        ("20150830", "20150831", "incomplete_signature"),
        ("us-east-1", "us-east-2", "bad_signature"),
        ("/service/", "/mobiletargeting/", "bad_signature"),
        ("aws4_request", "aws5_request", "incomplete_signature"),
        ("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1", "missing_token"),
        ("AWS4-HMAC-SHA256", "Bearer", "missing_token"),
        ("Signature=", "Signature=0", "incomplete_signature"),
        ("SignedHeaders=content-type;host", "SignedHeaders=host;content-type", "incomplete_signature"),
        ("SignedHeaders=content-type;host", "SignedHeaders=content-type;Host", "incomplete_signature"),
        ("host;", "host;host;", "incomplete_signature"),
        ("host;", "host;lost;", "incomplete_signature"),
        ("host;", "", "incomplete_signature"),
        ("content-type;", "", "incomplete_signature"),
        ("SignedHeaders", "Signed", "incomplete_signature"),
        (", Signature=", ", Signature=0, Signature=", "incomplete_signature"),
        ("Credential=", "Credential=a/20150830/b/service/aws4_request, Credential=", "incomplete_signature"),
    ):
        assert part in authorization
        assert refused(_with(there, authorization=authorization.replace(part, other, 1))) == code, (part, other)


def test_another_services_signature_is_refused_however_right_it_is() -> None:
    assert refused(signed(ONE, service="s3"), service=SERVICE) == "bad_signature"
    assert check(signed(ONE, service=SERVICE), service=SERVICE)


def test_nobody_can_sign_for_a_key_that_there_is_not() -> None:
    for secret in (signing._NOBODY, "", "None"):
        assert refused(signed(ONE, secret=secret), secret=None) == "bad_signature"


def test_the_header_may_be_written_without_spaces_and_in_any_order() -> None:
    there = signed(ONE)
    scheme, _, rest = there.headers["authorization"][0].partition(" ")
    for joined in (rest.replace(", ", ","), ", ".join(reversed(rest.split(", ")))):
        assert check(_with(there, authorization=f"{scheme} {joined}"))


def test_a_request_that_is_not_signed_is_told_so() -> None:
    assert refused(ONE) == "missing_token"
    assert refused(_with(ONE, authorization="")) == "missing_token"
    assert refused(_with(ONE, authorization="AWS4-HMAC-SHA256")) == "incomplete_signature"
    assert refused(replace(ONE, query="X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=00")) == "incomplete_signature"
    there = signed(ONE)
    twice = {**there.headers, "authorization": there.headers["authorization"] * 2}
    assert refused(replace(there, headers=twice)) == "incomplete_signature"
    joined = ",".join(there.headers["authorization"] * 2)  # as WSGI has it
    assert refused(_with(there, authorization=joined)) == "incomplete_signature"


def test_headers_of_aws_must_be_signed_whoever_added_them() -> None:
    there = signed(ONE)
    assert check(_with(there, x_forwarded_for="10.0.0.1", accept_encoding="identity"))
    assert refused(_with(there, x_amz_security_token="t")) == "incomplete_signature"
    assert refused(_with(signed(sent()), content_type="text/plain")) == "incomplete_signature"


@pytest.mark.parametrize("off", [-SKEW, timedelta(0), SKEW])
def test_a_clock_may_be_a_quarter_of_an_hour_off_and_no_more(off: timedelta) -> None:
    assert timedelta(minutes=15) == SKEW
    there = signed(ONE, at=NOW + off)
    assert check(there).signed_at == NOW + off
    another = _with(there, x_amz_date=f"{NOW:%Y%m%dT%H%M%SZ}")
    assert not off or refused(another) == "bad_signature"


def test_only_who_has_the_secret_learns_that_a_signature_is_too_old() -> None:
    there, late = signed(ONE), NOW + SKEW + timedelta(seconds=1)
    assert refused(there, now=late) == "expired_signature"
    assert refused(there, now=NOW - SKEW - timedelta(seconds=1)) == "expired_signature"
    assert refused(there, now=late, secret=None) == refused(there, now=late, secret="x") == "bad_signature"


@pytest.mark.parametrize("date", ["", "now", "20150830", "20150830T123600", "20150230T123600Z", "20150830T123660Z"])
def test_a_date_that_is_none_is_refused(date: str) -> None:
    assert refused(_with(signed(ONE), x_amz_date=date)) == "incomplete_signature"


def test_the_date_may_stand_in_the_date_header_where_that_is_signed() -> None:
    there = signed(_with(ONE, date="any"))
    assert "x-amz-date" not in there.headers
    assert check(there).signed_at == NOW
    assert refused(_with(there, date="Sun, 30 Aug 2015 12:36:01 GMT")) == "bad_signature"
    assert refused(_with(there, date="Mon, 31 Aug 2015 12:36:00 GMT")) == "incomplete_signature"
    assert refused(_with(there, date="lately")) == "incomplete_signature"
    assert refused(_with(there, date=None)) == "incomplete_signature"
    unsigned = there.headers["authorization"][0].replace("date;", "")
    assert refused(_with(there, authorization=unsigned)) == "incomplete_signature"


def test_a_hash_that_is_sent_is_that_of_the_body() -> None:
    right = hashlib.sha256(ONE.body).hexdigest()
    assert check(signed(_with(ONE, x_amz_content_sha256=right)))
    assert refused(signed(_with(ONE, x_amz_content_sha256="0" * 64))) == "bad_signature"
    assert refused(replace(signed(_with(ONE, x_amz_content_sha256=right)), body=b"")) == "bad_signature"
    for unsigned in ("UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "", right.upper()):
        assert refused(signed(_with(ONE, x_amz_content_sha256=unsigned))) == "incomplete_signature"


@given(st.text(st.characters(max_codepoint=0xFF), max_size=60) | st.text("AWS4-HMCSHA256 =,/;Cred", max_size=60))
def test_no_header_makes_it_fail_otherwise_than_by_a_refusal(text: str) -> None:
    there = signed(ONE)
    for authorization in (text, f"AWS4-HMAC-SHA256 {text}", f"{there.headers['authorization'][0]}.{text}"):
        with pytest.raises(Refusal):
            check(_with(there, authorization=authorization))


def test_what_is_sent_again_stands_for_the_same_and_nothing_else_does() -> None:
    def request(there: Sent) -> bytes:
        return check(there).request

    later = NOW + timedelta(seconds=1)
    assert request(signed(ONE)) == request(signed(ONE))
    assert request(signed(ONE)) != request(signed(ONE, at=later))

    # A client that tells which call it is at tries again with another signature.
    call = _with(ONE, amz_sdk_invocation_id="9b0c1a4e-0000-4000-8000-000000000000", amz_sdk_request="attempt=1")
    again = _with(call, amz_sdk_request="attempt=2")
    assert request(signed(call)) == request(signed(again, at=later))
    others = [
        signed(_with(call, amz_sdk_invocation_id="9b0c1a4e-0000-4000-8000-000000000001")),
        signed(replace(call, method="POST")),
        signed(replace(call, path="/v1/apps/a%20b/other")),
        signed(replace(call, query="x=1&x=2")),
        signed(replace(call, body=b"{}")),
        signed(ONE),
    ]
    assert len({request(signed(call)), *map(request, others)}) == len(others) + 1

    # What the signature does not tell apart is not told apart: somebody on the way could have written it so.
    for white in (" ", "\t", "\x0b", "\x85", "\xa0"):
        number = f"{white}9b0c1a4e-0000-4000-8000-000000000000{white}"
        assert request(_with(signed(call), amz_sdk_invocation_id=number)) == request(signed(call))
    two = replace(call, query="b=2&a=1")
    assert request(replace(signed(two), query="a=1&b=2")) == request(signed(two))

    # One that is not signed is anybody's.
    anybodys = _with(signed(ONE), amz_sdk_invocation_id="9b0c1a4e-0000-4000-8000-000000000000")
    assert request(anybodys) == request(signed(ONE))
