"""Whose keys read the objects of an import with a role: those of the operator's table, else those STS lends."""

from __future__ import annotations

import threading
import time

from common import objects
from common.errors import Terminal
from common.model.imports import Credentials
from common.model.roles import ALL, Grant, RoleUse, external_id, not_assumable, read_roles, session_policy
from common.settings import Settings

#: Seconds that STS lends keys for: the most that every role allows. They are used until so many before their end.
LENT_SECONDS, MARGIN_SECONDS = 3600, 300


class Roles:
    """The roles that this process can take. Opens nothing by itself; safe to build before a fork."""

    def __init__(self, settings: Settings) -> None:
        """Read the table."""
        self._settings = settings
        self._table = read_roles(settings.roles)
        self._lock = threading.Lock()
        #: By import: until when (monotonic) its lent keys are used, and the keys.
        self._lent: dict[str, tuple[float, Credentials]] = {}

    def keys_of(self, use: RoleUse, project_name: str) -> Credentials:
        """Return the keys that a job's role opens: the same ones until others have to be used.

        Raises Terminal ``role_not_assumable``, ``source_access_denied`` or ``destination_access_denied``; Transient.
        May block on STS.
        """
        if use.bucket == self._settings.spool_bucket:
            # All projects' bodies are in it, and a table that opens all buckets was not meant to open those.
            raise _denied(use, "the bucket is the spool's")
        if grant := self._table.get(use.role) or self._table.get(ALL):
            return _granted(grant, use, project_name)
        with self._lock:
            now = time.monotonic()
            self._lent = {held: lent for held, lent in self._lent.items() if lent[0] > now}
            if use.job_id not in self._lent:
                self._lent[use.job_id] = now + LENT_SECONDS - MARGIN_SECONDS, self._assume(use)
            return self._lent[use.job_id][1]

    def forget(self, job_id: str) -> None:
        """Drop what was lent for a job that has ended."""
        with self._lock:
            self._lent.pop(job_id, None)

    def _assume(self, use: RoleUse) -> Credentials:
        settings, external = self._settings, external_id(use.project_id)
        if not settings.sts_endpoint_url:
            raise not_assumable(external, "the role is not in the table, and there is no STS")
        return objects.assume_role(
            use.role,
            external_id=external,
            session_name=f"penstock-{use.job_id}",
            policy=session_policy(use),
            seconds=LENT_SECONDS,
            own=Credentials(settings.sts_access_key_id, settings.sts_secret_access_key),
            at=objects.Place(settings.sts_endpoint_url, settings.s3_timeout_seconds),
        )


def _granted(grant: Grant, use: RoleUse, project_name: str) -> Credentials:
    if not grant.has_project(use.project_id, project_name):
        raise not_assumable(external_id(use.project_id), "the table names other projects for this role")
    if not grant.has_bucket(use.bucket):
        raise _denied(use, "the table names other buckets for this role")
    if use.writes and not grant.writes:
        raise _denied(use, "the table lets nobody write with this role")
    return grant.credentials


def _denied(use: RoleUse, internal: str) -> Terminal:
    if use.writes:
        return Terminal("destination_access_denied", "The role may not write to this bucket here.", internal)
    return Terminal("source_access_denied", "The role of this import may not read this bucket here.", internal)
