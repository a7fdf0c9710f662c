"""Projects and the keys that open them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from common.errors import Refusal
from common.ledger.database import Tx
from common.ledger.queries import load_queries
from common.ledger.rows import hex_id
from common.model.ids import new_id, parse_id

_SQL = load_queries("projects")

#: Live keys of each kind that a project may have: one in use, and the one that is to follow it.
MOST_KEYS = 2
#: Kinds of keys: one that is shown, one that encrypts others, one whose secret signs.
SHOWN, MASTER, PAIR = "key", "master", "pair"
_KINDS = {SHOWN: "keys", MASTER: "master keys", PAIR: "key pairs"}
_SEALED = {
    MASTER: (_SQL["lock_sealed_master_keys"], _SQL["replace_sealed_master_key"]),
    PAIR: (_SQL["lock_sealed_pairs"], _SQL["replace_sealed_pair"]),
}


class Project(NamedTuple):
    """Whose data it is."""

    id: str
    name: str
    #: Active imports that it may have; None for the service's own setting.
    import_limit: int | None
    created_at: datetime
    #: The name of the view of its events, for whoever reads them by SQL.
    view: str


class Key(NamedTuple):
    """A live key as stored: never the secret, only its SHA-256."""

    id: str
    project_id: str
    project_name: str
    #: None: the service's own.
    import_limit: int | None
    secret_sha256: bytes
    scopes: frozenset[str]
    #: Whether its last use was noted more than a minute ago.
    use_is_due: bool


class MasterKey(NamedTuple):
    """A live key that has to be known, as stored: sealed."""

    key: Key
    sealed: bytes
    #: Whether only such keys are taken that nobody can have altered.
    strict: bool


class KeyEntry(NamedTuple):
    """What may be shown of a key."""

    id: str
    scopes: list[str]
    #: ``live``, ``expired`` or ``revoked``.
    state: str
    #: ``key``, ``master``, ``strict master`` or ``pair``.
    kind: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


def has_tables(tx: Tx) -> bool:
    """Return whether this database was ever migrated."""
    return bool(tx.one(_SQL["has_tables"]).found)


def create_project(tx: Tx, name: str) -> str:
    """Return the id of the project of that name, inserted now where there was none. Safe to run twice."""
    project_id = tx.one(_SQL["ensure_project"], id=new_id(), name=name).id
    tx.run(_SQL["create_events_view"], id=project_id)
    return hex_id(project_id)


def grant_events(tx: Tx, project_id: str, reader: str) -> None:
    """Let a role of Postgres read the view of a project's events, and nothing else. Safe to run twice."""
    tx.run(_SQL["grant_events_view"], id=project_id, reader=reader)


def find_project(tx: Tx, name_or_id: str) -> Project:
    """Return a project. Raises Refusal ``unknown_project``."""
    row = tx.one(_SQL["find_project"], id=parse_id(name_or_id), name=name_or_id)
    if row is None:
        raise Refusal("unknown_project", f"There is no project {name_or_id[:100]!r}.")
    return _project(row)


def list_projects(tx: Tx) -> list[Project]:
    """Return all projects by name."""
    return [_project(row) for row in tx.all(_SQL["list_projects"])]


def set_import_limit(tx: Tx, project_id: str, limit: int | None) -> None:
    """Set how many active imports the project may have; None for the service's own setting."""
    tx.run(_SQL["set_import_limit"], id=project_id, import_limit=limit)


def create_key(
    tx: Tx,
    *,
    key_id: str,
    project_id: str,
    secret_sha256: bytes,
    scopes: list[str],
    expires: datetime | timedelta | None = None,
    kind: str = SHOWN,
) -> None:
    """Insert a key. The secret itself is for the caller to show, once.

    Raises Refusal ``too_many_keys`` where two of the kind live already, under any race, and ``already_expired``.
    """
    _check_room(tx, project_id, kind)
    made = tx.one(
        _SQL["insert_key"],
        id=key_id,
        project_id=project_id,
        secret_sha256=secret_sha256,
        scopes=scopes,
        expires_at=expires if isinstance(expires, datetime) else None,
        expires_after=expires if isinstance(expires, timedelta) else None,
    )
    if made.expired:
        raise Refusal("already_expired", "A key must expire in the future.")


def create_master_key(tx: Tx, *, key_id: str, project_id: str, sealed: bytes, strict: bool, scopes: list[str]) -> None:
    """Insert a key that has to be known, sealed. Raises Refusal ``too_many_keys`` where two such live already."""
    _check_room(tx, project_id, MASTER)
    no_digest = {"secret_sha256": b"", "expires_at": None, "expires_after": None}
    tx.run(_SQL["insert_key"], id=key_id, project_id=project_id, scopes=scopes, **no_digest)
    tx.run(_SQL["insert_master_key"], id=key_id, project_id=project_id, sealed=sealed, strict=strict)


def make_room(tx: Tx, project_id: str, *, kind: str = SHOWN) -> list[str]:
    """Revoke the keys of a kind unused for longest until another may be made, and return their ids."""
    live = _lock_live_keys(tx, project_id, kind)
    surplus = live[: max(len(live) - MOST_KEYS + 1, 0)]
    for key_id in surplus:
        revoke_key(tx, key_id)
    return surplus


def list_keys(tx: Tx, project_id: str) -> list[KeyEntry]:
    """Return all keys the project ever had, the oldest first."""
    return [KeyEntry(**row._asdict()) for row in tx.all(_SQL["list_keys"], project_id=project_id)]


def revoke_key(tx: Tx, key_id: str) -> datetime:
    """End a key and return when it was ended. Safe to run twice. Raises Refusal ``unknown_key``."""
    row = tx.one(_SQL["revoke_key"], id=key_id)
    if row is None:
        raise Refusal("unknown_key", f"There is no key {key_id!r}.")
    revoked_at: datetime = row.revoked_at
    return revoked_at


def find_key(tx: Tx, key_id: str) -> Key | None:
    """Return the live key of that id: neither revoked nor expired, by the database's clock."""
    row = tx.one(_SQL["find_key"], id=key_id)
    return None if row is None else key_of(row)


def find_master_keys(tx: Tx, project_id: str | None) -> list[MasterKey]:
    """Return a project's live master keys, two at most; none of no project."""
    rows = tx.all(_SQL["find_master_keys"], project_id=project_id)
    return [MasterKey(key_of(row), bytes(row.sealed), row.strict) for row in rows]


def seal_anew(tx: Tx, seals: Mapping[str, Callable[[str, bytes], bytes | None]]) -> tuple[list[str], list[str]]:
    """Replace what is kept of each key, of the kinds that are named, by what its kind's seal makes of it.

    A seal takes what is sealed and whose it is: of a master key the project's id, of a key pair its own. Returns the
    ids of those that were sealed anew, and of those of which it could make nothing. Safe to run twice.
    """
    done: list[str] = []
    left: list[str] = []
    for kind, seal in seals.items():
        lock, replace = _SEALED[kind]
        for row in tx.all(lock):
            sealed = seal(hex_id(row.owner), bytes(row.sealed))
            if sealed is not None:
                tx.run(replace, id=row.id, sealed=sealed)
            (left if sealed is None else done).append(row.id)
    return done, left


def note_use(tx: Tx, key_id: str) -> None:
    """Note that a key was used, once a minute at most. Waits for no row and no disk: a lost note is no loss."""
    tx.run(_SQL["only_if_at_once"])
    tx.run(_SQL["note_use"], id=key_id)


def _check_room(tx: Tx, project_id: str, kind: str) -> None:
    live = _lock_live_keys(tx, project_id, kind)
    if len(live) >= MOST_KEYS:
        text = f"Two {_KINDS[kind]} of this project live already: {' and '.join(live)}. Revoke one of them first."
        raise Refusal("too_many_keys", text, keys=live)


def _lock_live_keys(tx: Tx, project_id: str, kind: str) -> list[str]:
    """Return the ids of live keys of a kind, that unused for longest first; nobody makes one before the commit."""
    tx.run(_SQL["lock_keys"], id=project_id)
    return [row.id for row in tx.all(_SQL["live_keys"], project_id=project_id, kind=kind)]


def key_of(row: Any) -> Key:
    """Return the key of a row that has its columns and those of its project."""
    return Key(
        row.id,
        hex_id(row.project_id),
        row.project_name,
        row.import_limit,
        bytes(row.secret_sha256),
        frozenset(row.scopes),
        row.use_is_due,
    )


def _project(row: Any) -> Project:
    return Project(hex_id(row.id), row.name, row.import_limit, row.created_at, row.view)
