"""What the tests of the running service share: asking it, waiting for it, and an import to watch."""

from __future__ import annotations

import json
import secrets
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from deploy.local.servers import Servers
from deploy.local.service import create_bucket, s3_client
from tests.journeys.stack import wait_until

#: As the caller's S3 secret; it must not be found anywhere.
CANARY = f"Canary{secrets.token_hex(12)}"
REQUEST_ID = "operators-request.1"
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(url: str, *, method: str = "GET", headers: dict[str, str] | None = None, body: Any = None) -> tuple[int, str]:
    """Return status and body; status 0 where nobody answers."""
    content = json.dumps(body).encode() if body is not None else b"" if method == "POST" else None
    request = urllib.request.Request(url, method=method, headers=headers or {}, data=content)
    try:
        with _OPENER.open(request, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def own_database(servers: Servers, name: str, number: int) -> dict[str, str]:
    """Return the addresses of an empty Postgres database, and of a Redis database that no journey counts up to."""
    redis_url = urlunsplit(urlsplit(servers.redis_url)._replace(path=f"/{number}"))
    return {"DATABASE_URL": servers.create_database(name), "REDIS_URL": redis_url}


def run_import(servers: Servers, api: str, api_key: str, *, lines: int) -> str:
    """Import an object over HTTP and return the import's id once every line of it is in."""
    body = b"".join(b'{"$unique_id": "%d", "filler": "%s"}\n' % (n, b"x" * 100) for n in range(lines))
    create_bucket(s3_client(servers), "operations")
    client = s3_client(servers)
    client.put_object(Bucket="operations", Key="events.ndjson", Body=body)
    client.close()
    headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json", "X-Request-Id": REQUEST_ID}
    source = {"url": "s3://operations/events.ndjson", "accessKeyId": "AK", "secretAccessKey": CANARY}
    status, text = ask(
        f"{api}/api/imports?note={CANARY}", method="POST", headers=headers, body={"collection": "o", "source": source}
    )
    assert status == 201, text
    import_id = str(json.loads(text)["id"])

    def ended() -> dict[str, Any] | None:
        document = json.loads(ask(f"{api}/api/imports/{import_id}", headers=headers)[1])
        return document if document["finishedAt"] else None

    document = wait_until(ended, what="the import ends")
    assert (document["status"], document["counts"]["imported"]) == ("completed", lines)
    return import_id
