"""A service whose table opens every role, and clients that sign: boto3 with nothing but the address of a server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import boto3
import pytest
from botocore.config import Config
from flask.testing import FlaskClient
from werkzeug.serving import make_server

from api.callers import ALL_SCOPES
from api.signers import create_key_pair
from common.settings import Settings
from tests.dialects.pinpoint.asking import Asking
from tests.stage import Stage

GRANT = {"accessKeyId": "role-key", "secretAccessKey": "role-secret", "buckets": ["*"], "writes": True}


@pytest.fixture(scope="session")
def settings(settings: Settings) -> Settings:
    return replace(settings, roles=json.dumps({"*": GRANT}), max_line_bytes=20_000)


@pytest.fixture
def ask(client: FlaskClient, stage: Stage, key: str) -> Asking:
    """Requests with a bearer key, of the stage's project."""
    return Asking(client, stage, key)


@pytest.fixture
def server(client: FlaskClient) -> Iterator[str]:
    """The address of the application behind a server of its own."""
    serving = make_server("127.0.0.1", 0, client.application, threaded=True)
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{serving.port}"
    serving.shutdown()
    thread.join()
    serving.server_close()


#: Makes a client of a service, with a pair of scopes or a pair of strings.
Connect = Callable[..., Any]


@pytest.fixture
def connect(server: str, stage: Stage) -> Iterator[Connect]:
    """Clients of boto3 that try once: what it would try again is to be seen."""
    with ExitStack() as made:

        def connected(scopes: list[str] = ALL_SCOPES, *, pair: tuple[str, str] | None = None, **more: Any) -> Any:
            if pair is None:
                with stage.runtime.database.transaction() as tx:
                    pair = create_key_pair(tx, stage.runtime.sealer, stage.caller.project_id, scopes)
            client = boto3.client(
                "pinpoint",
                endpoint_url=server,
                region_name="us-east-1",
                aws_access_key_id=pair[0],
                aws_secret_access_key=pair[1],
                config=Config(retries={"max_attempts": 0}),
                **more,
            )
            made.callback(client.close)
            return client

        yield connected


@pytest.fixture
def pinpoint(connect: Connect) -> Any:
    return connect()
