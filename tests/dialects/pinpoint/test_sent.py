"""Signed requests over real servers: what WSGI tells of a request is enough to verify it."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.auth
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from werkzeug.serving import make_server
from werkzeug.test import Client

from deploy.local.commands import ROOT, web_command
from deploy.local.family import free_port
from tests.dialects.pinpoint.signed_app import KEY_ID, SECRET, app
from tests.journeys.stack import wait_until


@pytest.fixture(scope="module", params=["gunicorn", "werkzeug"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The application behind each server: the one of production, as it is configured there, and that of the tests."""
    if request.param == "werkzeug":
        serving = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.port}"
        serving.shutdown()
        thread.join()
        serving.server_close()
    else:
        yield from _gunicorn(tmp_path_factory.mktemp("gunicorn") / "web.log")


def _gunicorn(log: Path) -> Iterator[str]:
    port = free_port()
    environment = {
        # Nobody is there: nothing of this asks them.
        "DATABASE_URL": "postgresql://127.0.0.1:1/nobody",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "PENSTOCK_SEALING_KEYS": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PORT": str(port),
    }
    command = [*web_command()[:-1], "tests.dialects.pinpoint.signed_app:app"]
    assert command[0] == sys.executable
    with log.open("wb") as said:
        master = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
    try:
        wait_until(lambda: _listens(port) or master.poll() is not None, what="gunicorn listens")
        assert master.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        master.terminate()
        try:
            master.wait(30)
        finally:
            master.kill()


def _listens(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 403
    except OSError:
        return False
    finally:
        connection.close()


def pinpoint(server: str, *, secret: str = SECRET, tries: int = 1) -> Any:
    return boto3.client(
        "pinpoint",
        endpoint_url=server,
        region_name="eu-west-1",
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=secret,
        config=Config(retries={"mode": "standard", "total_max_attempts": tries}),
    )


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[Any]:
    made = pinpoint(server)
    yield made
    made.close()


@pytest.mark.parametrize("name", ["a", "a b", "a/b", "a%2Fb", "ü", "a+b", "a:b@c", "~", "!*'()", "a?b#c&d=e", "ሴ%"])
def test_what_boto3_signs_holds_whatever_stands_in_path_query_and_body(client: Any, name: str) -> None:
    request = {"ChannelType": "EMAIL", "Address": f"{name}@example.com", "Attributes": {name: [name]}}
    assert client.get_endpoint(ApplicationId="f" * 32, EndpointId=name)
    assert client.update_endpoint(ApplicationId=name, EndpointId=name, EndpointRequest=request)
    assert client.get_import_jobs(ApplicationId="f" * 32, PageSize=name, Token=name)
    assert client.delete_endpoint(ApplicationId="f" * 32, EndpointId=name)


def test_what_another_secret_signs_does_not(server: str) -> None:
    client = pinpoint(server, secret=SECRET + "x")
    with pytest.raises(ClientError) as refused:
        client.get_apps()
    assert refused.value.response["Error"]["Code"] == "bad_signature"
    client.close()


def test_what_boto3_sends_again_within_a_second_stands_for_the_same_request(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It signs neither the number of the call nor that of the try: two calls alike within a second are one, too."""
    patient, client = pinpoint(server, tries=2), pinpoint(server)
    call = {"ApplicationId": "seen-before", "EndpointId": "a", "EndpointRequest": {"Address": "a"}}
    for second in range(2):
        at = datetime.now(UTC) + timedelta(minutes=second)
        monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda at=at: at)
        with pytest.raises(ClientError, match="500"):
            client.update_endpoint(**call)
        assert client.update_endpoint(**call)
        assert patient.update_endpoint(**{**call, "EndpointId": "b"})["ResponseMetadata"]["RetryAttempts"] == 1
    patient.close()
    client.close()


def signed(server: str, method: str, target: str, *, host: str | None = None, body: bytes = b"") -> dict[str, str]:
    """Return the headers that botocore signs a request with."""
    headers = {"Host": host or urlsplit(server).netloc, "My-Header": "  a   b  "}
    request = AWSRequest(method, f"{server}{target}", headers=headers, data=body)
    SigV4Auth(Credentials(KEY_ID, SECRET), "mobiletargeting", "eu-west-1").add_auth(request)
    return dict(request.headers.items())


def ask(server: str, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> str:
    """Return the kind of refusal, or an empty string."""
    connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=30)
    try:
        connection.putrequest(method, target, skip_host=True)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        answer.read()
        return answer.headers.get("x-amzn-ErrorType") or ""
    finally:
        connection.close()


@pytest.mark.parametrize(
    "target", ["/", "//", "//a//b/", "/a/../b", "/./a", "/%7Ea", "/%2e%2E/a", "/a?", "/a?b=%20&b=+&"]
)
def test_paths_and_queries_reach_the_verifier_as_they_were_sent(server: str, target: str) -> None:
    headers = signed(server, "GET", target)
    assert ask(server, "GET", target, headers) == ""
    assert ask(server, "GET", f"{target}x", headers) == "bad_signature"
    assert ask(server, "POST", target, headers) == "bad_signature"


def test_the_absolute_form_of_a_target_is_the_same_request(server: str) -> None:
    headers = signed(server, "GET", "/v1/apps?page-size=1")
    assert ask(server, "GET", f"{server}/v1/apps?page-size=1", headers) == ""
    assert ask(server, "GET", f"{server}/v1/apps?page-size=2", headers) == "bad_signature"


def test_behind_a_proxy_the_host_is_the_one_that_the_caller_asked_for(server: str) -> None:
    headers = signed(server, "GET", "/", host="pinpoint.example.com")
    behind = {**headers, "Host": "upstream", "X-Forwarded-Host": "pinpoint.example.com", "X-Forwarded-For": "192.0.2.1"}
    assert ask(server, "GET", "/", headers) == ""
    assert ask(server, "GET", "/", behind) == ""
    assert ask(server, "GET", "/", {**behind, "X-Forwarded-Host": "evil.example.com"}) == "bad_signature"
    assert ask(server, "GET", "/", {**headers, "Host": "upstream"}) == "bad_signature"


def test_a_body_that_was_altered_on_the_way_does_not_hold(server: str) -> None:
    headers = signed(server, "PUT", "/a", body=b"{}")
    assert ask(server, "PUT", "/a", headers, b"{}") == ""
    assert ask(server, "PUT", "/a", headers, b"{ }") == "bad_signature"


def test_the_test_client_tells_as_much() -> None:
    headers = signed("http://localhost", "PUT", "/a%20b?c=%2F", body=b"{}")
    client = Client(app)
    assert client.put("/a%20b?c=%2F", headers=headers, data=b"{}").status_code == 200
    assert client.put("/a%20b?c=/", headers=headers, data=b"{}").status_code == 403
