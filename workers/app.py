"""The worker process: ``celery -A workers.app worker``. Loads the tasks and keeps the sweep running beside them."""

from __future__ import annotations

from typing import Any

from celery.signals import celeryd_after_setup, celeryd_init, task_postrun, task_prerun

from common.dispatch import QUEUE, STARTS, make_app
from common.settings import Settings
from common.telemetry import bind, configure_logs
from workers.stopping import StopStep
from workers.sweeping import SweepStep

settings = Settings.from_environment()
app = make_app(settings)
app.conf.imports = ("workers.tasks",)
app.steps["worker"].update((SweepStep, StopStep))


@celeryd_init.connect
def _start(**_: Any) -> None:
    configure_logs(settings.log_level)


@celeryd_after_setup.connect
def _serve_starts(instance: Any, **_: Any) -> None:
    """Who serves imports (``-Q imports``) serves their starts too, whatever the command line says."""
    queues = instance.app.amqp.queues
    if QUEUE in queues.consume_from:
        queues.select_add(STARTS)


@task_prerun.connect
def _bind(task_id: str, task: Any, args: tuple[Any, ...], **_: Any) -> None:
    bind(task=task.name, id=args[0] if args else None, message=task_id)


@task_postrun.connect
def _unbind(**_: Any) -> None:
    bind()
