"""S3: the only place that speaks to it.

The endpoint comes from the settings and the URL is built by the client from bucket and key: nothing a caller writes
can make us call another host. Credentials are given by hand, so that a caller's empty key never falls back to ours.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from common.errors import Terminal, Transient
from common.model.imports import Credentials
from common.model.sources import Source, SourceRef
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
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Objects:
    """Reads objects with one set of credentials."""

    def __init__(self, client: S3Client) -> None:
        """Take a client; ``connect`` makes one."""
        self._client = client

    def close(self) -> None:
        """Close the connections. The credentials go with the object."""
        self._client.close()

    def pin(self, ref: SourceRef) -> Source:
        """Return the object's size and ETag. Raises Terminal where it cannot be had, Transient where not now."""
        head = _try(lambda: self._client.head_object(Bucket=ref.bucket, Key=ref.key))
        return Source(ref.bucket, ref.key, ref.region, head["ContentLength"], head["ETag"])

    def read_from(self, source: Source, start: int, end: int) -> Iterator[bytes]:
        """Yield the object's bytes from ``start`` on, in pieces, to its end; pull no more than is needed.

        ``end`` is where the caller expects to stop: one request covers it and a short tail, later ones double.
        Every answer has to be of the pinned version, and of the range that was asked for. A body that breaks is
        resumed where it broke. Raises Terminal ``source_changed`` (P6), Transient.
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
        answer = self._client.get_object(
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


def connect(
    credentials: Credentials, *, region: str, endpoint_url: str, addressing: str, checksums: str, timeout: float
) -> Objects:
    """Return the objects that these credentials open. Opens no connection yet."""
    config = Config(
        connect_timeout=5,
        read_timeout=timeout,
        # Tried again here, where the pause and the number are ours; botocore never resumes a body.
        retries={"total_max_attempts": 1},
        s3={"addressing_style": addressing},  # type: ignore[arg-type]
        request_checksum_calculation=checksums,  # type: ignore[arg-type]
        response_checksum_validation=checksums,  # type: ignore[arg-type]
        # The environment's proxies are not for the callers' bytes.
        proxies={},
    )
    client = _session().client(
        "s3",
        # Given here, even empty ones are used: the session's own chain is not asked.
        aws_access_key_id=credentials.access_key_id,
        aws_secret_access_key=credentials.secret_access_key,
        aws_session_token=credentials.session_token,
        region_name=region,
        endpoint_url=endpoint_url or None,
        config=config,
    )
    if endpoint_url:
        client.meta.events.register_last("before-parameter-build.s3", _stay_at_endpoint)
    return Objects(client)


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


def _try(request: Callable[[], T]) -> T:
    for attempt in range(1, _TRIES):
        try:
            return _once(request)
        except Transient:
            _pause(attempt)
    return _once(request)


def _once(request: Callable[[], T]) -> T:
    try:
        return request()
    except ClientError as error:
        _raise_final(error)
        raise Transient(_UNREACHABLE, str(error)) from error
    except (BotoCoreError, HTTPClientError) as error:
        raise Transient(_UNREACHABLE, str(error)) from error


def _pause(attempt: int) -> None:
    """Wait a random part of a pause that doubles: workers that failed together shall not return together."""
    time.sleep(random.uniform(0, min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE)))  # noqa: S311, TID251


def _raise_final(error: ClientError) -> None:
    """Raise Terminal for an answer that trying again cannot change. What S3 wrote is not shown: it is not ours."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
    code = error.response.get("Error", {}).get("Code", "")
    if status >= 500 or status == 429 or code in _PASSING:
        return
    internal = f"{status} {code}"
    # 412: If-Match refused. 416: a pinned range is always inside the pinned size, so the object has shrunk.
    if status in (412, 416):
        raise Terminal("source_changed", _CHANGED, internal) from error
    if status == 404:
        raise Terminal("source_not_found", "There is no such bucket or object in S3.", internal) from error
    if status in (401, 403):
        text = "S3 refused access: the credentials are wrong, or may not read this object."
        raise Terminal("source_access_denied", text, internal) from error
    if status in (301, 307):
        text = "The bucket is in another region; name its region in the request."
        raise Terminal("source_wrong_region", text, internal) from error
    raise Terminal("source_unreadable", f"S3 answered the read with status {status}.", internal) from error


def _changed(source: Source) -> Terminal:
    return Terminal("source_changed", _CHANGED, f"the ETag is no longer {source.etag}")


_CHANGED = (
    "The object changed while it was being imported. What had been imported stays; "
    "start another import to take in the new version."
)
_UNREACHABLE = "S3 cannot be reached at the moment."
