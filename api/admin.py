"""``python -m api.admin``: projects and keys, by hand. Prints one JSON line; the key is shown this once."""

from __future__ import annotations

import click
import ujson

from api.callers import ALL_SCOPES, create_key
from common.ledger import projects
from common.ledger.database import Database
from common.settings import Settings, SettingsError


@click.group()
def main() -> None:
    """Administer a Penstock."""


@main.command("create-project")
@click.argument("name")
def create_project(name: str) -> None:
    """Create a project, or find it by its name, and a key of all scopes for it."""
    try:
        database = Database(Settings.from_environment().database_url, application_name="penstock-admin")
    except SettingsError as error:
        raise click.ClickException(f"{error} It takes the environment that the service has.") from None
    with database.transaction() as tx:
        project_id = projects.find_project(tx, name) or projects.create_project(tx, name)
        key = create_key(tx, project_id, ALL_SCOPES)
    click.echo(ujson.dumps({"project": {"id": project_id, "name": name}, "apiKey": key}))


if __name__ == "__main__":
    main()
