"""The one place where everything is put together: settings in, stores and senders out."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from common import objects
from common.dispatch import Dispatch
from common.errors import Terminal
from common.ledger import imports as imports_ledger
from common.ledger.database import Database
from common.live.connection import Live
from common.live.failures import Failures
from common.live.progress import ProgressBoard
from common.live.seen import Seen
from common.live.slots import Slots
from common.model.imports import Credentials, Import
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
    #: By import: the last use, and the client.
    _clients: dict[str, tuple[float, objects.Objects]] = field(default_factory=dict, repr=False)

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
        )

    def objects_of(self, job: Import) -> objects.Objects:
        """Return S3 as the import's caller may see it.

        Reads the sealed credentials, so that only workers ever call this. Raises Terminal where they are gone.
        """
        now = time.monotonic()
        for import_id, (used, _) in [*self._clients.items()]:
            if now - used > _CLIENT_SECONDS:
                self.forget_objects_of(import_id)
        _, client = self._clients.pop(job.id, (now, None))
        client = client or self._connect(job)
        self._clients[job.id] = now, client
        return client

    def forget_objects_of(self, import_id: str) -> None:
        """Drop the client of an import that has ended, and its credentials with it."""
        if held := self._clients.pop(import_id, None):
            held[1].close()

    def _connect(self, job: Import) -> objects.Objects:
        return objects.connect(
            self._credentials(job),
            region=job.source.region,
            endpoint_url=self.settings.s3_endpoint_url,
            addressing=self.settings.s3_addressing,
            checksums=self.settings.s3_checksums,
            timeout=self.settings.s3_timeout_seconds,
        )

    def _credentials(self, job: Import) -> Credentials:
        with self.database.transaction() as tx:
            sealed = imports_ledger.read_secret(tx, job.id)
        if sealed is not None:
            return self.sealer.open(job.id, sealed)
        if self.settings.may_read_own(job.source.bucket):
            return Credentials(self.settings.s3_access_key_id, self.settings.s3_secret_access_key)
        raise Terminal(
            "credentials_expired",
            "The S3 credentials of this import are no longer kept; start it again with fresh ones.",
        )
