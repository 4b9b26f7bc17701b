"""Who may ask the console's server. It listens on the loopback alone, but any page in any local browser can send there.

- The Host header is a name of the loopback: a foreign name that resolves to 127.0.0.1 (DNS rebinding) is refused.
- A question that a page asks comes from this page: by Origin, and by Sec-Fetch-Site where the browser sends it.
- Whatever tells or changes something takes a key in the header Authorization. No cookie: a browser would send it to
  every other server on this host, too. A key is given for a token, good for once; who starts the console is told one.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

SCHEME = "Bearer "  # RFC 6750, section 2.1
MAX_KEYS = 64

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def is_loopback(name: str) -> bool:
    """Whether a host's name or address is this host and never leaves it."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() == "localhost"


class Guard:
    """Gives out tokens and keys, and refuses what has none."""

    def __init__(self) -> None:
        self._tokens: list[str] = []
        self._keys: list[str] = []

    def token(self) -> str:
        """A new one, good for one key. Of many that nobody used the oldest is forgotten."""
        self._tokens = [*self._tokens[-MAX_KEYS + 1 :], secrets.token_urlsafe(32)]
        return self._tokens[-1]

    def trade(self, token: str) -> str | None:
        """The key for a token, which is used up; None where it is none, or was used before."""
        found = next((one for one in self._tokens if secrets.compare_digest(one.encode(), token.encode())), None)
        if found is None:
            return None
        self._tokens.remove(found)
        self._keys = [*self._keys[-MAX_KEYS + 1 :], secrets.token_urlsafe(32)]
        return self._keys[-1]

    def knows(self, header: str) -> bool:
        """Whether the header Authorization has a key that was given out."""
        scheme, key = header[: len(SCHEME)], header[len(SCHEME) :]
        known = [secrets.compare_digest(one.encode(), key.encode()) for one in self._keys]  # all, in equal time
        return scheme == SCHEME and any(known)

    @web.middleware
    async def let_through(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse, or let through; either way with the headers that keep the page to itself."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        try:
            return await handler(request)
        except web.HTTPException as error:
            return refuse(error.status, "not_found" if error.status == 404 else "bad_request", error.reason)

    def _refusal(self, request: web.Request) -> web.Response | None:
        host = request.headers.get("Host", "")
        if not is_loopback(_name(host)):
            return refuse(421, "wrong_host", f"Host: {host}: this server is for names of the loopback alone")
        origin = request.headers.get("Origin")
        if origin is not None and origin != f"http://{host}":
            return refuse(403, "wrong_origin", f"Origin: {origin}: another site's page may not ask here")
        if not request.path.startswith(("/v1/", "/console/")):
            return None  # the page itself, which tells nothing
        if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":  # W3C Fetch Metadata, section 2.3
            return refuse(403, "wrong_origin", "Sec-Fetch-Site: another site's page may not ask here")
        if request.path == "/console/key" or self.knows(request.headers.get("Authorization", "")):
            return None
        return refuse(401, "no_key", "this takes a key: open the address that `mirrorctl console` prints")


def _name(host: str) -> str:
    """A Host header without its port (RFC 9110, section 7.2); "" where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def refuse(status: int, code: str, message: str) -> web.Response:
    """An error as the API tells its own."""
    return web.json_response({"error": {"code": code, "message": message, "path": ""}}, status=status)


async def protect(_: web.Request, response: web.StreamResponse) -> None:
    """Set the headers of every answer; a signal of aiohttp's, so that none goes without."""
    for name, value in HEADERS.items():
        response.headers[name] = value
    response.headers.setdefault("Cache-Control", "no-store")
