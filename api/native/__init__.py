"""Penstock's own wire, below ``/api``: bearer keys, camelCase JSON, problem details (RFC 9457), OpenAPI 3.1."""

from __future__ import annotations

from flask import Flask
from flask_smorest import Api

from api.native import collections, exports, routes
from api.native.routes import SPEC, refuse_http

__all__ = ["SPEC", "refuse_http", "register"]


def register(app: Flask, api: Api) -> None:
    """Mount the room, and make its form of errors the app's."""
    routes.register(app, api, routes.blueprint, exports.blueprint, collections.blueprint)
