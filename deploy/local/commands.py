"""
What the service's processes are given: the command lines of the Procfile, and their environment.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.local.servers import Servers

ROOT = Path(__file__).resolve().parents[2]
SPOOL_BUCKET = "penstock-spool"
#: Whatever of the host could steer our processes past the settings we give them.
FOREIGN_PREFIXES = ("AWS_", "BOTO_", "PG", "CELERY_", "FLOWER_", "GUNICORN_")


def web_command() -> list[str]:
    """Return the Procfile's ``web``, but for its first half, the migration, which the stack runs by itself."""
    return [sys.executable, "-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "api.app:create_app()"]


def worker_command(name: str) -> list[str]:
    """Return the Procfile's ``worker``, one process; mingle and gossip are for workers without a ledger."""
    return _celery_worker("imports", name)


def walker_command(name: str) -> list[str]:
    """Return the Procfile's ``walker``: a worker of the queue that the others do not serve."""
    return _celery_worker("walks", name)


def exporter_command(name: str) -> list[str]:
    """Return the Procfile's ``exporter``: a worker of the queue of exports alone."""
    return _celery_worker("exports", name)


def _celery_worker(queue: str, name: str) -> list[str]:
    options = ["--concurrency", "1", "-Q", queue, "-E", "--loglevel", "INFO", "-n", f"{name}@%h"]
    celery = [sys.executable, "-m", "celery", "--quiet", "-A", "workers.app"]
    return [*celery, "worker", *options, "--without-mingle", "--without-gossip"]


def flower_command(port: int) -> list[str]:
    """Return the Procfile's ``flower`` on a port of its own."""
    celery = [sys.executable, "-m", "celery", "-A", "workers.app"]
    return [*celery, "flower", "--conf=deploy/flower.conf.py", f"--port={port}"]


def _any_role(servers: Servers) -> str:
    """Return a table of roles in which every role opens all of the stack's S3."""
    keys = {"accessKeyId": servers.s3_access_key_id, "secretAccessKey": servers.s3_secret_access_key}
    return json.dumps({"*": {**keys, "buckets": ["*"], "writes": True}})


def environment(servers: Servers, *, port: int, api: str, settings: Mapping[str, str]) -> dict[str, str]:
    """
    Return the environment of the service's processes.

    What the host holds for other programs (its AWS keys, its default Postgres) is left out: a service that
    fell back to it would pass every test here and read a stranger's bucket there.
    """
    host = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN_PREFIXES)}
    exempt = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    no_proxy = ",".join(filter(None, [exempt, "127.0.0.1,localhost"]))
    stack = {
        "DATABASE_URL": servers.database_url,
        "REDIS_URL": servers.redis_url,
        "S3_ENDPOINT_URL": servers.s3_endpoint,
        "PENSTOCK_S3_ACCESS_KEY_ID": servers.s3_access_key_id,
        "PENSTOCK_S3_SECRET_ACCESS_KEY": servers.s3_secret_access_key,
        "PENSTOCK_SEALING_KEYS": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "PENSTOCK_BASE_URL": api,
        "PENSTOCK_SPOOL_BUCKET": SPOOL_BUCKET,
        # The stack's own S3 holds nobody's secrets: wires that send no keys may read every bucket of it, and export
        # to it. In an S3 of the user's own they may do so where the user says (PENSTOCK_OWN_BUCKETS and the other).
        "PENSTOCK_OWN_BUCKETS": "*" if servers.pids["s3"] else "",
        "PENSTOCK_OWN_EXPORT_BUCKETS": "*" if servers.pids["s3"] else "",
        # Nor are there any roles: every one opens what the stack's own key does.
        "PENSTOCK_ROLES": _any_role(servers) if servers.pids["s3"] else "",
        # Nobody has to register anything before a first try.
        "PENSTOCK_REGISTER_UNKNOWN": "1",
        "PORT": str(port),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        # The default chain of boto3 is not used; if a change ever lets it in, it must find nothing.
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        # A proxy of the host is for the world outside: asked for 127.0.0.1 it would look at itself.
        # Both spellings are in use, and where both are set the small one wins.
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
    }
    asked = {name: value for name, value in os.environ.items() if name.startswith("PENSTOCK_")}
    return {**host, **stack, **asked, **settings}
