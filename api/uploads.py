"""Takes in a body that is sent to us: into the spool bucket part by part, noted in the ledger before and behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from io import BytesIO
from typing import Protocol

from common.errors import PenstockError, Refusal, Terminal, Transient
from common.ledger import imports, uploads
from common.ledger.database import CommitUnknown
from common.model.sources import SourceRef
from common.runtime import Runtime
from common.telemetry import get_logger

log = get_logger(__name__)

#: Bytes of a part, unless a body of the largest size taken would have more parts than S3 takes. S3 wants 5 MiB.
PART = 8 * 1024 * 1024
_MOST_PARTS = 10_000
#: Seconds between two notes that bytes have come. Each looks whether the import was ended meanwhile, too.
_NOTE_SECONDS = 1.0


class Body(Protocol):
    """What a caller sends, whichever way it comes."""

    #: Bytes, as announced; None where nobody can tell yet.
    length: int | None

    def read(self) -> bytes:
        """Return the next piece, of 64 KiB at most, or nothing at the end.

        Blocks for as long as the caller may take. Raises Refusal where the body breaks off or comes too slowly.
        """


def check_size(size: int | None, most: int) -> None:
    """Raise Refusal ``body_too_large`` where there are more bytes than may be."""
    if size is not None and size > most:
        text = f"The body is larger than {most} bytes. Cut it into several imports, or put it into S3 and name it here."
        raise Refusal("body_too_large", text, limit=most)


def take_in(runtime: Runtime, import_id: str, project_id: str, ref: SourceRef, body: Body) -> None:
    """Spool the body of an import that waits for it, and let the import begin.

    Where that fails the import ends, with the reason, and its slot is free; the sweep deletes what is in the bucket.
    Raises Refusal for a body that breaks off, is too large or too slow, and ``import_ended`` where the import was
    ended while it came; Transient.
    """
    try:
        _spool(runtime, import_id, ref, body)
    except Exception as error:
        had_ended = _give_up(runtime, import_id, project_id, error)
        if had_ended and isinstance(error, Transient):
            raise _ended() from error  # what S3 says of an upload that the sweep has broken off
        raise


def _spool(runtime: Runtime, import_id: str, ref: SourceRef, body: Body) -> None:
    upload_id = runtime.spool.begin(ref)
    with runtime.database.transaction() as tx:
        noted = uploads.note_upload_id(tx, import_id, upload_id)
    if not noted:
        runtime.spool.break_off(ref, upload_id)
        raise _ended()
    etags = [
        runtime.spool.put_part(ref, upload_id, number, part)
        for number, part in enumerate(_read_parts(runtime, import_id, body), 1)
    ]
    runtime.spool.complete(ref, upload_id, etags)
    try:
        with runtime.database.transaction() as tx:
            if not uploads.note_body_done(tx, import_id):
                raise _ended()
    except CommitUnknown:
        with runtime.database.transaction() as tx:
            if not uploads.is_body_done(tx, import_id):
                raise


def _read_parts(runtime: Runtime, import_id: str, body: Body) -> Iterator[BytesIO]:
    """Yield the body in parts, at least one, in the same buffer each: an empty body is an object too."""
    most, total, noted = runtime.settings.max_body_bytes, 0, time.monotonic()
    part_bytes, part = max(PART, -(-most // _MOST_PARTS)), BytesIO()
    while piece := body.read():
        total += len(piece)
        check_size(total, most)
        part.write(piece)
        if time.monotonic() > noted + min(_NOTE_SECONDS, runtime.settings.upload_seconds / 6):
            noted = time.monotonic()
            _touch(runtime, import_id)
        if part.tell() >= part_bytes:
            yield part
            part.seek(0)
            part.truncate()
    if part.tell() or not total:
        yield part


def _touch(runtime: Runtime, import_id: str) -> None:
    try:
        with runtime.database.transaction() as tx:
            awaited = uploads.touch_upload(tx, import_id)
    except PenstockError as error:
        # A Postgres that restarts costs no body: whether it came in time is seen at its end.
        log.warning("upload_not_noted", error=str(error))
    else:
        if not awaited:
            raise _ended()


def _give_up(runtime: Runtime, import_id: str, project_id: str, error: Exception) -> bool:
    """End the import at once; return whether somebody else had. Where that fails too the sweep does it."""
    try:
        with runtime.database.transaction() as tx:
            ended = uploads.give_up_body(tx, import_id) and imports.fail_import(tx, import_id, _reason(error))
            had_ended = not ended and not uploads.is_body_done(tx, import_id)
    except PenstockError as failure:
        log.warning("import_not_failed", error=str(failure))
        return False
    if ended:
        log.warning("upload_broken", error=str(error))
        runtime.slots.give_back(project_id, import_id)
    return had_ended


def _reason(error: Exception) -> Terminal:
    code = error.code if isinstance(error, Refusal) and error.code == "body_too_large" else "upload_broken"
    text = error.public if isinstance(error, PenstockError) else "The body could not be stored."
    return Terminal(code, text)


def _ended() -> Refusal:
    return Refusal("import_ended", "The import was ended while its body was still coming. Nothing of it was imported.")
