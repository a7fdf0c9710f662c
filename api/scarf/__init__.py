"""The wire of Scarf's external event import: bodies of events, the status, log and end of their imports, artifacts.

From the seed document; where it is silent, from the vendor's own description of the calls and what clients send and
parse. Not here: names of artifacts, and everything of the vendor's that is no import.
"""

from __future__ import annotations

from api.scarf.routes import blueprint, refuse_http

#: What a path of this room begins with.
PATHS = ("/v2/",)

__all__ = ["PATHS", "blueprint", "refuse_http"]
