"""What the local stack lets its service open: all of its own S3, and nothing of one that is the user's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from common.model.roles import read_roles
from common.settings import Settings
from deploy.local.commands import environment


@pytest.mark.parametrize("pid", [4711, None])
def test_any_role_opens_the_stacks_own_s3_and_no_other(pid: int | None) -> None:
    servers: Any = SimpleNamespace(
        database_url="d", redis_url="r", s3_endpoint="http://127.0.0.1:1", s3_access_key_id="id",
        s3_secret_access_key="secret", pids={"s3": pid},
    )  # fmt: skip
    given = environment(servers, port=1, api="http://127.0.0.1:2", settings={})
    settings = Settings.from_environment(given)

    assert settings.may_read_own("any") is (pid is not None)
    assert [grant.has_bucket("any") for grant in read_roles(settings.roles).values()] == ([True] if pid else [])
    assert set(read_roles(settings.roles)) == ({"*"} if pid else set())
