"""
How gunicorn serves the door: ``gunicorn -c deploy/gunicorn.conf.py "api.app:create_app()"``.

Loopback only by default: TLS, and whatever else faces the world, is a reverse proxy's work.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from functools import partial
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger

from common.settings import Settings
from common.telemetry import configure_logs

# Here, before anything listens: a mistake in them ends the process with one sentence.
settings = Settings.from_environment()

bind = f"127.0.0.1:{os.environ.get('PORT', '8000')}"

# One process of threads: a request waits for Postgres or for a body, it does not compute. More web processes
# are more lines in the process manager, each with 16 connections to Postgres at most.
worker_class = "gthread"
workers = 1
# A request head that comes slowly holds a thread until it is complete, and gunicorn has no setting against that: 17
# half-sent ones stop /healthz. The proxy before it has to buffer requests, as nginx does unless told otherwise.
threads = 16

# A gthread worker beats while its threads work, so this ends a process that hangs, not a long upload.
timeout = 60
# SIGTERM lets requests in flight finish; a supervisor's own patience must be longer (our systemd units: 60 s).
graceful_timeout = 20
# Longer than a proxy keeps an idle connection (60 s of nginx and of load balancers): where we close first, the proxy
# sends a request into the closing one and answers 502.
keepalive = 75

# The most that gunicorn takes: a query in a request line may list some 1,000 numbers. A longer one gets an
# answer of gunicorn's own (414). No wire sends more than 30 headers.
limit_request_line = 8190
limit_request_fields = 64
limit_request_field_size = 8190

# Headers that would tell gunicorn where it stands are believed from nobody: a caller's SCRIPT_NAME was answered with a
# 500. What a proxy forwards the service reads itself (PENSTOCK_PROXIES), from these same headers, which pass unchanged.
forwarded_allow_ips = ""
forwarder_headers = ""


class ServiceLogger(Logger):
    """gunicorn's lines in the form of all others, and without what a caller sent: that may be a key.

    No access log: its line holds the query string, where dialects put what nobody may read. The service logs each
    request itself, without it.
    """

    def setup(self, cfg: Config) -> None:
        """Let the service's own handler write. Runs again when gunicorn reloads."""
        self.cfg, self.loglevel = cfg, self.LOG_LEVELS["info"]
        self._access_log_enabled = False
        configure_logs(settings.log_level, settings.log_format)
        self.error_log.propagate = True

    def warning(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Say what was wrong with a request, not what stood there."""
        super().warning(re.sub(r"^(Invalid request from ip=\S+ [^:]*).*", r"\1", msg, flags=re.DOTALL), *args, **kwargs)

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Say where something failed, without a query string."""
        super().exception(msg, *(str(arg).partition("?")[0] for arg in args), **kwargs)


logger_class = ServiceLogger


def _forget_ours(_: Arbiter) -> None:
    """Let go of our modules: the next worker, and this file at the next SIGHUP, take them from the disk.

    A worker is a fork of this process, and would go on with what it holds: after a SIGHUP the new application met the
    old settings, could not be imported, and gunicorn ended, its port closed.
    """
    for name in [*sys.modules]:
        if name.partition(".")[0] == "common":
            del sys.modules[name]
    importlib.invalidate_caches()


on_starting = on_reload = _forget_ours


def post_fork(_arbiter: Arbiter, _worker: object) -> None:
    """Bound the waits of a process that answers requests."""
    from common.ledger.database import bound_answers

    bound_answers(settings.database_timeout_seconds)


def when_ready(arbiter: Arbiter) -> None:
    """Look before each SIGHUP: gunicorn ends, with all it serves, where new code does not load. No hook can refuse."""
    arbiter.handle_hup = partial(_renew, arbiter, arbiter.handle_hup)


def _renew(arbiter: Arbiter, go_on: Any) -> None:
    """Load the new code in a process of its own (1 s) and renew only where that goes well."""
    command = [sys.executable, "-m", "gunicorn", "--check-config", *sys.argv[1:]]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        arbiter.log.error("Not renewed, the old code goes on: the new does not load.\n%s", said)  # noqa: TRY400  the trace is in what was said
    else:
        go_on()


# gunicorn 25.1 began to make a control socket at one path per user: two stacks of one user would share it.
control_socket_disable = True
