"""What the ledger is told where a test changes the table of events by a statement of its own."""

from __future__ import annotations

from common.ledger.database import Tx

_DIFFERENCE = """
INSERT INTO pushes (number, project_id, collection_id, requests, events, replaced, duplicates, bytes)
SELECT nextval(pg_get_serial_sequence('imports', 'number')), c.project_id, c.id, 0,
       t.events - i.events, 0, 0, t.bytes - i.bytes
FROM collections AS c,
     LATERAL (SELECT count(*) AS events, coalesce(sum(octet_length(payload::text) + 1), 0) AS bytes
              FROM events
              WHERE collection_id = c.id) AS t,
     LATERAL (SELECT coalesce(sum(imported), 0) AS events, coalesce(sum(stored_bytes), 0) AS bytes
              FROM imports
              WHERE collection_id = c.id AND finished_at IS NOT NULL) AS i
WHERE c.name = %(name)s
"""


def tell_ledger(tx: Tx, name: str) -> None:
    """Have collections of this name hold, as the ledger tells it, what is in the table. None of them is being loaded.

    An export of a whole collection takes its totals from there.
    """
    tx.run("DELETE FROM pushes USING collections AS c WHERE c.id = collection_id AND c.name = %(name)s", name=name)
    tx.run(_DIFFERENCE, name=name)
