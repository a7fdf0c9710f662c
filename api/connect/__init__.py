"""The wire of Connect (getconnect.io): bulk imports, pushed events, exports, the end of a collection.

From the seed documents; where they are silent, from the vendor's own forms of errors and what its clients parse. Not
here: the general query language with its aggregations.
"""

from __future__ import annotations

from api.connect.routes import blueprint, refuse_http

#: What a path of this room begins with.
PATHS = ("/event-import", "/events", "/collections")

__all__ = ["PATHS", "blueprint", "refuse_http"]
