"""Who asks: a credential in, a Caller out. Knows no framework and no dialect.

A key is ``pk_<id>_<secret>``: the id finds the row, the secret is 256 random bits of which only the SHA-256 is stored.
The row is read for every request, so that a revocation counts from the next one on. Where a dialect has them, a
project's master key, and the filtered keys that were encrypted with it, open too: see ``filtered``.
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
from string import ascii_letters, digits

from api.filtered import (
    MASTER_KEY,
    FilteredKey,
    Grant,
    Master,
    open_filtered_key,
    read_filtered_key,
)
from common.errors import PenstockError, Refusal
from common.ledger import projects
from common.ledger.database import Database, DriverError, Tx
from common.live.failures import OPENED_SECONDS, Failures
from common.model.ids import parse_id
from common.model.query import Condition, Query
from common.sealing import Sealer
from common.telemetry import bind, get_logger

log = get_logger(__name__)

PUSH, QUERY, ADMIN = "push", "query", "admin"
ALL_SCOPES = [PUSH, QUERY, ADMIN]
#: What a filtered key with conditions has in the place of ``query``: a use case that asks for that one alone does not
#: open to it, so that none can forget the conditions.
FILTERED_QUERY = "query by a filter"

_KEY = re.compile(r"pk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
#: Compared against where no such key exists, so that the answer takes as long.
_NOBODY = hashlib.sha256(b"nobody").digest()
_NO_MASTER = Master(secrets.token_hex(16), strict=True)

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
    #: What all events meet that it may see; of a filtered key.
    conditions: tuple[Condition, ...] = ()

    def require(self, *scopes: str) -> None:
        """Raise Refusal ``forbidden`` unless the key has one of the scopes. ``admin`` has them all."""
        if not self.scopes & {ADMIN, *scopes}:
            needed = " or ".join(scope for scope in scopes if scope != FILTERED_QUERY)
            raise Refusal("forbidden", f"This API key may not do that: it takes a key with the scope {needed}.")

    def narrow(self, query: Query) -> Query:
        """Return what may be answered of a query: what meets the key's own conditions, too.

        Whatever shows events asks here. Raises Refusal ``forbidden`` unless the key may query, and ``invalid_query``
        where there would be too many conditions.
        """
        self.require(QUERY, FILTERED_QUERY)
        return query.also(self.conditions)


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


def create_master_key(
    tx: Tx, sealer: Sealer, project_id: str, *, strict: bool = False, key: str | None = None
) -> tuple[str, str]:
    """Store a new master key for a project, sealed, and return its id and it: this once.

    ``key`` is one from elsewhere, ``strict`` as in ``filtered``. Raises Refusal ``too_many_keys``, ``invalid_key``.
    """
    key = key or "".join(secrets.choice(ascii_letters + digits) for _ in range(32))
    if not MASTER_KEY.fullmatch(key):
        raise Refusal("invalid_key", "A master key has 32 letters and digits.")
    key_id = secrets.token_hex(6)
    sealed = sealer.seal_master_key(project_id, key)
    projects.create_master_key(
        tx, key_id=key_id, project_id=project_id, sealed=sealed, strict=strict, scopes=ALL_SCOPES
    )
    return key_id, key


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a request shows of itself. Kept: nothing secret may be in it."""

    #: None where it is no key of ours.
    key_id: str | None
    digest: bytes
    #: None where the dialect sends none; else an id, or what is none.
    project_id: str | None

    @classmethod
    def read(cls, credential: str | FilteredKey, project: str | None) -> _Shown:
        parts = _KEY.fullmatch(credential) if isinstance(credential, str) else None
        if isinstance(credential, FilteredKey):
            secret = b"".join(credential)
        elif parts or MASTER_KEY.fullmatch(credential):
            secret = (parts[2] if parts else credential).encode()
        else:
            secret = b""
        digest = hashlib.sha256(secret).digest()
        return cls(parts[1] if parts else None, digest, None if project is None else parse_id(project) or "none")

    def mark(self) -> str:
        """Return what it is known by in Redis: neither the key, nor its id, nor the digest that Postgres has."""
        parts = ("penstock opened", self.key_id or "", self.digest.hex(), self.project_id or "")
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Opened:
    """What a request's key turned out to be."""

    key: projects.Key
    scopes: frozenset[str]
    conditions: tuple[Condition, ...] = ()


class Callers:
    """Tells who asks. One a process, for all its threads."""

    def __init__(self, database: Database, failures: Failures, sealer: Sealer) -> None:
        """Take where keys are stored, where failures are counted, and what opens sealed keys."""
        self._database = database
        self._failures = failures
        self._sealer = sealer
        #: By what opened: when it was marked. What is here was right once, so strangers cannot fill it. Redis has it
        #: for every process, and after a restart; this copy is for a Redis that hangs or has lost it.
        self._marked: dict[_Shown, float] = {}

    def identify(
        self, credential: str | None, *, address: str, project: str | None = None, takes_master_keys: bool = False
    ) -> Caller:
        """Return who shows the credential, and, where a dialect sends a project beside it, that they belong together.

        ``address`` is the client's; ``takes_master_keys`` whether master keys and filtered ones open in this dialect,
        beside the id of their project. Raises Refusal ``unauthenticated``, the same for every cause, and
        ``too_many_failures``, without a look at the database, where the address or this key at it had too many.
        """
        if credential is None:
            raise _refusal()  # nothing was tried, so nothing is counted
        filtered = read_filtered_key(credential) if takes_master_keys else None
        shown = _Shown.read(filtered or credential, project)
        mark, age = shown.mark(), time.monotonic() - self._marked.get(shown, -math.inf)
        known = age < OPENED_SECONDS
        wait = 0 if known else self._failures.seconds_to_wait(address, shown.key_id, mark)
        if wait:
            raise too_many_failures(wait)
        opened = self._find_master(shown, filtered or credential) if takes_master_keys else None
        opened = opened or self._find(shown)
        if opened is None:
            self._marked.pop(shown, None)
            if wait is not None:  # a Redis that did not answer is not asked twice
                self._failures.count(address, shown.key_id, mark)
            raise _refusal()
        if age > _MARK_AGAIN_SECONDS:
            self._note_opened(shown)
            if wait is not None and filtered is None:
                # Of filtered keys there is no end, and Redis has to have room for the queue: the memory of the process,
                # which has a bound, has to do for them.
                self._failures.spare(mark)
        key = opened.key
        note_use(self._database, key)
        bind(project_id=key.project_id, key_id=key.id)
        return Caller(key.project_id, key.project_name, key.id, opened.scopes, key.import_limit, opened.conditions)

    def _find(self, shown: _Shown) -> _Opened | None:
        """Return the live key that was shown, if its secret is right and its project, where one was named."""
        if shown.key_id is None:
            return None
        with self._database.transaction() as tx:
            key = projects.find_key(tx, shown.key_id)
        right = hmac.compare_digest(shown.digest, key.secret_sha256 if key else _NOBODY)
        return _Opened(key, key.scopes) if key and right and shown.project_id in (None, key.project_id) else None

    def _find_master(self, shown: _Shown, credential: str | FilteredKey) -> _Opened | None:
        """Return the live master key that was shown, or what a filtered key opens that was made with one.

        As much is done for a project without any, and for one that does not exist, as for one that has two.
        """
        if isinstance(credential, str) and not MASTER_KEY.fullmatch(credential):
            return None
        with self._database.transaction() as tx:
            stored = projects.find_master_keys(tx, None if shown.project_id == "none" else shown.project_id)
        masters = [*map(self._unseal, stored), _NO_MASTER, _NO_MASTER][: projects.MOST_KEYS]
        found = [_open(credential, master) for master in masters]
        return next((_opened(one.key, grant) for one, grant in zip(stored, found, strict=False) if grant), None)

    def _unseal(self, stored: projects.MasterKey) -> Master:
        key = self._sealer.open_master_key(stored.key.project_id, stored.sealed)
        if key is None:
            log.error("master_key_unreadable", key_id=stored.key.id)  # was a sealing key taken away?
            return _NO_MASTER
        return Master(key, stored.strict)

    def _note_opened(self, shown: _Shown) -> None:
        if len(self._marked) >= _MOST_KNOWN:
            self._marked.clear()
        self._marked[shown] = time.monotonic()


#: What a master key says of itself.
_ALL = Grant((), may_query=True, may_push=True)


def _open(credential: str | FilteredKey, master: Master) -> Grant | None:
    if isinstance(credential, FilteredKey):
        grant = open_filtered_key(credential, master)
    else:
        grant = _ALL if hmac.compare_digest(credential.encode(), master.key.encode()) else None
    return None if master is _NO_MASTER else grant


def _opened(key: projects.Key, grant: Grant) -> _Opened:
    if grant is _ALL:
        return _Opened(key, key.scopes)
    query = FILTERED_QUERY if grant.conditions else QUERY
    may = {PUSH: grant.may_push, query: grant.may_query}
    return _Opened(key, frozenset(scope for scope in may if may[scope]), grant.conditions)


def note_use(database: Database, key: projects.Key) -> None:
    """Note that a key was used, once a minute at most. Raises nothing: the caller is known all the same."""
    if not key.use_is_due:
        return
    try:
        with database.transaction() as tx:
            projects.note_use(tx, key.id)
    except (PenstockError, DriverError) as error:
        log.warning("use_not_noted", key_id=key.id, error=type(error).__name__)


def too_many_failures(wait: int) -> Refusal:
    """Return the answer to whoever has to wait so many seconds."""
    text = "Too many requests from your address showed a key that opens nothing. Wait, and try the right one."
    return Refusal("too_many_failures", text, retryAfter=wait)


def _refusal() -> Refusal:
    return Refusal("unauthenticated", "The API key is missing, wrong, expired or revoked, or not this project's.")
