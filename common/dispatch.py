"""Celery: the app, the names of its tasks, and the one sender for each.

A message is a hint that work waits; the row is the work. Messages carry one id and may be lost, doubled or late: the
claim in Postgres decides, and the sweep sends again. So a send that fails is logged and forgotten, and **nothing is
sent inside a transaction**: the row has to be there before anybody hears of it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from kombu import Connection
from kombu.exceptions import ChannelError, OperationalError

from common.settings import Settings
from common.telemetry import get_logger

log = get_logger(__name__)

QUEUE = "imports"
#: Plans, and the first chunk of each import: a queue of its own, which workers serve in turn with the other, so that
#: what is small does not wait, twice, behind the windows of all that is large. Behind an import of 5 million events a
#: small one began after 14 chunks of it (3.0 to 4.8 s); with this queue after 1 to 3 (0.3 to 1.8 s).
STARTS = "starts"
#: Chunks that read so much at a stretch that others would wait for minutes or hours: workers of their own serve it.
WALKS = "walks"
#: Exports, one of which may take hours: workers of their own serve it, or imports would wait behind them.
EXPORTS = "exports"
PLAN_IMPORT = "imports.plan"
LOAD_CHUNK = "imports.load"
WALK = "imports.walk"
WRITE_EXPORT = "exports.write"

#: Seconds that a task may take beyond its chunk's last possible lease. One that takes longer is ended, and its chunk
#: is anybody's again.
_TIME_LIMIT_MARGIN = 120
#: Redis hands out again what was not acknowledged in so many times the limit: well above it, or a task under way would
#: be started beside itself (seen: three times for a task of 15 s under a limit of 6 s).
_VISIBILITY_FACTOR = 3


class Lane(StrEnum):
    """A kind of work with processes of its own: what waits in one lane is none of another's. The ``-Q`` of each."""

    IMPORTS = "imports"
    WALKS = "walks"
    EXPORTS = "exports"


_QUEUES = {Lane.IMPORTS: (STARTS, QUEUE), Lane.WALKS: (WALKS,), Lane.EXPORTS: (EXPORTS,)}


class _PatientConnection(Connection):
    """Looks for a broker that is away after 0.2 s, then ever more slowly, at the slowest every 5 s.

    Celery's own pauses are 2, 4, 6 to 30 s and no setting: a Redis restarted in 0.3 s kept its workers idle for 2.
    """

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        return super().ensure_connection(
            *args, **{"interval_start": 0.2, "interval_step": 0.2, "interval_max": 5, **kwargs}
        )


class _Amqp(AMQP):
    Connection = _PatientConnection


def make_app(settings: Settings, *, answer_seconds: float | None = None) -> Celery:
    """Return the Celery app on the broker of the settings. Opens no connection.

    ``answer_seconds`` bounds every wait for Redis; a worker that listens must not have it, since it waits for work.
    """
    app = Celery("penstock", broker=settings.redis_url, set_as_current=False, amqp=_Amqp)
    time_limit = settings.lease_ceiling_seconds + _TIME_LIMIT_MARGIN
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        # Nobody waits for results; they would only grow.
        task_ignore_result=True,
        result_backend=None,
        task_default_queue=QUEUE,
        task_acks_late=True,
        # Without requeueing: a chunk that kills its process would come back without end. The lease brings it back.
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        task_time_limit=time_limit,
        # A walk or an export is guarded by its lease, which bytes renew. After the visibility timeout its message is
        # handed out again, and whoever gets that finds the lease taken.
        task_annotations={
            WALK: {"time_limit": settings.walk_ceiling_seconds + _TIME_LIMIT_MARGIN},
            WRITE_EXPORT: {"time_limit": settings.export_ceiling_seconds + _TIME_LIMIT_MARGIN},
        },
        broker_transport_options={
            "visibility_timeout": time_limit * _VISIBILITY_FACTOR,
            # No global_keyprefix: kombu 5.7 forgets it where it looks whether a queue exists, so that none ever did.
            # Celery's keys have this Redis database to themselves and to ours, which all begin with "penstock:".
            "socket_keepalive": True,
            "health_check_interval": 25,
            "socket_connect_timeout": settings.redis_timeout_seconds,
            # A Redis that hangs, as opposed to one that refuses, kept a POST waiting as long as it hung (25 s).
            **({"socket_timeout": answer_seconds} if answer_seconds else {}),
            "max_retries": 0,
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_publish_retry=False,
        # A lost connection ends no chunk: its commit is fenced, and letting it finish wastes less.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # For Flower: names and ids, nothing else, are in the arguments.
        worker_send_task_events=True,
        task_send_sent_event=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return app


class Dispatch:
    """Typed senders. Each tells whether its message went; nobody has to care, since the sweep sends again."""

    def __init__(self, app: Celery) -> None:
        """Take the app of ``make_app``."""
        self._app = app

    @classmethod
    def from_settings(cls, settings: Settings) -> Dispatch:
        """Return senders on the broker of the settings."""
        return cls(make_app(settings, answer_seconds=settings.redis_timeout_seconds))

    def plan_import(self, import_id: str) -> bool:
        """Tell the workers of an import to plan."""
        return self._send(PLAN_IMPORT, import_id, STARTS)

    def load_chunk(self, chunk_id: int, *, first: bool = False, long: bool = False) -> bool:
        """Tell the workers of a chunk, the first of its import or another; a long one is for the walkers alone."""
        if long:
            return self._send(WALK, chunk_id, WALKS)
        return self._send(LOAD_CHUNK, chunk_id, STARTS if first else QUEUE)

    def write_export(self, export_id: str) -> bool:
        """Tell the exporters of an export to write."""
        return self._send(WRITE_EXPORT, export_id, EXPORTS)

    def queue_length(self, lane: Lane = Lane.IMPORTS) -> int | None:
        """Return how many messages wait in a lane; None where the broker does not say."""
        try:
            with self._app.connection_for_write() as connection:
                return sum(_length(connection.default_channel, queue) for queue in _QUEUES[lane])
        except Exception as error:  # noqa: BLE001  the transport lets errors of its driver through
            log.warning("broker_away", error=type(error).__name__)
            return None

    def _send(self, task: str, argument: Any, queue: str) -> bool:
        try:
            self._app.send_task(task, args=[argument], queue=queue, retry=False)
        except OperationalError as error:
            log.warning("message_not_sent", task=task, id=argument, error=type(error).__name__)
            return False
        return True


def _length(channel: Any, queue: str) -> int:
    try:
        return int(channel.queue_declare(queue, passive=True).message_count)
    except ChannelError:
        return 0  # an empty list does not exist in Redis, and what does not exist cannot be declared
