"""Penstock's own wire, below ``/api``: bearer keys, camelCase JSON, problem details (RFC 9457), OpenAPI 3.1."""

from __future__ import annotations

from api.native.routes import SPEC, refuse_http, register

__all__ = ["SPEC", "refuse_http", "register"]
