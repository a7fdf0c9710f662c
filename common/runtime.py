"""The one place where everything is put together: settings in, stores and senders out."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from common import objects
from common.dispatch import Dispatch
from common.errors import Terminal
from common.ledger import imports as imports_ledger
from common.ledger.database import Database
from common.live.connection import Live
from common.live.progress import ProgressBoard
from common.live.seen import Seen
from common.model.imports import Credentials, Import
from common.sealing import Sealer
from common.settings import Settings

#: Clients of S3 that a process keeps: making one takes about 50 ms, a chunk about 100.
_KEPT_CLIENTS = 8


@dataclass(eq=False)
class Runtime:
    """What a process works with. Opens nothing by itself; safe to build before a fork."""

    settings: Settings
    database: Database
    dispatch: Dispatch
    seen: Seen
    progress: ProgressBoard
    sealer: Sealer
    _clients: OrderedDict[str, objects.Objects] = field(default_factory=OrderedDict, repr=False)

    @classmethod
    def build(cls, settings: Settings, *, name: str) -> Runtime:
        """Put a process together; ``name`` is what Postgres shows for its connections."""
        live = Live(settings.redis_url, timeout_seconds=settings.redis_timeout_seconds)
        return cls(
            settings=settings,
            database=Database(settings.database_url, application_name=name),
            dispatch=Dispatch.from_settings(settings),
            seen=Seen(live, most_ids=settings.seen_ids, seconds=settings.seen_seconds),
            progress=ProgressBoard(live),
            sealer=Sealer(settings.sealing_keys),
        )

    def objects_of(self, job: Import) -> objects.Objects:
        """Return S3 as the import's caller may see it.

        Reads the sealed credentials, so that only workers ever call this. Raises Terminal where they are gone.
        """
        if job.id in self._clients:
            self._clients.move_to_end(job.id)
        else:
            self._clients[job.id] = objects.connect(
                self._credentials(job),
                region=job.source.region,
                endpoint_url=self.settings.s3_endpoint_url,
                addressing=self.settings.s3_addressing,
                checksums=self.settings.s3_checksums,
                timeout=self.settings.s3_timeout_seconds,
            )
            if len(self._clients) > _KEPT_CLIENTS:
                self._clients.popitem(last=False)[1].close()
        return self._clients[job.id]

    def forget_objects_of(self, import_id: str) -> None:
        """Drop the client of an import that has ended, and its credentials with it."""
        if client := self._clients.pop(import_id, None):
            client.close()

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
