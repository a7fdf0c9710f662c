"""The tests of benchmarks that run one, a short one: a minute of two cores, for what nobody is served by."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever starts servers is left out of ``run.py test`` without arguments; ``-m bench`` runs it."""
    for item in items:
        if "bench" in item.path.parts and "servers" in getattr(item, "fixturenames", []):
            item.add_marker(pytest.mark.bench)
