"""An S3 of a few lines that a test can make fail: the answers are as Amazon documents them."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

#: What a test wants done instead: an HTTP status, "break" (half of the body, then the end), "drip" (after half of the
#: body 20 bytes a second, until the test lets it flow), or None for the object.
Trouble = Callable[[str, int], int | str | None]

_CODES = {403: "AccessDenied", 404: "NoSuchKey", 412: "PreconditionFailed", 503: "SlowDown"}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing: a reader that has enough hangs up, as it may."""


class StubS3:
    """Serves GET (by range) and HEAD of objects that a test puts; obeys If-Match."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._changing = threading.Lock()
        #: Asked for each request with its method and number; a test sets it.
        self.trouble: Trouble = no_trouble
        self.requests = 0
        #: Answers other than the object asked for.
        self.refused = 0
        #: Set by a test that lets dripping bodies flow.
        self.flowing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def put(self, path: str, content: bytes) -> None:
        """Store or replace ``bucket/key``."""
        with self._changing:
            self._objects[path] = content

    def read(self, path: str) -> bytes | None:
        with self._changing:
            return self._objects.get(path)

    def next_trouble(self, method: str) -> int | str | None:
        with self._changing:
            self.requests += 1
            wanted = self.trouble(method, self.requests)
            self.refused += wanted is not None
            return wanted


def no_trouble(method: str, number: int) -> None:
    """Let every request through."""


def _handler(stub: StubS3) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        pass

    Handler.stub = stub
    return Handler


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: StubS3

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self.stub.put(self.path.lstrip("/"), self.rfile.read(int(self.headers["Content-Length"])))
        self._send(200, {}, b"")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        trouble = self.stub.next_trouble(self.command)
        content = self.stub.read(self.path.lstrip("/"))
        etag = f'"{hashlib.md5(content or b"").hexdigest()}"'
        if isinstance(trouble, int):
            self._refuse(trouble)
        elif content is None:
            self._refuse(404)
        elif self.headers.get("If-Match", etag) != etag:
            self._refuse(412)
        else:
            self._serve(content, etag, trouble)

    def _serve(self, content: bytes, etag: str, trouble: str | None) -> None:
        headers = {"ETag": etag, "Accept-Ranges": "bytes"}
        status, body = 200, content
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            start, stop = int(asked[1]), min(int(asked[2]) + 1, len(content))
            status, body = 206, content[start:stop]
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        self._send(status, headers, body, trouble)

    def _refuse(self, status: int) -> None:
        code = _CODES.get(status, "InternalError")
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>No.</Message></Error>".encode()
        self._send(status, {"Content-Type": "application/xml"}, body)

    def _send(self, status: int, headers: dict[str, str], body: bytes, trouble: str | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        half = len(body) // 2 if trouble else len(body)
        if self.command == "GET":
            self.wfile.write(body[:half])
            if trouble == "drip":
                self._drip(body[half:])
        self.close_connection = self.close_connection or trouble == "break"

    def _drip(self, rest: bytes) -> None:
        while rest and not self.stub.flowing.wait(0.05):
            self.wfile.write(rest[:1])
            rest = rest[1:]
        self.wfile.write(rest)
