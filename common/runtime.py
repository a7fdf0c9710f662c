"""The one place where everything is put together: settings in, stores and senders out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from common import objects
from common.dispatch import Dispatch
from common.errors import Terminal
from common.ledger import exports as exports_ledger
from common.ledger import imports as imports_ledger
from common.ledger import projects
from common.ledger.database import Database
from common.live.connection import Live
from common.live.failures import Failures
from common.live.progress import ProgressBoard
from common.live.seen import Seen
from common.live.slots import Slots
from common.model.exports import Export
from common.model.imports import Credentials, Import
from common.model.roles import RoleUse
from common.model.uploads import is_spooled
from common.roles import Roles
from common.sealing import Sealer
from common.settings import Settings

#: Seconds that a process keeps an import's client of S3, and the credentials in it, after its last use. Making one
#: takes 3 ms, and its first request a new connection (TLS at Amazon); loading a chunk takes about 100.
_CLIENT_SECONDS = 60.0


@dataclass(eq=False)
class Runtime:
    """What a process works with. Opens nothing by itself; safe to build before a fork."""

    settings: Settings
    database: Database
    dispatch: Dispatch
    live: Live
    seen: Seen
    progress: ProgressBoard
    slots: Slots
    failures: Failures
    sealer: Sealer
    roles: Roles
    #: Free places for bodies that are sent to us: each is read by a thread of the web process as long as it takes.
    body_places: threading.BoundedSemaphore
    #: By import: the last use, and the client.
    _clients: dict[str, tuple[float, objects.Objects]] = field(default_factory=dict, repr=False)
    _spool: objects.Spool | None = None
    #: Threads of the web process share the spool, and boto3's session does not bear two that make a client.
    _opening: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def build(cls, settings: Settings, *, name: str) -> Runtime:
        """Put a process together; ``name`` is what Postgres shows for its connections."""
        live = Live(settings.redis_url, timeout_seconds=settings.redis_timeout_seconds)
        return cls(
            settings=settings,
            database=Database(settings.database_url, application_name=name),
            dispatch=Dispatch.from_settings(settings),
            live=live,
            seen=Seen(live, most_ids=settings.seen_ids, seconds=settings.seen_seconds),
            progress=ProgressBoard(live),
            slots=Slots(live),
            failures=Failures(live, most=settings.auth_failures),
            sealer=Sealer(settings.sealing_keys),
            roles=Roles(settings),
            body_places=threading.BoundedSemaphore(settings.upload_limit),
        )

    def objects_of(self, job: Import) -> objects.Objects:
        """Return S3 as the import's caller may see it.

        Reads the sealed credentials, so that only workers ever call this. Raises Terminal where they are gone.
        """
        now = time.monotonic()
        for import_id, (used, _) in [*self._clients.items()]:
            if now - used > _CLIENT_SECONDS:
                self._close_objects_of(import_id)
        _, client = self._clients.pop(job.id, (now, None))
        client = client or self._open(job)
        self._clients[job.id] = now, client
        return client

    @contextmanager
    def writer_of(self, job: Export) -> Iterator[objects.Writer]:
        """Give the export's destination as its caller may write to it.

        Reads the sealed credentials, so that only workers ever call this. Raises Terminal where they are gone.
        """
        keys = self._export_credentials(job) if job.spec.destination.role is None else self._role(_use_by_export(job))
        # As patient as with the spool, for the same reason.
        opened = self._connect(keys, job.spec.destination.region, self._writing_patience)
        try:
            yield opened.writer()
        finally:
            opened.close()
            self.roles.forget(job.id)

    def forget_objects_of(self, import_id: str) -> None:
        """Drop the client of an import that has ended, and its credentials with it."""
        self.roles.forget(import_id)
        self._close_objects_of(import_id)

    def _close_objects_of(self, import_id: str) -> None:
        if held := self._clients.pop(import_id, None):
            held[1].close()

    @property
    def spool(self) -> objects.Spool:
        """The way to the service's own bucket, for bodies that are sent to it."""
        with self._opening:
            if self._spool is None:
                self._spool = self._connect(self._own(), self.settings.spool_region, self._writing_patience).spool()
            return self._spool

    @property
    def _writing_patience(self) -> float:
        """Seconds. Some servers copy all parts of an object before they say that they have put it together."""
        return max(self.settings.s3_timeout_seconds, self.settings.upload_seconds / 2)

    def _open(self, job: Import) -> objects.Objects:
        keys = self._credentials(job) if job.source.role is None else self._role(_use_by_import(job))
        return self._connect(keys, job.source.region, self.settings.s3_timeout_seconds)

    def _connect(
        self, credentials: Credentials | Callable[[], Credentials] | None, region: str, timeout: float
    ) -> objects.Objects:
        return objects.connect(
            credentials,
            region=region,
            endpoint_url=self.settings.s3_endpoint_url,
            addressing=self.settings.s3_addressing,
            checksums=self.settings.s3_checksums,
            timeout=timeout,
        )

    def _role(self, use: RoleUse) -> Callable[[], Credentials]:
        with self.database.transaction() as tx:
            project = projects.find_project(tx, use.project_id)
        return partial(self.roles.keys_of, use, project.name)

    def _own(self) -> Credentials:
        return Credentials(self.settings.s3_access_key_id, self.settings.s3_secret_access_key)

    def _credentials(self, job: Import) -> Credentials | None:
        """Return the caller's keys, or ours for our own buckets; None where everybody has to be allowed to read."""
        with self.database.transaction() as tx:
            sealed = imports_ledger.read_secret(tx, job.id)
        if sealed is not None:
            return self.sealer.open(job.id, sealed)
        if is_spooled(job.source, job.id) or self.settings.may_read_own(job.source.bucket):
            return self._own()
        # Keys that are gone do not come to this: the ledger calls anonymous only what was asked for without any.
        if job.source.anonymous:
            return None
        raise Terminal(
            "credentials_expired",
            "The S3 credentials of this import are no longer kept; start it again with fresh ones.",
        )

    def _export_credentials(self, job: Export) -> Credentials:
        with self.database.transaction() as tx:
            sealed = exports_ledger.read_secret(tx, job.id)
        if sealed is not None:
            return self.sealer.open(job.id, sealed)
        if self.settings.may_write_own(job.spec.destination.bucket):
            return self._own()
        text = "The S3 credentials of this export are no longer kept; start it again with fresh ones."
        raise Terminal("credentials_expired", text)


def _use_by_import(job: Import) -> RoleUse:
    return RoleUse(job.id, job.project_id, job.source.role or "", job.source.bucket)


def _use_by_export(job: Export) -> RoleUse:
    place = job.spec.destination
    return RoleUse(job.id, job.project_id, place.role or "", place.bucket, writes=True)
