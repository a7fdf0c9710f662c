"""Requests of this wire, without an SDK, and the work that they make."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.pinpoint import parse
from tests.stage import Stage
from workers.exports.write import write_export
from workers.imports.plan import plan_import

ROLE = "arn:aws:iam::123456789012:role/pinpoint-import"


@dataclass(frozen=True)
class Asking:
    """A caller with a bearer key."""

    client: FlaskClient
    stage: Stage
    key: str

    @property
    def app(self) -> str:
        return self.stage.caller.project_id

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> TestResponse:
        """Send a request beneath the application, its body as JSON, or bytes as they are."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.client.open(
            f"/v1/apps/{self.app}{path}",
            method=method,
            data=body if isinstance(body, bytes) or body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.key}", "Content-Type": "application/json", **given},
        )
        assert answer.headers["x-amzn-RequestId"], "an answer without an id"
        return answer

    def told(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        """Send a request and return the document of its answer, which has this status."""
        answer = self(method, path, body)
        assert answer.status_code == status, answer.text
        return answer.get_json()

    def refused(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str, str]:
        """Send a request that is refused; return status, name of the error, and message."""
        answer = self(method, path, body, **headers)
        document = answer.get_json()
        assert set(document) == {"RequestID", "Message"}, document
        assert document["RequestID"] == answer.headers["x-amzn-RequestId"]
        return answer.status_code, answer.headers["x-amzn-ErrorType"], document["Message"]

    def put(self, key: str, body: bytes) -> str:
        """Store an object, and return its address."""
        self.stage.s3.put_object(Bucket=self.stage.bucket, Key=key, Body=body)
        return f"s3://{self.stage.bucket}/{key}"

    def start(self, url: str, kind: str = "JSON", **more: Any) -> dict[str, Any]:
        asked = {"S3Url": url, "RoleArn": ROLE, "Format": kind, "RegisterEndpoints": True, **more}
        document: dict[str, Any] = self.told("POST", "/jobs/import", asked, status=201)
        return document

    def run(self, body: bytes, kind: str = "JSON", **more: Any) -> dict[str, Any]:
        """Import an object, every chunk in order, and return the job as it ended."""
        url = self.put(f"endpoints/{self.app}/{len(self.stage.sent.plans)}", body)
        return self.finish(self.start(url, kind, **more)["Id"])

    def finish(self, job_id: str) -> dict[str, Any]:
        plan_import(self.stage.runtime, job_id)
        self.stage.load_all(job_id)
        return self.job(job_id)

    def job(self, job_id: str) -> dict[str, Any]:
        document: dict[str, Any] = self.told("GET", f"/jobs/import/{job_id}")
        return document

    def export(self, prefix: str, **more: Any) -> dict[str, Any]:
        """Export beneath a prefix of the stage's bucket, and return the job as it ended."""
        asked = {"S3UrlPrefix": f"s3://{self.stage.bucket}/{prefix}", "RoleArn": ROLE, **more}
        job_id = self.told("POST", "/jobs/export", asked, status=202)["Id"]
        write_export(self.stage.runtime, job_id)
        document: dict[str, Any] = self.told("GET", f"/jobs/export/{job_id}")
        return document

    def endpoint(self, endpoint_id: str) -> dict[str, Any]:
        document: dict[str, Any] = self.told("GET", f"/endpoints/{quote(endpoint_id, safe='')}")
        return document

    def stored(self) -> list[bytes]:
        return [row.payload for row in self.stage.rows(parse.COLLECTION)]
