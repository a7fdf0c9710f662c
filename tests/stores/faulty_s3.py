"""An S3 that answers as a test says: for conditions that no real server will produce on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    """One answer: headers follow from the body and the range, unless given."""

    status: int = 206
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    #: Bytes after which the connection is cut.
    cut_after: int | None = None


Script = Callable[[str, int, int], Answer]


@contextmanager
def serving(script: Script) -> Iterator[tuple[str, list[str]]]:
    """Serve ``script(method, first, last)``; give the endpoint and the list of requests seen."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            span = self.headers.get("Range", "bytes=0-0").removeprefix("bytes=").split("-")
            first, last = int(span[0]), int(span[1] or 0)
            seen.append(f"{self.command} {self.path} {first}-{last} {self.headers.get('If-Match')}")
            answer = script(self.command, first, last)
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(answer.body[: answer.cut_after])
            if answer.cut_after is not None:
                self.wfile.flush()
                self.close_connection = True

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self) -> None:
            seen.append(f"POST {self.path} body {self.rfile.read(int(self.headers['Content-Length'])).decode()}")
            answer = script(self.command, 0, 0)
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
