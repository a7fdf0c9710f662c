"""``penstock admin``: projects and keys, by hand, for whoever holds the database.

Needs ``DATABASE_URL`` and, for what is kept sealed, ``PENSTOCK_SEALING_KEYS``; nothing else of the service. A terminal
gets tables; a pipe, or ``--json``, one JSON object a line. Ends with 0, with 1 and a sentence where it cannot be done,
with 2 where the command line is wrong.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import ujson
from rich.console import Console
from rich.table import Table

from api.callers import ALL_SCOPES, create_key, create_master_key
from api.rendering import iso_time
from api.signers import ACCESS_KEY_ID, create_key_pair
from common.errors import Refusal, Transient
from common.ledger import collections, migrate, projects, registry
from common.ledger.database import Database, DriverError, Tx
from common.model.ids import parse_id
from common.model.things import thing_id
from common.sealing import Sealer
from common.settings import SettingsError, read_setting
from common.telemetry import configure_logs

_LONGEST_NAME = 100
#: Columns that would leave no room for the others on a terminal. The view's name is events_of_ and the project's id.
_TOO_WIDE = {"eventsView"}
#: Days. Longer than anybody will remember what the key was for.
_LONGEST_LIFE = 3650


def project_name(text: str) -> str:
    """Return the name of a new project. Fails where nobody could read it, or take it for something else."""
    if not 1 <= len(text) <= _LONGEST_NAME or not text.isprintable() or text != text.strip():
        raise click.BadParameter(f"A name has 1 to {_LONGEST_NAME} printable characters and no spaces around them.")
    if parse_id(text):
        raise click.BadParameter("A name must not look like an id, which is 32 hexadecimal digits.")
    return text


def expiry(text: str) -> timedelta | datetime:
    """Return how long a key lives, or until when; a time without a zone is UTC."""
    if after := re.fullmatch(r"([1-9][0-9]{0,4})([hd])", text):
        life = timedelta(hours=int(after[1]) * {"h": 1, "d": 24}[after[2]])
        if life.days > _LONGEST_LIFE:
            raise click.BadParameter(f"A key lives for {_LONGEST_LIFE} days at most.")
        return life
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a while (90d, 12h) nor a date (2027-01-31).") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def import_limit(text: str) -> int:
    """Return a number of imports; 0 where the service's own setting is to count."""
    if text == "default":
        return 0
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text):
        raise click.BadParameter(f"{text!r} is neither a number from 1 to 99999 nor the word default.")
    return int(text)


scopes_option = click.option(
    "--scope", "scopes", type=click.Choice(ALL_SCOPES), multiple=True, required=True, help="May be repeated."
)
expires_option = click.option(
    "--expires",
    type=expiry,
    metavar="WHEN",
    help="90d, 12h or 2027-01-31 (UTC); without it the key lives until revoked.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, on a terminal too.")


@click.group()
def admin() -> None:
    """Administer a Penstock: its tables, projects and keys. Takes DATABASE_URL from the environment."""
    configure_logs("warning")  # to standard error: standard output is the command's own


@admin.command("migrate")
@click.option("--post", is_flag=True, help="Also what an older version could not live with: once none runs any more.")
@as_json
def migrate_database(*, post: bool, as_json: bool) -> None:
    """Bring the database's tables up to date. Safe to run twice, and while imports run."""
    with _database() as database:
        try:
            applied = migrate.migrate(database, post=post)
        except RuntimeError as error:
            raise click.ClickException(str(error)) from None
    _show([{"applied": name} for name in applied], as_json=as_json, none="The tables are up to date.")


@admin.command("create-project")
@click.argument("name", type=project_name)
@click.option("--replace", is_flag=True, help="Where two keys live, revoke the one unused for longest.")
@as_json
def create_project(name: str, *, replace: bool, as_json: bool) -> None:
    """Create a project, or find it by its name, and a key of all scopes for it."""
    with _transaction() as tx:
        project_id = projects.create_project(tx, name)
        revoked = projects.make_room(tx, project_id) if replace else []
        key = create_key(tx, project_id, ALL_SCOPES)
        view = projects.find_project(tx, project_id).view
    if as_json or not sys.stdout.isatty():
        _print({"project": {"id": project_id, "name": name}, "eventsView": view, "apiKey": key})
    else:
        click.echo(f"Project  {name}\nId       {project_id}\nView     {view}\nKey      {key}")
    _say_what_to_know(revoked)


@admin.command("list-projects")
@as_json
def list_projects(*, as_json: bool) -> None:
    """List all projects."""
    with _transaction() as tx:
        rows = [_row(found) for found in projects.list_projects(tx)]
    _show(rows, as_json=as_json, none="There is no project yet: penstock admin create-project NAME makes one.")


@admin.command("set-limit")
@click.argument("project")
@click.argument("limit", type=import_limit, metavar="LIMIT|default")
@as_json
def set_limit(project: str, limit: int, *, as_json: bool) -> None:
    """Set how many active imports a project may have; "default" for the service's own setting."""
    with _transaction() as tx:
        projects.set_import_limit(tx, projects.find_project(tx, project).id, limit or None)
        rows = [_row(projects.find_project(tx, project))]
    _show(rows, as_json=as_json)


@admin.command("grant-events")
@click.argument("project")
@click.argument("role")
@as_json
def grant_events(project: str, role: str, *, as_json: bool) -> None:
    """Let a role of Postgres read a project's events: SELECT on its view, and on nothing else.

    In Postgres, REVOKE SELECT ON the view FROM the role takes it back.
    """
    with _transaction() as tx:
        found = projects.find_project(tx, project)
        projects.grant_events(tx, found.id, role)
    if as_json or not sys.stdout.isatty():
        _print({"eventsView": found.view, "role": role})
    else:
        click.echo(f"{role} may SELECT from {found.view}.")


@admin.command("index-time")
@click.argument("project")
@click.argument("collection")
@click.option("--drop", is_flag=True, help="Take the index away again.")
@as_json
def index_time(project: str, collection: str, *, drop: bool, as_json: bool) -> None:
    """Index a collection by time: for events that were not stored roughly in the order of their times.

    It makes every import into this collection slower, to about half its rate. Imports go on while it is built, which
    reads all events and waits for every transaction under way, an export too. Safe to run twice.
    """
    with _database() as database:
        with database.transaction() as tx:
            project_id = projects.find_project(tx, project).id
        collections.index_time(database, project_id, collection, drop=drop)
    _show([{"collection": collection, "timeIndex": not drop}], as_json=as_json)


@admin.command("create-key")
@click.argument("project")
@scopes_option
@expires_option
@click.option("--replace", is_flag=True, help="Where two keys live, revoke the one unused for longest.")
@as_json
def create_project_key(
    project: str, *, scopes: tuple[str, ...], expires: timedelta | datetime | None, replace: bool, as_json: bool
) -> None:
    """Create a key for a project and print it, this once.

    Two keys may live at a time, so that callers can change from one to the next before the former is revoked.
    """
    with _transaction() as tx:
        found = projects.find_project(tx, project)
        revoked = projects.make_room(tx, found.id) if replace else []
        key = create_key(tx, found.id, list(dict.fromkeys(scopes)), expires=expires)
    if as_json:
        _print({"project": {"id": found.id, "name": found.name}, "apiKey": key})
    else:
        click.echo(key)
    _say_what_to_know(revoked)


@admin.command("create-master-key")
@click.argument("project")
@click.option("--strict", is_flag=True, help="Take only filtered keys whose IV is a MAC: nobody can alter one.")
@click.option(
    "--own", is_flag=True, help="Read the key from standard input: one that filtered keys are made with already."
)
@click.option("--replace", is_flag=True, help="Where two master keys live, revoke the one unused for longest.")
@as_json
def create_project_master_key(project: str, *, strict: bool, own: bool, replace: bool, as_json: bool) -> None:
    """Create a master key for a project and print it, this once: what its filtered keys are encrypted with.

    It opens all of the project on the wires that know master keys. Two may live at a time, beside the other keys. Takes
    PENSTOCK_SEALING_KEYS from the environment too: the service has to know the key, so it is kept sealed, not hashed.
    """
    given = sys.stdin.readline().strip() if own else None
    if own and not given:
        raise click.UsageError("There is no key on standard input.")
    with _transaction() as tx:
        found = projects.find_project(tx, project)
        revoked = projects.make_room(tx, found.id, kind=projects.MASTER) if replace else []
        key_id, key = create_master_key(tx, _sealer(), found.id, strict=strict, key=given)
    if as_json:
        _print({"project": {"id": found.id, "name": found.name}, "id": key_id, "masterKey": key})
    else:
        click.echo(key)
    _say_what_to_know(revoked, kept="the key, sealed")


@admin.command("create-key-pair")
@click.argument("project")
@scopes_option
@expires_option
@click.option("--replace", is_flag=True, help="Where two key pairs live, revoke the one unused for longest.")
@as_json
def create_project_key_pair(
    project: str, *, scopes: tuple[str, ...], expires: timedelta | datetime | None, replace: bool, as_json: bool
) -> None:
    """Create a key pair for a project and print it, this once: for clients that sign what they send (Signature V4).

    It opens the project, and may make others, which it opens too. Two may live at a time, beside the other keys. Takes
    PENSTOCK_SEALING_KEYS from the environment too: the secret has to be known, so it is kept sealed, not hashed.
    """
    with _transaction() as tx:
        found = projects.find_project(tx, project)
        revoked = projects.make_room(tx, found.id, kind=projects.PAIR) if replace else []
        key_id, secret = create_key_pair(tx, _sealer(), found.id, list(dict.fromkeys(scopes)), expires=expires)
    if as_json:
        of = {"id": found.id, "name": found.name}
        _print({"project": of, "awsAccessKeyId": key_id, "awsSecretAccessKey": secret})
    else:
        click.echo(f"AWS_ACCESS_KEY_ID={key_id}\nAWS_SECRET_ACCESS_KEY={secret}")
    _say_what_to_know(revoked, kept="the secret, sealed")


@admin.command("reseal-keys")
@as_json
def reseal_keys(*, as_json: bool) -> None:
    """Seal all master keys and key pairs with the first of PENSTOCK_SEALING_KEYS: then the others can be taken away.

    Fails, when it has sealed the rest, where none of them opens one. Safe to run twice, and while requests come.
    """
    with _transaction() as tx:
        sealer = _sealer()
        seals = {projects.MASTER: sealer.reseal_master_key, projects.PAIR: sealer.reseal_secret}
        done, left = projects.seal_anew(tx, seals)
    none = "There is neither a master key nor a key pair."
    _show([{"resealed": key_id} for key_id in done], as_json=as_json, none=none)
    if left:
        text = f"No sealing key opens {', '.join(left)}: add the one that does, or revoke and create anew."
        raise click.ClickException(text)


@admin.command("list-keys")
@click.argument("project")
@as_json
def list_keys(project: str, *, as_json: bool) -> None:
    """List a project's keys, revoked and expired ones too; never the secrets."""
    with _transaction() as tx:
        found = projects.list_keys(tx, projects.find_project(tx, project).id)
    rows = [
        {
            "id": row.id,
            "kind": row.kind,
            "state": row.state,
            "scopes": row.scopes,
            "createdAt": row.created_at,
            "expiresAt": row.expires_at,
            "lastUsedAt": row.last_used_at,
        }
        for row in found
    ]
    _show(rows, as_json=as_json, none="This project has no key.")


@admin.command("revoke-key")
@click.argument("key_id")
@as_json
def revoke_key(key_id: str, *, as_json: bool) -> None:
    """End a key: from the next request on it opens nothing. Takes its id, or the whole key; of a master key its id.

    The id of a key pair is the access key id. With a master key all filtered keys end that were made with it.
    """
    # Of a key that leaked, the whole is what is at hand.
    found = re.fullmatch(rf"(?:pk_)?([0-9a-f]{{12}})(?:_.*)?|({ACCESS_KEY_ID.pattern})", key_id)
    if not found:
        text = "A key's id has 12 hexadecimal digits: the part between pk_ and the next underscore."
        raise click.UsageError(f"{text} That of a key pair begins with PSAK.")
    revoked = found[1] or found[2]
    with _transaction() as tx:
        revoked_at = projects.revoke_key(tx, revoked)
    _show([{"id": revoked, "revokedAt": revoked_at}], as_json=as_json)


# Where whoever made one looks for the way to end it.
admin.add_command(revoke_key, "revoke-master-key")


@admin.command("register")
@click.argument("project")
@click.argument("kind")
@click.argument("id")
@as_json
def register(project: str, kind: str, id: str, *, as_json: bool) -> None:
    """Register a thing that the lines of a project may name, such as a package by its UUID. Safe to run twice.

    Imports that ask for it reject lines that name what is not registered.
    """
    with _transaction() as tx:
        new = registry.register(tx, projects.find_project(tx, project).id, kind, id)
    _show([{"kind": kind, "id": thing_id(id), "new": new}], as_json=as_json)


@admin.command("unregister")
@click.argument("project")
@click.argument("kind")
@click.argument("id")
@as_json
def unregister(project: str, kind: str, id: str, *, as_json: bool) -> None:
    """Unregister a thing: from now on lines that name it are rejected. What is stored stays.

    Where PENSTOCK_REGISTER_UNKNOWN is 1, the next line that names it registers it again.
    """
    with _transaction() as tx:
        found = registry.unregister(tx, projects.find_project(tx, project).id, kind, id)
    if not found:
        raise click.ClickException(f"This project has no {kind[:100]!r} {id[:200]!r} registered.")
    _show([{"kind": kind, "id": thing_id(id)}], as_json=as_json)


@admin.command("registered")
@click.argument("project")
@click.option("--kind", help="Only things of this kind.")
@as_json
def list_registered(project: str, kind: str | None, *, as_json: bool) -> None:
    """List what lines of a project may name."""
    with _transaction() as tx:
        found = registry.list_registered(tx, projects.find_project(tx, project).id, kind)
    rows = [{"kind": row.kind, "id": row.id, "createdAt": row.created_at} for row in found]
    _show(rows, as_json=as_json, none="Nothing is registered: penstock admin register PROJECT KIND ID does.")


@contextmanager
def _database() -> Iterator[Database]:
    """Give the database of the settings; what goes wrong ends the command with one sentence."""
    try:
        with closing(Database(read_setting("database_url"), application_name="penstock-admin")) as database:
            yield database
    except (SettingsError, Refusal) as error:
        raise click.ClickException(str(error)) from None
    except Transient as error:
        # Of the driver's words only those that cannot hold a part of the URL's password.
        words = re.match("(?:connection to server at|canceling statement due to) .*", str(error))
        said = f": {words[0]}" if words else ""
        text = f"The database did not do it{said}. Look at DATABASE_URL and whether the server runs, then try again."
        raise click.ClickException(text) from None
    except DriverError as error:
        said = str(error).partition("\n")[0]
        raise click.ClickException(f"The database refused: {said}.") from None


def _sealer() -> Sealer:
    return Sealer(read_setting("sealing_keys"))


@contextmanager
def _transaction() -> Iterator[Tx]:
    with _database() as database, database.transaction() as tx:
        if not projects.has_tables(tx):
            raise click.ClickException("This database has no tables yet: run `penstock admin migrate` first.")
        yield tx


def _show(rows: list[dict[str, Any]], *, as_json: bool, none: str = "") -> None:
    """Print rows of the same columns; to a person also that there are none."""
    if as_json or not sys.stdout.isatty():
        for row in rows:
            _print({name: iso_time(value) if isinstance(value, datetime) else value for name, value in row.items()})
    elif rows:
        table = Table(box=None, padding=(0, 1, 0, 0))
        shown = [name for name in rows[0] if name not in _TOO_WIDE]
        for name in shown:
            # What is cut or broken cannot be copied; names and scopes can be read on two lines.
            table.add_column(name, no_wrap=name == "id" or name.endswith("At"))
        for row in rows:
            table.add_row(*(_cell(row[name]) for name in shown))
        Console(markup=False, highlight=False).print(table)
    else:
        click.echo(none)


def _row(project: projects.Project) -> dict[str, Any]:
    return {
        "id": project.id,
        "name": project.name,
        "importLimit": project.import_limit,
        "eventsView": project.view,
        "createdAt": project.created_at,
    }


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M}"
    return " ".join(value) if isinstance(value, list) else "-" if value is None else str(value)


def _print(document: dict[str, Any]) -> None:
    click.echo(ujson.dumps(document, escape_forward_slashes=False, ensure_ascii=False))


def _say_what_to_know(revoked: list[str], *, kept: str = "its hash") -> None:
    click.echo(f"The key is shown only this once: what is kept is {kept}.", err=True)
    for key_id in revoked:
        click.echo(f"{key_id}, the key unused for longest, is revoked.", err=True)


if __name__ == "__main__":
    admin(prog_name="penstock admin")
