"""Lines into objects of S3: compressed, cut, sent side by side, and each made whole by one last request.

Every object is a multipart upload, the smallest too: none is there before it is whole, and an upload can be broken off
by its id, so that an attempt that has lost its lease cannot make an object of it any more.
"""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from io import BytesIO

from common.errors import Terminal
from common.ledger import exports
from common.model.exports import MOST_PARTS, Attempt, WrittenObject
from common.model.formats import Compression, Format
from common.model.sources import SourceRef
from common.objects import Writer
from common.runtime import Runtime
from workers.exports.compressing import compressor_of
from workers.exports.encoding import Encoded
from workers.exports.watch import LeaseLostError, Watch

MIB = 1024 * 1024
#: Bytes of a part of an upload: for its first 5,000, and for the 5,000 that S3 allows after those. 200 GB in all, in
#: memory four of them at the most: 32 MiB, and 128 of the larger ones, which begin after 40 GB.
PART_BYTES, _LATER_PART_BYTES = 8 * MIB, 32 * MIB
_EARLY_PARTS, _ALL_PARTS = 5_000, 10_000
#: Parts on their way at a time.
_IN_FLIGHT = 3
#: Seconds between two looks at whether whoever waits here should still do so.
_LOOK_SECONDS = 0.5

_MEDIA_TYPES = {Format.NDJSON: "application/x-ndjson", Format.CSV: "text/csv; charset=utf-8"}
_COMPRESSED_TYPES = {Compression.GZIP: "application/gzip", Compression.ZSTD: "application/zstd"}


class Delivery:
    """All objects of one attempt. To be closed, whatever happens: nothing is on its way any more then."""

    def __init__(self, runtime: Runtime, attempt: Attempt, writer: Writer, watch: Watch) -> None:
        """Take where to write."""
        self._runtime, self._attempt, self._writer, self._watch = runtime, attempt, writer, watch
        #: What every object begins with.
        self.head = b""
        self._pool = ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="parts")
        self._places = threading.BoundedSemaphore(_IN_FLIGHT)
        self._open: _Object | None = None
        self._written: list[WrittenObject] = []
        #: Why a part could not be sent: nobody waits for it before its object ends, which may be hours from now.
        self._failure: BaseException | None = None

    def write(self, lines: Encoded) -> None:
        """Take whole lines. Blocks while as many parts are on their way as may be.

        Raises LeaseLostError, Terminal, Transient.
        """
        if not lines.events:
            return
        spec = self._attempt.job.spec
        self._open = self._open or self._begin()
        self._open.write(lines.data, lines.events)
        if spec.part_bytes and self._open.size >= spec.part_bytes:
            self._end()

    def finish(self) -> list[WrittenObject]:
        """Return the objects, all of them whole: of no events one that holds nothing. Raises as above."""
        if self._open or not self._written:
            self._open = self._open or self._begin()
            self._end()
        return self._written

    def write_manifest(self, content: bytes) -> None:
        """Write the object that says which others there are. Raises as above."""
        key = self._attempt.job.spec.manifest_of(self._attempt.job.id)
        manifest = self._begin_object(0, key, Compression.NONE, "application/json")
        manifest.write(content, 0)
        manifest.end()

    def close(self) -> None:
        """Wait until nothing is on its way."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self) -> _Object:
        spec, number = self._attempt.job.spec, len(self._written) + 1
        if number > MOST_PARTS:
            text = f"There would be more than {MOST_PARTS} objects. Ask for larger parts."
            raise Terminal("too_many_parts", text)
        media_type = _COMPRESSED_TYPES.get(spec.compression) or _MEDIA_TYPES[spec.format]
        name = spec.name_of(self._attempt.job.id, number)
        opened = self._begin_object(number, name, spec.compression, media_type)
        opened.write(self.head, 0)
        return opened

    def _begin_object(self, number: int, name: str, compression: Compression, media_type: str) -> _Object:
        ref = self._attempt.job.spec.destination.at(name)
        with self._runtime.database.transaction() as tx:
            if not exports.note_object(tx, self._attempt, number, ref.key):
                raise LeaseLostError
        upload_id = self._writer.begin(ref, media_type=media_type)
        with self._runtime.database.transaction() as tx:
            noted = exports.note_upload(tx, self._attempt, number, upload_id)
        if not noted:
            self._writer.break_off(ref, upload_id)
            raise LeaseLostError
        return _Object(self, number, ref, upload_id, compression)

    def _end(self) -> None:
        if self._open:
            self._written.append(self._open.end())
            self._open = None

    def send(self, part: _Part) -> Future[str]:
        """Send a part as soon as there is a place for it; return what will be its ETag."""
        while not self._places.acquire(timeout=_LOOK_SECONDS):
            self._watch.check()
        if self._failure:
            raise self._failure
        return self._pool.submit(self._send, part)

    def _send(self, part: _Part) -> str:
        try:
            body = _Body(part.content, self._watch)
            etag = self._writer.put_part(part.ref, part.upload_id, part.number, body)
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._places.release()
        self._watch.delivered(part.events, part.counted_bytes)
        return etag

    def seal(self, made: _Object) -> WrittenObject:
        """Make an object of its parts, and write down what it holds."""
        etags = [self._result(part) for part in made.parts]
        with self._runtime.database.transaction() as tx:
            if not exports.note_sealing(tx, self._attempt, made.number):
                raise LeaseLostError
        # Of many parts S3 makes an object in minutes, in which nothing leaves: the lease ended, and whoever took the
        # export began it anew, to come to the same end.
        with self._watch.bears():
            self._writer.complete(made.ref, made.upload_id, etags, size=made.size)
        written = WrittenObject(made.ref.key, made.events, made.size, made.sha256)
        with self._runtime.database.transaction() as tx:
            noted = exports.note_written(tx, self._attempt, made.number, written)
            unwanted = not noted and exports.has_been_given_up(tx, self._attempt.job.id)
        if unwanted:
            # A cancel came while the request was out, and whoever cleaned up after it found nothing there yet.
            self._writer.delete(made.ref)
        if not noted:
            raise LeaseLostError
        return written

    def _result(self, part: Future[str]) -> str:
        while not wait((part,), timeout=_LOOK_SECONDS).done:
            self._watch.check()
        return part.result()


class _Part:
    """A part of an upload."""

    def __init__(self, made: _Object, content: bytes, events: int) -> None:
        self.ref, self.upload_id, self.number = made.ref, made.upload_id, len(made.parts) + 1
        self.content, self.events = content, events
        #: The manifest is none of the bytes that were counted beforehand.
        self.counted_bytes = len(content) if made.number else 0


class _Body(BytesIO):
    """A part's content that tells when some of it leaves."""

    def __init__(self, content: bytes, watch: Watch) -> None:
        super().__init__(content)
        self._watch = watch

    def read(self, size: int | None = -1, /) -> bytes:
        self._watch.moved()
        return super().read(size)


class _Object:
    """An object on its way."""

    def __init__(
        self, delivery: Delivery, number: int, ref: SourceRef, upload_id: str, compression: Compression
    ) -> None:
        self._delivery = delivery
        self.number, self.ref, self.upload_id = number, ref, upload_id
        self._compressor = compressor_of(compression)
        self._digest = hashlib.sha256()
        self._ready: list[bytes] = []
        self._ready_bytes = self._ready_events = 0
        self.parts: list[Future[str]] = []
        self.events = 0
        #: Bytes, compressed.
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, data: bytes, events: int) -> None:
        self.events += events
        self._ready_events += events
        self._take(self._compressor.compress(data))
        if self._ready_bytes >= (PART_BYTES if len(self.parts) < _EARLY_PARTS else _LATER_PART_BYTES):
            self._send()

    def end(self) -> WrittenObject:
        self._take(self._compressor.flush())
        if self._ready_bytes or not self.parts:
            self._send()
        return self._delivery.seal(self)

    def _take(self, data: bytes) -> None:
        self._digest.update(data)
        self._ready.append(data)
        self._ready_bytes += len(data)
        self.size += len(data)

    def _send(self) -> None:
        if len(self.parts) == _ALL_PARTS:
            text = "It does not fit into one object here: 200 GB. Ask for parts (partBytes)."
            raise Terminal("object_too_large", text)
        part = _Part(self, b"".join(self._ready), self._ready_events)
        self._ready, self._ready_bytes, self._ready_events = [], 0, 0
        self.parts.append(self._delivery.send(part))
