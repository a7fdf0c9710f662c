"""Where the lines come from: a reference as asked for, and the same object pinned by size and ETag."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from common.errors import Refusal

#: S3's own rules for bucket names; they also keep out everything that could change the host of a URL we build, and
#: directory buckets (--x-s3), which are opened in another way.
_BUCKET = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)(?!.*\.\.)(?!.*--x-s3$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
#: S3's limit on keys, in bytes of UTF-8.
MAX_KEY_BYTES = 1024
DEFAULT_REGION = "us-east-1"
REGION = re.compile(r"[a-z]{2}(-[a-z]+){1,3}-\d{1,2}")

_VIRTUAL_HOST = re.compile(r"(?P<bucket>.+)\.s3(?:[.-](?P<region>[a-z0-9-]+))?\.amazonaws\.com")
_PATH_HOST = re.compile(r"s3(?:[.-](?P<region>[a-z0-9-]+))?\.amazonaws\.com")


@dataclass(frozen=True, slots=True)
class SourceRef:
    """An S3 object as it was asked for. Only bucket, key and region: the endpoint is always ours to choose."""

    bucket: str
    key: str
    region: str = DEFAULT_REGION

    @property
    def url(self) -> str:
        """Return the reference in its plainest spelling."""
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class Source:
    """An S3 object pinned at planning: every later read has to show this size and ETag (P6)."""

    bucket: str
    key: str
    region: str
    #: Bytes.
    size: int
    #: As S3 gave it, quotes included.
    etag: str


def parse_s3_url(url: str, *, region: str | None = None, field: str = "source.url") -> SourceRef:
    """Read ``s3://bucket/key`` or the https form, virtual-hosted or path style, of one object.

    Raises Refusal naming ``field`` where the text is none of these, names no object, or holds anything that
    could make us call another host: user names, ports, queries, fragments, control characters. The URL that
    is called later is built from the parsed bucket and key, never from this text.
    """
    if any(ord(character) < 32 or ord(character) == 127 for character in url):
        raise _refuse(field, "it holds control characters")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _refuse(field, "it is not a URL") from None
    # urlsplit cuts an s3 key at ? and #, which are legal in keys of the s3:// form; there the rest is the key.
    if url.startswith("s3://"):
        bucket, _, key = url[len("s3://") :].partition("/")
    elif parts.scheme == "https":
        bucket, key, region = _parse_https(url, field, region)
    else:
        raise _refuse(field, "it begins neither with s3:// nor with https://")
    _check_bucket(bucket, field)
    _check_key(key, field)
    region = region or DEFAULT_REGION
    if not REGION.fullmatch(region):
        raise _refuse(field, f"its region {region[:32]!r} is not a region's name")
    return SourceRef(bucket, key, region)


def _check_bucket(bucket: str, field: str) -> None:
    if not _BUCKET.fullmatch(bucket):
        raise _refuse(field, "its bucket name is not valid")


def _check_key(key: str, field: str) -> None:
    if not key or key.endswith("/"):
        raise _refuse(field, "it names no object (nothing, or a slash, stands where the key should end)")
    if any(0xD800 <= ord(character) <= 0xDFFF for character in key):
        raise _refuse(field, "its key is not valid Unicode")
    if len(key.encode()) > MAX_KEY_BYTES:
        raise _refuse(field, f"its key is longer than {MAX_KEY_BYTES} bytes")


def _parse_https(url: str, field: str, region: str | None) -> tuple[str, str, str | None]:
    parts = urlsplit(url)
    if parts.query or parts.fragment or "@" in parts.netloc or ":" in parts.netloc:
        raise _refuse(field, "it holds a user, a port, a query or a fragment")
    host, path = parts.netloc.lower(), unquote(parts.path)
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        raise _refuse(field, "it holds control characters")
    if match := _PATH_HOST.fullmatch(host):
        bucket, _, key = path.removeprefix("/").partition("/")
    elif match := _VIRTUAL_HOST.fullmatch(host):
        bucket, key = match["bucket"], path.removeprefix("/")
    else:
        raise _refuse(field, "its host is not one of S3's")
    return bucket, key, match["region"] or region


def _refuse(field: str, why: str) -> Refusal:
    return Refusal(
        "invalid_source_url",
        f"This is not the address of an S3 object: {why}. Write s3://bucket/key or https://bucket.s3.region.amazonaws.com/key.",
        field=field,
    )
