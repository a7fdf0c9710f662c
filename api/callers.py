"""Who asks: a credential in, a Caller out. Knows no framework and no dialect.

A key is ``pk_<id>_<secret>``: the id finds the row, the secret is 256 random bits of which only the SHA-256 is stored.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from common.errors import Refusal
from common.ledger import projects
from common.ledger.database import Database, Tx
from common.model.ids import parse_id
from common.telemetry import bind

PUSH, QUERY, ADMIN = "push", "query", "admin"
ALL_SCOPES = [PUSH, QUERY, ADMIN]

_KEY = re.compile(r"pk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
#: Compared against where no such key exists, so that the answer takes as long.
_NOBODY = hashlib.sha256(b"nobody").digest()


@dataclass(frozen=True, slots=True)
class Caller:
    """A project, and what the key it showed may do."""

    project_id: str
    project_name: str
    key_id: str
    scopes: frozenset[str]

    def require(self, *scopes: str) -> None:
        """Raise Refusal ``forbidden`` unless the key has one of the scopes. ``admin`` has them all."""
        if not self.scopes & {ADMIN, *scopes}:
            needed = " or ".join(scopes)
            raise Refusal("forbidden", f"This API key may not do that: it takes a key with the scope {needed}.")


def create_key(tx: Tx, project_id: str, scopes: list[str]) -> str:
    """Store a new key for a project and return it: this once."""
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).digest()
    projects.create_key(tx, key_id=key_id, project_id=project_id, secret_sha256=digest, scopes=scopes)
    return f"pk_{key_id}_{secret}"


def identify(database: Database, credential: str | None, *, project: str | None = None) -> Caller:
    """Return who shows the credential, and, where a dialect sends a project beside it, that they belong together.

    Raises Refusal ``unauthenticated``, the same for every cause.
    """
    parts = _KEY.fullmatch(credential or "")
    if not parts:
        raise _refusal()
    with database.transaction() as tx:
        key = projects.find_key(tx, parts[1])
    digest = hashlib.sha256(parts[2].encode()).digest()
    if not hmac.compare_digest(digest, key.secret_sha256 if key else _NOBODY) or key is None:
        raise _refusal()
    if project is not None and parse_id(project) != key.project_id:
        raise _refusal()
    bind(project_id=key.project_id, key_id=key.id)
    return Caller(key.project_id, key.project_name, key.id, key.scopes)


def _refusal() -> Refusal:
    return Refusal("unauthenticated", "The API key is missing, wrong, expired or revoked, or not this project's.")
