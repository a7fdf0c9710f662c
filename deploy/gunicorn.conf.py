"""
How gunicorn serves the door: ``gunicorn -c deploy/gunicorn.conf.py "api.app:create_app()"``.

Loopback only by default: TLS, and whatever else faces the world, is a reverse proxy's work.
"""

from __future__ import annotations

import os

bind = f"127.0.0.1:{os.environ.get('PORT', '8000')}"

# One process of threads: a request waits for Postgres or for a body, it does not compute. More web processes
# are more lines in the process manager, each with 16 connections to Postgres at most.
worker_class = "gthread"
workers = 1
threads = 16

# A gthread worker beats while its threads work, so this ends a process that hangs, not a long upload.
timeout = 60
# SIGTERM lets requests in flight finish; a supervisor's own patience must be longer (systemd: 90 s).
graceful_timeout = 20
keepalive = 5

# A cursor and a filter fit into 4 KB of request line; no wire sends more than 30 headers.
limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190

# Headers that would tell gunicorn where it stands are believed from nobody: a caller's SCRIPT_NAME was answered with a
# 500. Behind a proxy PENSTOCK_BASE_URL says how callers reach the service.
forwarded_allow_ips = ""
forwarder_headers = ""

# No access log here: its line holds the query string, where dialects put what nobody may read. The service
# logs each request itself, without it.
accesslog = None
errorlog = "-"
loglevel = "info"

# gunicorn 25.1 began to make a control socket at one path per user: two stacks of one user would share it.
control_socket_disable = True
