"""Requests of this wire, without a client of the vendor's, and the work that they make."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.stage import Stage
from workers.imports.plan import plan_import

#: Members of every error but those of the gateway.
ERROR = ["statusCode", "message", "errorType", "errorDetails"]


@dataclass(frozen=True)
class Asking:
    """A caller with a key."""

    client: FlaskClient
    stage: Stage
    key: str

    def __call__(self, method: str, path: str, body: Any = None, *, query: Any = None, **headers: str) -> TestResponse:
        """Send a request beneath ``/v1``, its body as JSON, or bytes as they are."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.client.open(
            f"/v1{path}",
            method=method,
            query_string=query,
            data=body if isinstance(body, bytes) or body is None else json.dumps(body).encode(),
            headers={"api-key": self.key, "Content-Type": "application/json", **given},
        )
        assert answer.headers["Cache-Control"] == "no-cache"
        return answer

    def told(self, method: str, path: str, body: Any = None, *, status: int = 200, **more: Any) -> Any:
        """Send a request and return the document of its answer, which has this status."""
        answer = self(method, path, body, **more)
        assert answer.status_code == status, answer.text
        assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
        return answer.get_json()

    def refused(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, str, str, dict[str, Any]]:
        """Send a request that is refused; return status, type, message and details."""
        answer = self(method, path, body, **more)
        document = answer.get_json()
        assert list(document) == ERROR, document
        assert document["statusCode"] == answer.status_code
        assert answer.headers["Content-Type"] == "application/json"
        return answer.status_code, document["errorType"], document["message"], document["errorDetails"]

    def faults(self, method: str, path: str, body: Any = None, **more: Any) -> dict[str, list[str]]:
        """Send a request whose form is refused, and return what is wrong by its fields."""
        *refusal, details = self.refused(method, path, body, **more)
        assert refusal == [400, "RequestValidation", "Request is invalid"]
        return details

    def wish(self, body: bytes | str, name: str = "table", **more: Any) -> dict[str, Any]:
        """Return a request for the import of an object: of this body, which is stored, or with this key."""
        path = body if isinstance(body, str) else f"nexosis/{uuid4().hex}"
        if isinstance(body, bytes):
            self.stage.s3.put_object(Bucket=self.stage.bucket, Key=path, Body=body)
        keys = {"accessKeyId": "AK", "secretAccessKey": "SK"}
        return {"dataSetName": name, "bucket": self.stage.bucket, "path": path, **keys, **more}

    def start(self, body: bytes | str, name: str = "table", **more: Any) -> dict[str, Any]:
        document: dict[str, Any] = self.told("POST", "/imports/s3", self.wish(body, name, **more))
        return document

    def run(self, body: bytes | str, name: str = "table", **more: Any) -> dict[str, Any]:
        """Import an object, every chunk in order, and return the import as it ended."""
        return self.finish(self.start(body, name, **more))

    def finish(self, document: dict[str, Any]) -> dict[str, Any]:
        import_id = UUID(document["importId"]).hex
        plan_import(self.stage.runtime, import_id)
        self.stage.load_all(import_id)
        return self.detail(document["importId"])

    def detail(self, import_id: str) -> dict[str, Any]:
        document: dict[str, Any] = self.told("GET", f"/imports/{import_id}")
        return document

    def rows(self, name: str = "table", **query: Any) -> list[dict[str, Any]]:
        """Return the first page of a dataset's rows."""
        found: list[dict[str, Any]] = self.told("GET", f"/data/{name}", query=query)["data"]
        return found
