"""The worker process: ``celery -A workers.app worker``. Loads the tasks and keeps the sweep running beside them."""

from __future__ import annotations

import gc
import logging
import os
import sys
from typing import Any

import celery.apps.worker
from celery.concurrency.asynpool import AsynPool
from celery.signals import (
    celeryd_after_setup,
    setup_logging,
    task_postrun,
    task_prerun,
    worker_init,
    worker_process_init,
)
from celery.utils.log import get_multiprocessing_logger

from common.dispatch import QUEUE, STARTS, make_app
from common.ledger.database import Database, DriverError
from common.ledger.migrate import wait_until_migrated
from common.settings import Settings
from common.telemetry import bind, configure_logs, get_logger, unbind
from workers.stopping import StopStep
from workers.sweeping import SweepStep

log = get_logger(__name__)

#: Seconds between looks for dead processes of the pool; Celery's are 5. It looks as well when a process closes its
#: pipe, but the kernel does that before the process is a zombie: three of ten killed ones were found 4 to 5 s later.
_POOL_LOOK_SECONDS = 0.25

settings = Settings.from_environment()
configure_logs(settings.log_level, settings.log_format)
app = make_app(settings)
app.conf.imports = ("workers.tasks",)
app.steps["worker"].update((SweepStep, StopStep))


@setup_logging.connect
def _keep_logs(**_: Any) -> None:
    """Celery sets no logs up where somebody listens to this. Ours stand since the import, in the pool too."""
    if pool := get_multiprocessing_logger():
        pool.propagate = True  # it tells of deaths in the pool, and would go nowhere
        pool.setLevel(logging.WARNING)


def _say(words: str, *_: Any) -> None:
    """Log what Celery would print between the lines of the log: "Warm shutdown"."""
    log.info("worker_said", words=words)


celery.apps.worker.safe_say = _say  # type: ignore[attr-defined]
AsynPool.timers = property(lambda pool: {pool.maintain_pool: _POOL_LOOK_SECONDS})  # type: ignore[method-assign,assignment]


@worker_init.connect
def _wait_for_tables(**_: Any) -> None:
    """Take no work before the web process has migrated; the pool is forked later, and no connection is left open.

    Celery logs what a receiver raises, and starts all the same; it lets SystemExit through.
    """
    try:
        wait_until_migrated(Database(settings.database_url, application_name="penstock-worker"))
    except DriverError as error:
        log.critical("worker_not_started", reason=str(error).strip())
        sys.exit(os.EX_CONFIG)


@worker_process_init.connect
def _calm_collector(**_: Any) -> None:
    """Look for cycles a hundred times less often: a chunk makes 100,000 objects and more, and hardly a cycle.

    With Python's own threshold, a look every 700 objects, 500,000 events took the workers 2.52 s of CPU; so 1.87 s.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


@celeryd_after_setup.connect
def _serve_starts(instance: Any, **_: Any) -> None:
    """Who serves imports (``-Q imports``) serves their starts too, whatever the command line says."""
    queues = instance.app.amqp.queues
    if QUEUE in queues.consume_from:
        queues.select_add(STARTS)


@task_prerun.connect
def _bind(task_id: str, task: Any, args: tuple[Any, ...], **_: Any) -> None:
    unbind()
    bind(task=task.name, id=args[0] if args else None, task_id=task_id)


@task_postrun.connect
def _unbind(**_: Any) -> None:
    unbind()
