"""S3: the only place that speaks to it.

The endpoint comes from the settings and the URL is built by the client from bucket and key: nothing a caller writes
can make us call another host. Credentials are given by hand, so that a caller's empty key never falls back to ours.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from hashlib import md5
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.parsers import ResponseParserError
from smart_open.compression import NO_COMPRESSION, compression_wrapper

from common.errors import SourceFailed, Terminal, Transient
from common.model.formats import Compression
from common.model.imports import Credentials
from common.model.roles import not_assumable
from common.model.sources import DEFAULT_REGION, Source, SourceRef
from common.telemetry import get_logger

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

log = get_logger(__name__)
T = TypeVar("T")

#: Bytes of a piece handed on: big enough that Python's share is small, small enough to stay flat in memory.
PIECE = 256 * 1024
#: Bytes read past the end asked for, in the same request: nearly every line that a chunk's end cuts ends in it.
TAIL = 64 * 1024
#: How often a request or a broken body is tried again inside one attempt, and the first and longest pause.
_TRIES, _FIRST_PAUSE, _LONGEST_PAUSE = 5, 0.2, 5.0
#: Error codes of S3 that pass; besides them every 5xx does.
_PASSING = frozenset({"SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "Throttling", "InternalError"})
#: Of a 400: keys that are good no more, or never were.
_EXPIRED = frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired"})
#: Those by which a server says that it did nothing.
_THROTTLED = frozenset({"SlowDown", "Throttling"})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
#: What smart_open knows them by. Not all that it reads: an xz may ask for 4 GiB of memory.
_DECOMPRESSED_AS = {
    Compression.NONE: NO_COMPRESSION,
    Compression.GZIP: ".gz",
    Compression.ZSTD: ".zst",
    Compression.BZIP2: ".bz2",
}
#: STS signs by region; its global address is that of the default one.
_STS_HOST = re.compile(r"https://sts\.([a-z]{2}-[a-z-]+-[0-9]{1,2})\.amazonaws\.com(?:\.cn)?/?")


class Place(NamedTuple):
    """A server of the settings: its address, and how many seconds of silence it may have."""

    endpoint_url: str
    timeout: float


class Objects:
    """Reads objects with one caller's credentials, which may be renewed meanwhile."""

    def __init__(
        self, keys: Callable[[], Credentials | None], open_client: Callable[[Credentials | None], S3Client]
    ) -> None:
        """Take what gives the credentials, asked at each request, and what makes a client of them; see ``connect``."""
        self._keys = keys
        self._open_client = open_client
        self._opened: tuple[Credentials | None, S3Client] | None = None
        self._opening = threading.Lock()

    def close(self) -> None:
        """Close the connections. The credentials go with the object."""
        if self._opened:
            self._opened[1].close()

    @property
    def client(self) -> S3Client:
        """Return the client of the credentials that are to be used now.

        A walker reads for hours, and what STS lends ends within one. A body under way goes on: it was signed before.
        """
        keys = self._keys()
        with self._opening:
            if self._opened is None or self._opened[0] is not keys:
                self.close()
                self._opened = keys, self._open_client(keys)
            return self._opened[1]

    def spool(self) -> Spool:
        """Return the way to write with the same credentials, which have to be the service's own."""
        return Spool(self)

    def writer(self) -> Writer:
        """Return the way to write with the same credentials."""
        return Writer(self)

    def pin(self, ref: SourceRef) -> Source:
        """Return the object's size and ETag. Raises Terminal where it cannot be had, Transient where not now."""
        head = _try(lambda: self.client.head_object(Bucket=ref.bucket, Key=ref.key))
        return Source(ref.bucket, ref.key, ref.region, head["ContentLength"], head["ETag"])

    def list_prefix(self, bucket: str, prefix: str, region: str) -> Iterator[list[Source]]:
        """Yield the objects whose keys begin with ``prefix``, a page of up to 1,000 at a time, in the server's order.

        Raises Terminal where the bucket may not be listed, Transient.
        """
        token: dict[str, str] = {}
        while True:
            ask = partial(self.client.list_objects_v2, Bucket=bucket, Prefix=prefix)
            page = _try(partial(ask, **token), _LISTING)
            yield [Source(bucket, one["Key"], region, one["Size"], one["ETag"]) for one in page.get("Contents", [])]
            if not page.get("IsTruncated"):
                return
            follows = {"ContinuationToken": page.get("NextContinuationToken", "")}
            if follows == token or not all(follows.values()):
                raise Transient(_UNREACHABLE, "the listing goes on nowhere")
            token = follows

    def read_whole(self, source: Source, *, most: int, sniff: Callable[[bytes], Compression | None]) -> bytes:
        """Return all of a small object, decompressed: of more than ``most`` bytes, the first of them.

        ``sniff`` says how an object is compressed that begins with these bytes; its name says nothing.

        smart_open decompresses and does not read: its own reader neither checks the answer's ETag and range (P6), nor
        leaves the pauses to us, 31 s in a row. Raises Terminal ``source_unreadable``, and as ``read_from`` does.
        """
        raw = b"".join(self.read_from(source, 0, source.size))
        compression = sniff(raw) or Compression.NONE
        try:
            with compression_wrapper(BytesIO(raw), "rb", _DECOMPRESSED_AS[compression]) as content:
                return bytes(content.read(most))
        except Exception as error:  # every decompressor has errors of its own
            text = f"The object begins as {compression} does, and cannot be decompressed as that."
            raise Terminal("source_unreadable", text, type(error).__name__) from error

    def read_from(self, source: Source, start: int, end: int) -> Generator[bytes, None, None]:
        """Yield the object's bytes from ``start`` on, in pieces, to its end; pull no more than is needed.

        ``end`` is where the caller expects to stop: one request covers it and a short tail, later ones double.
        Every answer has to be of the pinned version, and of the range that was asked for. A body that breaks is
        resumed where it broke. Raises SourceFailed ``source_changed`` (P6), Transient.
        """
        position, step = start, max(end - start, 0) + TAIL
        while position < source.size:
            stop = min(position + step, source.size)
            for piece in self._read_range(source, position, stop):
                position += len(piece)
                yield piece
            step = min(step * 2, 16 * TAIL) if position >= end else step

    def _read_range(self, source: Source, start: int, stop: int) -> Iterator[bytes]:
        broken = 0
        while start < stop:
            body = _try(partial(self._open, source, start, stop))
            try:
                for piece in body.iter_chunks(PIECE):
                    start += len(piece)
                    yield piece
                    broken = 0
                failure = f"the body ended {stop - start} bytes early" if start < stop else ""
            except (BotoCoreError, HTTPClientError, OSError) as error:
                failure = str(error)
            finally:
                body.close()
            if failure:
                broken += 1
                if broken >= _TRIES:
                    raise Transient(_UNREACHABLE, failure)
                _pause(broken)

    def _open(self, source: Source, start: int, stop: int) -> Any:
        answer = self.client.get_object(
            Bucket=source.bucket, Key=source.key, Range=f"bytes={start}-{stop - 1}", IfMatch=source.etag
        )
        # Some servers ignore If-Match, and some ignore Range and send everything: the answer itself is checked.
        if answer["ETag"] != source.etag:
            answer["Body"].close()
            raise _changed(source)
        found = _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
        if not found or tuple(map(int, found.groups())) != (start, stop - 1, source.size):
            answer["Body"].close()
            raise Transient(_UNREACHABLE, f"asked for bytes {start}-{stop - 1}, got {answer.get('ContentRange')!r}")
        return answer["Body"]


class Writer:
    """Writes objects with a caller's credentials, part by part, and deletes them.

    Own code and not smart_open's writer, though it writes in parts too: that one begins its upload by itself and keeps
    the id, which has to be in the ledger before the first byte comes, and cannot go on with or end one of another
    process. Safe for threads. Every method may block (a request of S3, tried again where it says so), and raises
    Transient, and Terminal ``destination_...`` where trying again cannot help.
    """

    def __init__(self, objects: Objects) -> None:
        """Take what opens the bucket; ``Objects.writer`` and ``Objects.spool`` do."""
        self._objects = objects

    def begin(self, ref: SourceRef, *, media_type: str = "") -> str:
        """Begin to write an object; return the id that the rest needs."""
        named: Any = {"ContentType": media_type} if media_type else {}
        ask = partial(
            self._ask,
            lambda client: client.create_multipart_upload(Bucket=ref.bucket, Key=ref.key, **named),
            once=True,
        )
        for attempt in range(1, _TRIES):
            try:
                return ask()["UploadId"]
            except Transient as error:
                # Again where S3 was asked too much. Whatever else went wrong may have left an upload that nobody knows.
                if not _is_throttled(error.__cause__):
                    raise
                _pause(attempt)
        return ask()["UploadId"]

    def put_part(self, ref: SourceRef, upload_id: str, number: int, content: BytesIO) -> str:
        """Write a part, numbered from 1, and return its ETag. All but the last have 5 MiB at least."""
        part = {"Bucket": ref.bucket, "Key": ref.key, "UploadId": upload_id, "PartNumber": number}

        def put(client: S3Client) -> str:
            content.seek(0)
            return client.upload_part(**part, Body=content)["ETag"]  # type: ignore[arg-type]

        return self._ask(put)

    def complete(self, ref: SourceRef, upload_id: str, etags: list[str], *, size: int | None = None) -> None:
        """Make the object of its parts, which have ``size`` bytes together.

        Raises GoneError where the upload was broken off. Where only the answer was lost the upload is gone too, and the
        object there: it is known by its size and its ETag, which S3 makes of those of the parts.
        """
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        whole = {"Bucket": ref.bucket, "Key": ref.key, "UploadId": upload_id, "MultipartUpload": {"Parts": parts}}
        try:
            self._ask(lambda client: client.complete_multipart_upload(**whole))  # type: ignore[arg-type]
        except GoneError:
            try:
                found = self._ask(lambda client: client.head_object(Bucket=ref.bucket, Key=ref.key))
            except Terminal as error:  # keys that may write and not read: nobody can tell
                raise GoneError(_UNREACHABLE, f"whether the object is there: {error}") from error
            if size is not None and (found["ContentLength"] != size or found["ETag"] not in _etags_of_whole(etags)):
                raise GoneError(_UNREACHABLE, "another object stands in the place of the upload") from None

    def break_off(self, ref: SourceRef, upload_id: str) -> bool:
        """Drop an upload and its parts; return whether S3 knows of none any more.

        Parts on their way at this moment may be kept: to be asked again later, until it is true.
        """
        try:
            self._ask(
                lambda client: client.abort_multipart_upload(Bucket=ref.bucket, Key=ref.key, UploadId=upload_id),
                once=True,
            )
        except GoneError:
            return True
        return False

    def list_begun(self, ref: SourceRef) -> list[str]:
        """Return the ids of uploads that were begun for an object and neither completed nor broken off."""
        answer = self._ask(lambda client: client.list_multipart_uploads(Bucket=ref.bucket, Prefix=ref.key), once=True)
        return [upload["UploadId"] for upload in answer.get("Uploads", ()) if upload["Key"] == ref.key]

    def delete(self, ref: SourceRef) -> None:
        """Delete an object, if it is there."""
        with suppress(GoneError):
            self._ask(lambda client: client.delete_object(Bucket=ref.bucket, Key=ref.key), once=True)

    def _ask(self, request: Callable[[S3Client], T], *, once: bool = False) -> T:
        ask = partial(request, self._objects.client)
        try:
            return _once(ask, _WRITING) if once else _try(ask, _WRITING)
        except SourceFailed as error:
            answer = error.__cause__
            told = answer.response.get("Error", {}).get("Code", "") if isinstance(answer, ClientError) else ""
            if error.code == "source_not_found" and told != "NoSuchBucket":
                raise GoneError(_UNREACHABLE, f"S3 knows of none: {error}") from error
            raise Terminal(error.code.replace("source_", "destination_"), error.public, str(error)) from error


class Spool(Writer):
    """Writes to the service's own bucket. Raises Transient whatever S3 says: nothing of it is the caller's fault."""

    def _ask(self, request: Callable[[S3Client], T], *, once: bool = False) -> T:
        try:
            return super()._ask(request, once=once)
        except (Terminal, Transient) as error:
            kind = GoneError if isinstance(error, GoneError) else Transient
            raise kind(_NOT_SPOOLED, f"the spool bucket: {error}") from error


class GoneError(Transient):
    """S3 knows of no such upload, or no such object."""


def _is_throttled(error: BaseException | None) -> bool:
    return isinstance(error, ClientError) and error.response.get("Error", {}).get("Code") in _THROTTLED


def _etags_of_whole(etags: list[str]) -> set[str]:
    """Return the ETags that an object of these parts may have: S3's, of their hashes; one part's own at some servers.

    Where a bucket is encrypted with keys of KMS its ETags are no hashes: then the object is not known by them, and is
    written again.
    """
    try:
        hashes = b"".join(bytes.fromhex(etag.strip('"')) for etag in etags)
    except ValueError:
        return set()
    whole = f'"{md5(hashes, usedforsecurity=False).hexdigest()}-{len(etags)}"'
    return {whole, etags[0]} if len(etags) == 1 else {whole}


def connect(
    credentials: Credentials | Callable[[], Credentials] | None,
    *,
    region: str,
    endpoint_url: str,
    addressing: str,
    checksums: str,
    timeout: float,
) -> Objects:
    """Return the objects that these credentials open, or those that a call gives each time. Opens nothing yet.

    None: what everybody may read; no request is signed.
    """
    config = _config(timeout).merge(_s3_config(addressing, checksums))

    def open_client(keys: Credentials | None) -> S3Client:
        how = config if keys else config.merge(Config(signature_version=UNSIGNED))
        client = _session().client(
            "s3", **_given(keys or _NO_KEYS), region_name=region, endpoint_url=endpoint_url or None, config=how
        )
        if endpoint_url:
            client.meta.events.register_last("before-parameter-build.s3", _stay_at_endpoint)
        return client

    return Objects(credentials if callable(credentials) else lambda: credentials, open_client)


#: Given to a client that signs nothing, so that it does not look for any either.
_NO_KEYS = Credentials("", "")


def assume_role(
    role: str, *, external_id: str, session_name: str, policy: str, seconds: int, own: Credentials, at: Place
) -> Credentials:
    """Return keys that STS lends for the role, for so many seconds. Raises Terminal ``role_not_assumable``, Transient.

    Asks the server of the settings and no other, with the service's ``own`` keys.
    """
    named = _STS_HOST.fullmatch(at.endpoint_url)
    region = named[1] if named else DEFAULT_REGION
    client = _session().client(
        "sts", **_given(own), region_name=region, endpoint_url=at.endpoint_url, config=_config(at.timeout)
    )
    ask = partial(
        client.assume_role,
        RoleArn=role,
        RoleSessionName=session_name,
        ExternalId=external_id,
        Policy=policy,
        DurationSeconds=seconds,
    )
    try:
        lent = _try(ask)["Credentials"]
    except Terminal as error:
        raise not_assumable(external_id, f"STS: {error}") from error
    finally:
        client.close()
    return Credentials(lent["AccessKeyId"], lent["SecretAccessKey"], lent["SessionToken"])


def _config(timeout: float) -> Config:
    return Config(
        connect_timeout=5,
        read_timeout=timeout,
        # Tried again here, where the pause and the number are ours; botocore never resumes a body.
        retries={"total_max_attempts": 1},
        # The environment's proxies are not for the callers' bytes.
        proxies={},
    )


def _s3_config(addressing: str, checksums: str) -> Config:
    return Config(
        s3={"addressing_style": addressing},  # type: ignore[arg-type]
        request_checksum_calculation=checksums,  # type: ignore[arg-type]
        response_checksum_validation=checksums,  # type: ignore[arg-type]
    )


def _given(keys: Credentials) -> dict[str, Any]:
    """Return the keys as a client takes them. Given by hand, even empty ones are used: its own chain is not asked."""
    return {
        "aws_access_key_id": keys.access_key_id,
        "aws_secret_access_key": keys.secret_access_key,
        "aws_session_token": keys.session_token,
    }


@cache
def _session() -> boto3.Session:
    """Return the process's session, which holds no credentials: it reads botocore's descriptions once.

    With a session of its own each client took 52 ms, now 3.
    """
    return boto3.Session()


def _stay_at_endpoint(context: dict[str, Any], **_: Any) -> None:
    """Keep botocore from following a bucket to its region: right at Amazon's, where only the region's host changes;
    elsewhere a server that answers 301 to everything sent it round in circles until Python's stack was full.
    """
    context.setdefault("s3_redirect", {})["redirected"] = True


def _try(request: Callable[[], T], texts: Mapping[int, str] | None = None) -> T:
    for attempt in range(1, _TRIES):
        try:
            return _once(request, texts)
        except Transient:
            _pause(attempt)
    return _once(request, texts)


def _once(request: Callable[[], T], texts: Mapping[int, str] | None = None) -> T:
    try:
        return request()
    except ClientError as error:
        _raise_final(error, texts or _READING)
        raise Transient(_UNREACHABLE, str(error)) from error
    except (BotoCoreError, HTTPClientError) as error:
        raise Transient(_UNREACHABLE, str(error)) from error
    except ResponseParserError as error:  # no BotoCoreError; its text is all that the server wrote
        raise Transient(_UNREACHABLE, "the answer is no XML") from error


def _pause(attempt: int) -> None:
    """Wait a random part of a pause that doubles: workers that failed together shall not return together."""
    time.sleep(random.uniform(0, min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE)))  # noqa: S311, TID251


def _raise_final(error: ClientError, texts: Mapping[int, str]) -> None:
    """Raise SourceFailed for an answer that trying again cannot change. What S3 wrote is not shown: it is not ours."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
    code = error.response.get("Error", {}).get("Code", "")
    if status >= 500 or status == 429 or code in _PASSING:
        return
    internal = f"{status} {code}"
    # 412: If-Match refused. 416: a pinned range is always inside the pinned size, so the object has shrunk.
    if status in (412, 416):
        raise SourceFailed("source_changed", _CHANGED, internal) from error
    if status == 404:
        raise SourceFailed("source_not_found", texts[404], internal) from error
    if status in (401, 403) or code in _EXPIRED:
        raise SourceFailed("source_access_denied", texts[403], internal) from error
    if status in (301, 307):
        text = "The bucket is in another region; name its region in the request."
        raise SourceFailed("source_wrong_region", text, internal) from error
    raise SourceFailed("source_unreadable", f"S3 answered with status {status}.", internal) from error


def _changed(source: Source) -> SourceFailed:
    return SourceFailed("source_changed", _CHANGED, f"the ETag is no longer {source.etag}")


_CHANGED = (
    "The object changed while it was being imported. What had been imported stays; "
    "start another import to take in the new version."
)
_READING = {
    403: "S3 refused access: the credentials are wrong, missing or expired, or may not read this object.",
    404: "There is no such bucket or object in S3.",
}
_LISTING = {
    403: "S3 refused to list the bucket: the credentials are wrong, or are not allowed s3:ListBucket of it.",
    404: "There is no such bucket in S3.",
}
_WRITING = {
    403: "S3 refused access: the credentials are wrong or have expired, or may not write to this place.",
    404: "There is no such bucket in S3.",
}
_NOT_SPOOLED = (
    "The service cannot store what you send at the moment. Nothing of it was imported; send it again shortly."
)
_UNREACHABLE = "S3 cannot be reached at the moment."
