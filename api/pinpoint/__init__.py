"""The wire of Amazon Pinpoint's import jobs: jobs, the endpoints that they bring, segments, export jobs.

From the seed document; where it is silent, from the service model that the SDKs of AWS are made of. Not here: messages,
campaigns and journeys, and updates of a part of an endpoint.
"""

from __future__ import annotations

from api.pinpoint.routes import blueprint, refuse_http

#: What a path of this room begins with.
PATHS = ("/v1/apps",)

__all__ = ["PATHS", "blueprint", "refuse_http"]
