"""
How Flower watches the workers: ``celery -A workers.app flower --conf=deploy/flower.conf.py``.

It shows workers, queues and tasks by name with one id each: nothing else is in a message. What became of an import
is told by its row, which Flower does not know.
"""

from __future__ import annotations

import os
import re
import sys

from flower.views.monitor import Metrics
from tornado.web import authenticated

# Without a password Flower would open its pages to whoever reaches the port.
if not re.fullmatch(r"[^\s:,]+:[^\s,]+(,[^\s:,]+:[^\s,]+)*", os.environ.get("FLOWER_BASIC_AUTH", "")):
    sys.exit("Flower cannot start: set FLOWER_BASIC_AUTH to user:password (several: separated by commas).")

# TLS, and whatever else faces the world, is a reverse proxy's work.
address = "127.0.0.1"

# It looks and does not touch: its API would otherwise send tasks, end them and shut workers down. Asking workers
# about themselves is left, and is a message to each of them.
read_only = True

# So many tasks stay in memory (58 MB; Flower's own default is ten times as many), and so many seconds a worker that
# has gone. Nothing is kept on disk.
max_tasks = 10_000
purge_offline_workers = 3600

# Flower leaves these two open to everybody. /healthcheck only says OK; who reads the metrics can send a password.
Metrics.get = authenticated(Metrics.get)
