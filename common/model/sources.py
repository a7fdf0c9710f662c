"""Where the lines come from: a reference as asked for, and the objects that it names, pinned by size and ETag."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from urllib.parse import unquote, urlsplit

from common.errors import Refusal
from common.model.formats import Layout
from common.model.globs import is_glob

#: S3's own rules for bucket names; they also keep out everything that could change the host of a URL we build, and
#: directory buckets (--x-s3), access points' aliases (-s3alias) and their like, which are opened in another way.
_BUCKET = re.compile(
    r"(?![0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$)(?!.*\.\.)(?!.*(?:--x-s3|-s3alias|--ol-s3|\.mrap)$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
)
#: S3's limit on keys, in bytes of UTF-8.
MAX_KEY_BYTES = 1024
#: Keys that a request may list.
MAX_LISTED = 1000
DEFAULT_REGION = "us-east-1"
REGION = re.compile(r"[a-z]{2}(-[a-z]+){1,3}-[0-9]{1,2}")

_VIRTUAL_HOST = re.compile(r"(?P<bucket>.+)\.s3(?:[.-](?P<region>[a-z0-9-]+))?\.amazonaws\.com")
_PATH_HOST = re.compile(r"s3(?:[.-](?P<region>[a-z0-9-]+))?\.amazonaws\.com")


class SourceKind(StrEnum):
    """What a reference names."""

    #: The object of its key.
    OBJECT = "object"
    #: All objects whose keys begin with its key.
    PREFIX = "prefix"
    #: The object of its key where there is one, else those whose keys begin with it: services exist whose callers
    #: write both alike.
    OBJECT_OR_PREFIX = "object_or_prefix"
    #: All objects whose keys its key is a pattern of: ``common.model.globs.Glob``.
    GLOB = "glob"
    #: The objects of a list: its ``keys``, or where it has none the lines of the object of its key.
    MANIFEST = "manifest"


@dataclass(frozen=True, slots=True)
class SourceRef:
    """Objects of S3 as they were asked for. No address but bucket, key and region: the endpoint is ours to choose."""

    bucket: str
    key: str
    region: str = DEFAULT_REGION
    kind: SourceKind = SourceKind.OBJECT
    #: Of a manifest without an object: whole keys, in order, each once; ``key`` is then what they all begin with.
    keys: tuple[str, ...] = ()
    #: ARN of the role that may read them, where the caller sends no keys of their own.
    role: str | None = None
    #: Whether it is asked for without keys where the caller sends none: then everybody may read it, or it is refused.
    anonymous: bool = False

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
    #: What looking at it has found; None until then.
    layout: Layout | None = None
    #: Bytes once decompressed, where somebody has gone through all of it.
    decoded_size: int | None = None


def parse_s3_url(
    url: str, *, kind: SourceKind | None = None, region: str | None = None, field: str = "source.url"
) -> SourceRef:
    """Read ``s3://bucket/key`` or the https form, virtual-hosted or path style.

    Without a ``kind`` the form says it: a key with ``*``, or in the s3 form ``?``, is a glob (of the https form, one
    that is not percent-encoded); none, or one that ends in a slash, is a prefix; any other an object.

    Raises Refusal naming ``field`` where the text is none of these, names nothing of that kind, or holds anything that
    could make us call another host: user names, ports, queries, fragments, control characters. The URL that is called
    later is built from the parsed bucket and key, never from this text.
    """
    if _holds_controls(url):
        raise _refuse(field, "it holds control characters")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _refuse(field, "it is not a URL") from None
    # urlsplit cuts an s3 key at ? and #, which are legal in keys of the s3:// form; there the rest is the key.
    if url.startswith("s3://"):
        bucket, _, key = url[len("s3://") :].partition("/")
        written = key
    elif parts.scheme == "https":
        bucket, written, region = _parse_https(url, field, region)
        key = _decode(written, field)
    else:
        raise _refuse(field, "it begins neither with s3:// nor with https://")
    kind = kind or _kind_of(written, key)
    _check_bucket(bucket, field)
    _check_key(key, field, kind)
    region = region or DEFAULT_REGION
    if not REGION.fullmatch(region):
        raise _refuse(field, f"its region {region[:32]!r} is not a region's name")
    return SourceRef(bucket, key, region, kind)


def list_keys(prefix: SourceRef, names: Iterable[str], *, field: str = "source.keys") -> SourceRef:
    """Return the manifest of these names: each a key beneath the prefix, or the whole address of an object.

    Raises Refusal naming the entry at fault, or ``field``'s reference where it is no folder that keys can follow.
    """
    if prefix.key and not prefix.key.endswith("/"):
        raise _refuse("source.url", "beside a list of keys it has to be a bucket or end in a slash")
    keys = {listed_key(name, prefix, field=f"{field}.{number}") for number, name in enumerate(names)}
    return replace(prefix, kind=SourceKind.MANIFEST, keys=tuple(sorted(keys)))


def listed_key(name: str, prefix: SourceRef, *, field: str) -> str:
    """Return the key that an entry of a list stands for. Raises Refusal, for one of another bucket too."""
    if name.startswith(("s3://", "https://")):
        named = parse_s3_url(name, kind=SourceKind.OBJECT, field=field)
        if named.bucket != prefix.bucket:
            raise _refuse(field, "it is in another bucket than the list says")
        return named.key
    key = prefix.key + name
    _check_key(key, field, SourceKind.OBJECT)
    if _holds_controls(key):
        raise _refuse(field, "it holds control characters")
    return key


def key_fault(key: str) -> str | None:
    """Return why we do not ask for this key, or None. A key that a listing shows may be anything."""
    if any(0xD800 <= ord(character) <= 0xDFFF for character in key) or "\0" in key:
        return "its key is not valid Unicode"
    if len(key.encode()) > MAX_KEY_BYTES:
        return f"its key is longer than {MAX_KEY_BYTES} bytes"
    # Servers and proxies exist that resolve them, and leave the bucket that was allowed.
    if {".", ".."} & {*key.split("/")}:
        return "a part of its key is . or .."
    return None


def bucket_fault(bucket: str) -> str | None:
    """Return why we do not ask for anything in this bucket, or None."""
    return None if _BUCKET.fullmatch(bucket) else "its bucket name is not valid"


def _kind_of(written: str, key: str) -> SourceKind:
    if is_glob(written):
        return SourceKind.GLOB
    return SourceKind.OBJECT if key and not key.endswith("/") else SourceKind.PREFIX


def _check_bucket(bucket: str, field: str) -> None:
    if fault := bucket_fault(bucket):
        raise _refuse(field, fault)


def _check_key(key: str, field: str, kind: SourceKind) -> None:
    if kind in (SourceKind.OBJECT, SourceKind.MANIFEST) and (not key or key.endswith("/")):
        raise _refuse(field, "it names no object (nothing, or a slash, stands where the key should end)")
    if fault := key_fault(key):
        raise _refuse(field, fault)


def _parse_https(url: str, field: str, region: str | None) -> tuple[str, str, str | None]:
    """Return bucket, key as it is written, and region."""
    parts = urlsplit(url)
    if parts.query or parts.fragment or "@" in parts.netloc or ":" in parts.netloc:
        raise _refuse(field, "it holds a user, a port, a query or a fragment")
    if not parts.netloc.isascii():
        raise _refuse(field, "its host is not one of S3's")  # the Kelvin sign in lower case is a k
    host, path = parts.netloc.lower(), parts.path.removeprefix("/")
    if match := _PATH_HOST.fullmatch(host):
        bucket, _, key = path.partition("/")
    elif match := _VIRTUAL_HOST.fullmatch(host):
        bucket, key = match["bucket"], path
    else:
        raise _refuse(field, "its host is not one of S3's")
    return bucket, key, match["region"] or region


def _decode(written: str, field: str) -> str:
    try:
        key = unquote(written, errors="strict")
    except UnicodeDecodeError:
        raise _refuse(field, "its key is not valid Unicode") from None
    if _holds_controls(key):
        raise _refuse(field, "it holds control characters")
    return key


def _holds_controls(text: str) -> bool:
    return any(ord(character) < 32 or ord(character) == 127 for character in text)


def _refuse(field: str, why: str) -> Refusal:
    return Refusal(
        "invalid_source_url",
        f"This is not the address of an S3 object: {why}. Write s3://bucket/key or https://bucket.s3.region.amazonaws.com/key.",
        field=field,
    )
