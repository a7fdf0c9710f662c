"""Every task of the system. A task takes one id and makes one call; the work is elsewhere.

No task may raise for work that failed: the row already says what became of it, and Celery keeps no results. Each may
be run twice, late, or with an id that means nothing: the claim in Postgres decides.
"""

from __future__ import annotations

from functools import cache

from celery import shared_task

from common.dispatch import LOAD_CHUNK, PLAN_IMPORT, WALK, WRITE_EXPORT
from common.runtime import Runtime
from common.settings import Settings
from workers.exports import write
from workers.imports import load, plan


@cache
def runtime() -> Runtime:
    """Return the process's runtime. Its stores open their own connections in each forked child."""
    return Runtime.build(Settings.from_environment(), name="penstock-worker")


@shared_task(name=PLAN_IMPORT)
def plan_import(import_id: str) -> None:
    """Look at an import's source and cut it into chunks."""
    plan.plan_import(runtime(), import_id)


@shared_task(name=LOAD_CHUNK)
def load_chunk(chunk_id: int) -> None:
    """Load a chunk, or another of its import where this one is taken."""
    load.load_chunk(runtime(), chunk_id)


@shared_task(name=WALK)
def walk_chunk(chunk_id: int) -> None:
    """Do what a long chunk asks for, or another long one of its import where this one is taken."""
    load.load_chunk(runtime(), chunk_id)


@shared_task(name=WRITE_EXPORT)
def write_export(export_id: str) -> None:
    """Write an export to S3."""
    write.write_export(runtime(), export_id)
