"""``penstock``: the command of the service. Only names what there is."""

from __future__ import annotations

import click

from api.admin import admin


@click.group()
def main() -> None:
    """Load events from S3 into Postgres, each once."""


main.add_command(admin)


if __name__ == "__main__":
    main(prog_name="penstock")
