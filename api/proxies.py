"""Behind a proxy: who asks, and by which name, as it says. From anybody else X-Forwarded-* is not looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING

from werkzeug.middleware.proxy_fix import ProxyFix

from api.web import HOST
from common.settings import matches, read_networks
from common.telemetry import get_logger

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = get_logger(__name__)


def _is_address(text: str) -> bool:
    try:
        return bool(ip_address(text))
    except ValueError:
        return False


#: What the last hop may have written. Anything else is left out, since werkzeug takes whatever stands there.
_FORMS: dict[str, Callable[[str], object]] = {
    "HTTP_X_FORWARDED_PROTO": matches("https?"),
    "HTTP_X_FORWARDED_HOST": HOST.fullmatch,
}


class BelievedProxies:
    """WSGI middleware: werkzeug's ProxyFix for requests that come from the proxies of the settings.

    Of X-Forwarded-For ProxyFix takes the n-th value from the right; how many proxies a request passed the values tell,
    so that it is handed the right one alone.
    """

    def __init__(self, app: WSGIApplication, proxies: str) -> None:
        """Take the app, and addresses or networks, comma-separated."""
        self._app = app
        self._fixed = ProxyFix(app, x_for=1, x_proto=1, x_host=1)
        self._networks = read_networks(proxies)
        self._told = False

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve the request."""
        peer = environ.get("REMOTE_ADDR", "")
        if not self._is_named(peer):
            if "HTTP_X_FORWARDED_FOR" in environ and not self._told:
                self._told = True
                # If it is a proxy, all callers behind it are one address, and share the count of its failures.
                log.warning("forwarded_for_not_believed", peer=peer, setting="PENSTOCK_PROXIES")
            return self._app(environ, start_response)
        if caller := self._caller(environ.pop("HTTP_X_FORWARDED_FOR", "")):
            environ["HTTP_X_FORWARDED_FOR"] = caller
        for name, form in _FORMS.items():
            # The last value is the proxy's own; those before it are the caller's, a quote that swallows it included.
            last = environ.pop(name, "").rpartition(",")[2].strip()
            if form(last):
                environ[name] = last
        return self._fixed(environ, start_response)

    def _caller(self, forwarded: str) -> str | None:
        """Return the caller's address: the last that is no named proxy's, since each hop appends whom it was asked by.

        What stands before it is the caller's own invention. Where a hop wrote no address, that hop is the caller.
        """
        caller = None
        for hop in map(str.strip, reversed(forwarded.split(","))):
            if not _is_address(hop):
                break
            caller = hop
            if not self._is_named(hop):
                break
        return caller

    def _is_named(self, peer: str) -> bool:
        if not self._networks or not _is_address(peer):
            return False
        address = ip_address(peer)
        # A socket for both families shows callers of the older one so: ::ffff:10.0.0.1.
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self._networks)
