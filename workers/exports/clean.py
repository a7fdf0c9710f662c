"""Take back what attempts have left in the bucket."""

from __future__ import annotations

from collections.abc import Callable

from common.errors import PenstockError, Terminal
from common.ledger import exports
from common.model.exports import Export, Leftover
from common.model.sources import SourceRef
from common.objects import Writer
from common.runtime import Runtime
from common.telemetry import get_logger

log = get_logger(__name__)

#: Tells whether there is time for another object.
GoesOn = Callable[[], bool]
#: How often S3 is told at once to break an upload off. The second time it knows of none, but for parts that were on
#: their way at the first.
_TELLS = 3


def clean(runtime: Runtime, job: Export, *, goes_on: GoesOn = lambda: True) -> bool:
    """Delete everything of an ended export that must not stay, and forget its credentials once that is done.

    Returns whether it is: False where S3 did not answer as it should, or ``goes_on`` said no.
    Safe to run twice, and by several at once. What cannot be deleted now is left to the sweep, until the credentials
    are gone. Raises nothing of S3's.
    """
    try:
        with runtime.writer_of(job) as writer:
            left = take_back(runtime, job, writer, goes_on=goes_on)
    except Terminal as error:
        log.warning("export_not_cleaned", export_id=job.id, reason=str(error))
        left = error.code not in ("credentials_expired", "credentials_unreadable")
    except PenstockError as error:
        log.warning("export_not_cleaned", export_id=job.id, reason=str(error))
        left = True
    if not left:
        with runtime.database.transaction() as tx:
            exports.note_clean(tx, job.id)
    return not left


def take_back(runtime: Runtime, job: Export, writer: Writer, *, goes_on: GoesOn) -> bool:
    """Break off and delete what is not to be in the bucket; return whether some of it may still be there.

    ``goes_on`` is asked after each object, of which there may be thousands. Raises Terminal where the credentials do
    not allow it, Transient.
    """
    with runtime.database.transaction() as tx:
        found = exports.list_leftovers(tx, job.id)
    left = False
    for listed in found:
        with runtime.database.transaction() as tx:
            # Who was stopped since the list was made may find a later attempt's object in that place.
            leftover = exports.find_leftover(tx, job.id, listed)
        if leftover is None:
            continue
        if _is_gone(job, writer, leftover):
            with runtime.database.transaction() as tx:
                exports.forget_leftover(tx, job.id, leftover)
        else:
            left = True
        if not goes_on():
            return True
    return left


def _is_gone(job: Export, writer: Writer, leftover: Leftover) -> bool:
    place = job.spec.destination
    ref = SourceRef(place.bucket, leftover.key, place.region)
    begun = [leftover.upload_id] if leftover.upload_id else _list_begun(writer, ref)
    gone = all(any(writer.break_off(ref, upload_id) for _ in range(_TELLS)) for upload_id in begun)
    # After that: until it is broken off, an upload can still become the object.
    if leftover.stands:
        writer.delete(ref)
    return gone


def _list_begun(writer: Writer, ref: SourceRef) -> list[str]:
    """Return uploads that nobody lived to write down. Whoever still does finds nothing to write it to, and ends it."""
    try:
        return writer.list_begun(ref)
    except PenstockError as error:
        log.warning("uploads_not_listed", reason=str(error))
        return []
