"""The wire of Connect (getconnect.io): ``POST /event-import`` and ``GET /event-import/:id``.

From the seed document; where it is silent, from the vendor's own forms of errors. Not here yet: pushing events,
exports, collections, filtered keys.
"""

from __future__ import annotations

from api.connect.routes import blueprint

__all__ = ["blueprint"]
