"""What comes of a COPY that ends before its last row."""

from __future__ import annotations

import os
import socket

import pytest

from common.errors import Transient
from common.ledger.database import Database

_LONG = "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 1000000)) TO STDOUT"


def test_a_copy_whose_connection_ends_in_the_middle_may_be_begun_again(database_url: str) -> None:
    """As when Postgres is killed: the driver has an error without a kind for it."""
    database = Database(database_url)
    rows = 0

    def take(_: bytes) -> None:
        nonlocal rows
        rows += 1
        if rows == 100:
            with socket.socket(fileno=os.dup(tx._cursor.connection.fileno())) as own:
                own.shutdown(socket.SHUT_RDWR)

    with pytest.raises(Transient), database.transaction() as tx:
        tx.copy_out(_LONG, take)
    with database.transaction() as tx:
        assert tx.one("SELECT 1 AS lives").lives == 1
    database.close()

    assert rows < 1_000_000
