"""Who asks: a credential in, a Caller out. Knows no framework and no dialect.

A key is ``pk_<id>_<secret>``: the id finds the row, the secret is 256 random bits of which only the SHA-256 is stored.
The row is read for every request, so that a revocation counts from the next one on.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from common.errors import PenstockError, Refusal
from common.ledger import projects
from common.ledger.database import Database, DriverError, Tx
from common.live.failures import OPENED_SECONDS, Failures
from common.model.ids import parse_id
from common.telemetry import bind, get_logger

log = get_logger(__name__)

PUSH, QUERY, ADMIN = "push", "query", "admin"
ALL_SCOPES = [PUSH, QUERY, ADMIN]

_KEY = re.compile(r"pk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
#: Compared against where no such key exists, so that the answer takes as long.
_NOBODY = hashlib.sha256(b"nobody").digest()

#: How long a process spares what opened without asking Redis, and marks it there again while it is used.
_MARK_AGAIN_SECONDS = 60.0
_MOST_KNOWN = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """A project, and what the key it showed may do."""

    project_id: str
    project_name: str
    key_id: str
    scopes: frozenset[str]
    #: Active imports that the project may have; None: the service's own limit.
    import_limit: int | None = None

    def require(self, *scopes: str) -> None:
        """Raise Refusal ``forbidden`` unless the key has one of the scopes. ``admin`` has them all."""
        if not self.scopes & {ADMIN, *scopes}:
            needed = " or ".join(scopes)
            raise Refusal("forbidden", f"This API key may not do that: it takes a key with the scope {needed}.")


def create_key(
    tx: Tx,
    project_id: str,
    scopes: list[str],
    *,
    expires: datetime | timedelta | None = None,
) -> str:
    """Store a new key for a project and return it: this once.

    Raises Refusal ``too_many_keys`` where two live already, and ``already_expired``.
    """
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).digest()
    projects.create_key(
        tx,
        key_id=key_id,
        project_id=project_id,
        secret_sha256=digest,
        scopes=scopes,
        expires=expires,
    )
    return f"pk_{key_id}_{secret}"


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a request shows of itself."""

    #: None where it is no key of ours.
    key_id: str | None
    digest: bytes
    #: None where the dialect sends none; else an id, or what is none.
    project_id: str | None

    @classmethod
    def read(cls, credential: str, project: str | None) -> _Shown:
        parts = _KEY.fullmatch(credential)
        digest = hashlib.sha256((parts[2] if parts else "").encode()).digest()
        return cls(parts[1] if parts else None, digest, None if project is None else parse_id(project) or "none")

    def mark(self) -> str:
        """Return what it is known by in Redis: neither the key, nor its id, nor the digest that Postgres has."""
        parts = ("penstock opened", self.key_id or "", self.digest.hex(), self.project_id or "")
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class Callers:
    """Tells who asks. One a process, for all its threads."""

    def __init__(self, database: Database, failures: Failures) -> None:
        """Take where keys are stored, and where failures are counted."""
        self._database = database
        self._failures = failures
        #: By what opened: when it was marked. What is here was right once, so strangers cannot fill it. Redis has it
        #: for every process, and after a restart; this copy is for a Redis that hangs or has lost it.
        self._marked: dict[_Shown, float] = {}

    def identify(self, credential: str | None, *, address: str, project: str | None = None) -> Caller:
        """Return who shows the credential, and, where a dialect sends a project beside it, that they belong together.

        ``address`` is the client's. Raises Refusal ``unauthenticated``, the same for every cause, and
        ``too_many_failures``, without a look at the database, where the address or this key at it had too many.
        """
        if credential is None:
            raise _refusal()  # nothing was tried, so nothing is counted
        shown = _Shown.read(credential, project)
        mark, age = shown.mark(), time.monotonic() - self._marked.get(shown, -math.inf)
        known = age < OPENED_SECONDS
        wait = 0 if known else self._failures.seconds_to_wait(address, shown.key_id, mark)
        if wait:
            text = "Too many requests from your address showed a key that opens nothing. Wait, and try the right one."
            raise Refusal("too_many_failures", text, retryAfter=wait)
        key = self._find(shown)
        if key is None:
            self._marked.pop(shown, None)
            if wait is not None:  # a Redis that did not answer is not asked twice
                self._failures.count(address, shown.key_id, mark)
            raise _refusal()
        if age > _MARK_AGAIN_SECONDS:
            self._note_opened(shown)
            if wait is not None:
                self._failures.spare(mark)
        self._note_use(key)
        bind(project_id=key.project_id, key_id=key.id)
        return Caller(key.project_id, key.project_name, key.id, key.scopes, key.import_limit)

    def _find(self, shown: _Shown) -> projects.Key | None:
        """Return the live key that was shown, if its secret is right and its project, where one was named."""
        if shown.key_id is None:
            return None
        with self._database.transaction() as tx:
            key = projects.find_key(tx, shown.key_id)
        right = hmac.compare_digest(shown.digest, key.secret_sha256 if key else _NOBODY)
        return key if key and right and shown.project_id in (None, key.project_id) else None

    def _note_opened(self, shown: _Shown) -> None:
        if len(self._marked) >= _MOST_KNOWN:
            self._marked.clear()
        self._marked[shown] = time.monotonic()

    def _note_use(self, key: projects.Key) -> None:
        if not key.use_is_due:
            return
        try:
            with self._database.transaction() as tx:
                projects.note_use(tx, key.id)
        except (PenstockError, DriverError) as error:  # the caller is known all the same
            log.warning("use_not_noted", key_id=key.id, error=type(error).__name__)


def _refusal() -> Refusal:
    return Refusal("unauthenticated", "The API key is missing, wrong, expired or revoked, or not this project's.")
