"""Who signs: what a request says of its signature in, a Caller out. Knows no framework and no way to sign.

A key pair is an access key id, ``PSAK`` and 16 letters or digits, and a secret of 40 characters, which is kept sealed.
Its row is read for every request, so that a revocation counts from the next one on.
"""

from __future__ import annotations

import base64
import re
import secrets
import time
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from api.callers import Caller, note_use, too_many_failures
from common.errors import Refusal
from common.ledger import key_pairs
from common.ledger.database import Database, Tx
from common.live.failures import OPENED_SECONDS, Failures
from common.sealing import Sealer
from common.telemetry import bind, get_logger

log = get_logger(__name__)

ACCESS_KEY_ID = re.compile("PSAK[A-Z2-7]{16}")
#: Signatures differ, so there is nothing that a process could tell others by which they knew the next one.
_NO_MARK = ""


class Claimed(Protocol):
    """What a request says of its signature."""

    @property
    def access_key_id(self) -> str:
        """Whose secret is said to have made it."""

    def check_secret(self, secret: str | None) -> None:
        """Raise Refusal unless this secret made it; None is of a key pair that there is not, and takes as long."""

    def check_time(self, now: datetime) -> None:
        """Raise Refusal where it is too old, or too young."""


class _Known(NamedTuple):
    """A key pair that has signed something here lately."""

    sealed: bytes
    at: float


def create_key_pair(
    tx: Tx,
    sealer: Sealer,
    project_id: str,
    scopes: list[str],
    *,
    expires: datetime | timedelta | None = None,
) -> tuple[str, str]:
    """Store a new key pair for a project, its secret sealed, and return access key id and secret: this once.

    Raises Refusal ``too_many_keys`` where two live already, and ``already_expired``.
    """
    access_key_id = "PSAK" + base64.b32encode(secrets.token_bytes(10)).decode()
    secret = secrets.token_urlsafe(30)
    key_pairs.create_key_pair(
        tx,
        access_key_id=access_key_id,
        project_id=project_id,
        sealed=sealer.seal_secret(access_key_id, secret),
        scopes=scopes,
        expires=expires,
    )
    return access_key_id, secret


class Signers:
    """Tells who signed. One a process, for all its threads."""

    def __init__(self, database: Database, failures: Failures, sealer: Sealer) -> None:
        """Take where key pairs are stored, where failures are counted, and what opens secrets."""
        self._database = database
        self._failures = failures
        self._sealer = sealer
        #: By access key id. Only who has the secret gets in here, so strangers cannot fill it.
        self._known: dict[str, _Known] = {}

    def identify(self, claim: Claimed, *, address: str) -> Caller:
        """Return who signed the request: the account whose key pair it is, which may do more (``AccountDesk``).

        ``address`` is the client's. Raises what the claim's checks raise, the same for a key pair that is unknown,
        expired or revoked as for a wrong secret; and ``too_many_failures``, without a look at the database, where the
        address or this key pair at it had too many.
        """
        ours = claim.access_key_id if ACCESS_KEY_ID.fullmatch(claim.access_key_id) else None
        wait = 0 if self._is_known(claim) else self._failures.seconds_to_wait(address, ours, _NO_MARK)
        if wait:
            raise too_many_failures(wait)
        pair, secret = self._find(ours)
        try:
            claim.check_secret(secret)
            assert pair, "no secret, and yet it was right"
            claim.check_time(pair.read_at)
        except Refusal:
            if wait is not None:  # a Redis that did not answer is not asked twice
                self._failures.count(address, ours, _NO_MARK)
            raise
        self._known[pair.key.id] = _Known(pair.sealed, time.monotonic())
        note_use(self._database, pair.key)
        bind(project_id=pair.key.project_id, key_id=pair.key.id)
        key = pair.key
        return Caller(key.project_id, key.project_name, key.id, key.scopes, key.import_limit)

    def _is_known(self, claim: Claimed) -> bool:
        """Return whether this process can tell by itself that the secret is right: the failures are a neighbour's."""
        known = self._known.get(claim.access_key_id)
        if known is None or time.monotonic() - known.at > OPENED_SECONDS:
            return False
        try:
            claim.check_secret(self._sealer.open_secret(claim.access_key_id, known.sealed))
        except Refusal:
            return False
        return True

    def _find(self, access_key_id: str | None) -> tuple[key_pairs.KeyPair | None, str | None]:
        """Return the live key pair of that id, and its secret."""
        if access_key_id is None:
            return None, None
        with self._database.transaction() as tx:
            pair = key_pairs.find_key_pair(tx, access_key_id)
        if pair is None:
            self._known.pop(access_key_id, None)
            return None, None
        secret = self._sealer.open_secret(access_key_id, pair.sealed)
        if secret is None:
            log.error("key_pair_unreadable", key_id=access_key_id)  # was a sealing key taken away?
        return pair, secret
