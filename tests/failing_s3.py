"""A proxy before a real S3 that makes single requests fail, or lets them take effect and loses the answer."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from enum import Enum
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_CODES = {403: "AccessDenied", 404: "NoSuchKey", 412: "PreconditionFailed", 503: "SlowDown"}
#: Of one hop, and what the proxy says itself.
_NOT_HANDED_ON = {"connection", "content-length", "date", "expect", "server", "transfer-encoding"}
_UPLOAD_ID = re.compile(rb"<UploadId>([^<]+)</UploadId>")


class Trouble(Enum):
    """What befalls a request, besides an HTTP status that it is refused with."""

    #: The connection ends in the middle of the request's body.
    CUT = "cut"
    #: It takes effect, and nobody hears of it.
    LOST = "lost"
    #: It takes effect, and the answer says that it did not.
    DENIED_LATE = "denied late"
    #: The connection ends in the middle of the answer's body.
    BROKEN = "broken"
    #: After half of its body the answer comes at 20 bytes a second, until the test lets it flow.
    DRIP = "drip"


class Request(NamedTuple):
    """A request on its way."""

    #: begin, part, complete, abort, uploads (their list), or the HTTP method of any other.
    kind: str
    key: str
    #: Of its kind, from 1.
    number: int


#: Says what befalls a request; None: nothing.
Rule = Callable[[Request], int | Trouble | None]


def no_trouble(_: Request) -> None:
    """Let every request through."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing: clients hang up as they like."""


class FailingS3:
    """Hands requests on to a server, but for those that its rule says otherwise of.

    ``lists_uploads``: it lists those that were begun itself, in front of a server that lists them to nobody.
    """

    def __init__(self, upstream: str, *, lists_uploads: bool = False) -> None:
        self.upstream = urlsplit(upstream)
        self.lists_uploads = lists_uploads
        #: Of uploads that were begun, and neither completed nor broken off: the path by the id.
        self.begun: dict[str, str] = {}
        self.rule: Rule = no_trouble
        #: What each request was signed with; None: it was not.
        self.signatures: list[str | None] = []
        #: What was refused, cut, lost, broken or slow.
        self.troubled: list[Request] = []
        #: Set by a test that lets dripping answers flow.
        self.flowing = threading.Event()
        self._numbers: dict[str, int] = {}
        self._counting = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _front_of(self))
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def calm(self) -> None:
        """Let everything through, and count from 1 again."""
        with self._counting:
            self.rule = no_trouble
            self.troubled.clear()
            self._numbers.clear()

    def judge(self, kind: str, key: str) -> int | Trouble | None:
        with self._counting:
            self._numbers[kind] = number = self._numbers.get(kind, 0) + 1
        request = Request(kind, key, number)
        trouble = self.rule(request)  # may wait
        if trouble is not None:
            self.troubled.append(request)
        return trouble

    def remember(self, kind: str, path: str, query: str, status: int, content: bytes) -> None:
        """Take down what an answer, whoever heard it, says about an upload."""
        found = _UPLOAD_ID.search(content)
        with self._counting:
            if kind == "begin" and status == 200 and found:
                self.begun[found[1].decode()] = unquote(path)
            elif kind in ("complete", "abort") and status in (200, 204, 404):
                self.begun.pop(parse_qs(query)["uploadId"][0], None)

    def list_uploads(self, path: str, query: str) -> bytes:
        """Return S3's list of the uploads that are begun in a bucket, of keys with a prefix."""
        below = f"{path.rstrip('/')}/{parse_qs(query).get('prefix', [''])[0]}"
        with self._counting:
            found = {upload: at.split("/", 2)[2] for upload, at in self.begun.items() if at.startswith(below)}
        listed = "".join(
            f"<Upload><Key>{escape(key)}</Key><UploadId>{upload}</UploadId></Upload>" for upload, key in found.items()
        )
        name = "ListMultipartUploadsResult"
        return f"<?xml version='1.0'?><{name}><IsTruncated>false</IsTruncated>{listed}</{name}>".encode()


def kind_of(method: str, query: str) -> str:
    """Return what a request of S3 is for."""
    names = parse_qs(query, keep_blank_values=True)
    if "uploadId" in names:
        return {"PUT": "part", "POST": "complete", "DELETE": "abort"}.get(method, method)
    if "uploads" in names:
        return {"POST": "begin", "GET": "uploads"}.get(method, method)
    return method


def _front_of(proxy: FailingS3) -> type[BaseHTTPRequestHandler]:  # noqa: C901  a class that knows its proxy
    class Front(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        #: With Nagle's algorithm each answer waits 40 ms for the client to say that it has the headers.
        disable_nagle_algorithm = True

        def do_any(self) -> None:
            path, _, query = self.path.partition("?")
            proxy.signatures.append(self.headers.get("Authorization"))
            kind = kind_of(self.command, query)
            trouble = proxy.judge(kind, path.split("/", 2)[-1])
            length = int(self.headers.get("Content-Length", "0"))
            body = self.rfile.read(length // 2 if trouble is Trouble.CUT else length)
            if trouble is Trouble.CUT:
                self.close_connection = True
            elif isinstance(trouble, int):
                self.refuse(trouble)
            elif kind == "uploads" and proxy.lists_uploads:
                self.answer(200, {"Content-Type": "application/xml"}, proxy.list_uploads(path, query))
            else:
                self.hand_on(body, trouble)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any  # noqa: N815

        def hand_on(self, body: bytes, trouble: Trouble | None) -> None:
            status, headers, content = self.ask(body)
            path, _, query = self.path.partition("?")
            proxy.remember(kind_of(self.command, query), path, query, status, content)
            if trouble is Trouble.LOST:
                self.close_connection = True
            elif trouble is Trouble.DENIED_LATE:
                self.refuse(500)
            else:
                self.answer(status, headers, content, trouble)

        def ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            connection = HTTPConnection(str(proxy.upstream.hostname), proxy.upstream.port or 80, timeout=30)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_HANDED_ON}
            try:
                connection.request(self.command, self.path, body=body, headers=headers)
                response = connection.getresponse()
                content = response.read()
                told = {name: value for name, value in response.getheaders() if name.lower() not in _NOT_HANDED_ON}
                if self.command == "HEAD":
                    told["Content-Length"] = response.getheader("Content-Length", "0")
                return response.status, told, content
            finally:
                connection.close()

        def refuse(self, status: int) -> None:
            text = f"<?xml version='1.0'?><Error><Code>{_CODES.get(status, 'InternalError')}</Code></Error>"
            self.answer(status, {"Content-Type": "application/xml"}, text.encode())

        def answer(self, status: int, headers: dict[str, str], content: bytes, trouble: Trouble | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD" or status == 204:
                return
            half = len(content) // 2 if trouble else len(content)
            self.wfile.write(content[:half])
            if trouble is Trouble.BROKEN:
                self.close_connection = True
            elif trouble is Trouble.DRIP:
                self.drip(content[half:])

        def drip(self, rest: bytes) -> None:
            while rest and not proxy.flowing.wait(0.05):
                self.wfile.write(rest[:1])
                rest = rest[1:]
            self.wfile.write(rest)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Front
