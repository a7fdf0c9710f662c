"""The wire of Connect (getconnect.io): ``POST /event-import`` and ``GET /event-import/:id``.

From the seed document; where it is silent, from the vendor's own forms of errors. Not here yet: pushing events,
exports, collections, filtered keys.
"""

from __future__ import annotations

from api.connect.routes import blueprint, refuse_http

#: What a path of this room begins with.
PATHS = ("/event-import",)

__all__ = ["PATHS", "blueprint", "refuse_http"]
