"""What the sweep does for exports: each step looks at the whole present state and is safe to run twice."""

from __future__ import annotations

import time

from common.dispatch import Lane
from common.errors import Terminal
from common.ledger import exports
from common.runtime import Runtime
from common.telemetry import get_logger
from workers.exports.clean import clean

log = get_logger(__name__)

#: How long a round takes back what exports left: an export of 10,000 parts has as many objects, and imports wait for
#: the other steps.
_CLEANING_SECONDS = 1.0


def send_exports_again(runtime: Runtime) -> None:
    """Send what was lost: as many as are due and have no message in the queue."""
    waiting = runtime.dispatch.queue_length(Lane.EXPORTS)
    if waiting is None:
        return
    with runtime.database.transaction() as tx:
        missing = exports.count_due(tx) - waiting
        lost = exports.send_exports_again(tx, resend_seconds=runtime.settings.resend_seconds, room=max(missing, 0))
    # Up to the first that does not go: each would wait for a Redis that hangs.
    all(map(runtime.dispatch.write_export, lost))
    if lost:
        log.info("exports_sent_again", exports=len(lost))


def end_expired_writers(runtime: Runtime) -> None:
    """End the snapshots of attempts that lost their lease: their writers were stopped, and cannot end them."""
    with runtime.database.transaction() as tx:
        ended = exports.end_expired_holders(tx)
    if ended:
        log.warning("ended_expired_writers", backends=ended)


def expire_export_secrets(runtime: Runtime) -> None:
    """Fail exports that did not end within the days of their credentials, and delete what nothing needs any more."""
    days = runtime.settings.secret_days
    text = f"The export did not end within {days} days, after which S3 credentials are deleted."
    with runtime.database.transaction() as tx:
        for export_id in exports.expired_secrets(tx):
            exports.fail_export(tx, export_id, Terminal("credentials_expired", text))
        exports.delete_stale_secrets(tx)


def clean_exports(runtime: Runtime) -> None:
    """Take back what ended exports have left in buckets, those whose writers lived to do it having done so."""
    with runtime.database.transaction() as tx:
        left = exports.take_to_clean(tx, again_seconds=runtime.settings.upload_seconds)
    until, is_cut = time.monotonic() + _CLEANING_SECONDS, False

    def goes_on() -> bool:
        nonlocal is_cut
        is_cut = time.monotonic() > until
        return not is_cut

    # Up to the first that fails: each would wait for an S3 that hangs. The others are due again as it is.
    all(clean(runtime, job, goes_on=goes_on) for job in left)
    if is_cut:
        with runtime.database.transaction() as tx:
            exports.clean_soon(tx, [job.id for job in left])


STEPS = (send_exports_again, end_expired_writers, expire_export_secrets, clean_exports)
