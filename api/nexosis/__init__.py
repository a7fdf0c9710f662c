"""The wire of Nexosis: imports from S3, and the datasets that they bring.

From the seed document; where it is silent, from recorded answers of the service and what its clients send and parse.
Not here: sessions, models, views and vocabularies, statistics of columns, and imports from elsewhere than S3.
"""

from __future__ import annotations

from api.nexosis.paths import FoldedPaths
from api.nexosis.routes import blueprint, refuse_http

#: What a path of this room begins with.
PATHS = ("/v1/imports", "/v1/data")

__all__ = ["PATHS", "FoldedPaths", "blueprint", "refuse_http"]
