"""What a request of the control API says, read with care: its body, its conditions, its query."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from mirrord import periods
from mirrord.control.callers import Caller, peer
from mirrord.control.http.resource import Handler, queries
from mirrord.control.targets import Target
from mirrord.errors import MirrordError, nearest
from mirrord.strict_json import TooDeepError, parsed

MAX_BODY = 1 << 20  # bytes: a filter of 4,000 rules
MAX_ORIGIN = 16 << 20  # bytes: 10,000 sessions of a cluster
SHORT = 64 << 10  # bytes: what is read on the event loop, in a few milliseconds
BODY_SECONDS = 10.0
MAX_ROWS = 20_000  # more than the audit log holds
CHECKED = ("put", "patch", "delete", "enable", "disable")
"""Changes of an object of which it can be asked what would come of them."""
JSON = {"application/json", "application/merge-patch+json"}  # RFC 8259, RFC 7396

STATUS = {
    "bad_request": 400,
    "read_only": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "timeout": 408,
    "refused": 409,
    "in_use": 409,
    "exists": 412,
    "stale": 412,
    "too_large": 413,
    "unsupported_media_type": 415,
    "invalid_config": 422,
    "internal": 500,
    "host_error": 500,
    "no_resources": 503,
    "not_stored": 507,
}
"""By the code of an error, the status of its answer (RFC 9110, RFC 4918 for the last)."""


async def json_object(request: web.Request) -> dict[str, Any]:
    """The body. MirrordError when it is late, too large, or no JSON object. A body without a Content-Type is JSON."""
    if request.headers.get("Content-Type") and request.content_type not in JSON:
        message = f"expected Content-Type: application/json, not {request.content_type}"
        raise MirrordError("unsupported_media_type", message)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.read()
    except TimeoutError:
        raise MirrordError("timeout", f"the body did not come within {BODY_SECONDS:.0f} s") from None
    except web.HTTPRequestEntityTooLarge:
        raise MirrordError("too_large", f"the body has more than {request.client_max_size} bytes") from None
    except (ConnectionError, web.RequestPayloadError) as error:
        raise MirrordError("bad_request", f"the body did not come whole: {error}") from None
    return await asyncio.to_thread(_read, body) if len(body) > SHORT else _read(body)


def _read(body: bytes) -> dict[str, Any]:
    try:
        value = parsed(body.decode())
    except TooDeepError as error:
        raise MirrordError("bad_request", f"the body has {error}") from None
    except ValueError as error:
        raise MirrordError("bad_request", f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise MirrordError("bad_request", "the body is not a JSON object")
    return value


_TAGS = re.compile(r'\s*(\*|(?:W/)?"[\x21\x23-\x7e]*")\s*(?:,|$)')


def flag(request: web.Request, name: str) -> bool:
    """Whether the query says `name=true`."""
    text = request.query.get(name, "false")
    if text not in ("true", "false"):
        raise MirrordError("bad_request", f"{name}: expected true or false, not {text!r}")
    return text == "true"


def one_of(request: web.Request, name: str, words: Sequence[str]) -> str:
    """The word that the query says, the first of these if it says none."""
    text = request.query.get(name, words[0])
    if text not in words:
        raise MirrordError("bad_request", f"{name}: expected {', '.join(words[:-1])} or {words[-1]}, not {text!r}")
    return text


def tags(request: web.Request, header: str) -> tuple[str, ...]:
    """The entity tags of If-Match or If-None-Match (RFC 9110, 13.1); * is any. MirrordError: it holds none."""
    text = ",".join(request.headers.getall(header, ()))
    found = tuple(_TAGS.findall(text))
    if header in request.headers and (not found or _TAGS.sub("", text)):
        raise MirrordError("bad_request", f'{header}: expected entity tags such as "9f86d081", or *')
    return found


def since(text: str | None) -> float:
    """Seconds of the epoch, from that number or from a time of RFC 3339; without an offset it is in UTC."""
    if text is None:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        try:
            time = datetime.fromisoformat(text.replace(" ", "+"))  # a plus that nobody encoded
            seconds = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            seconds = math.nan
    if not math.isfinite(seconds):
        message = f"since: expected seconds or a time such as 2026-01-31T12:00:00Z, not {text!r}"
        raise MirrordError("bad_request", message)
    return seconds


def period(text: str | None, name: str) -> float | None:
    """Seconds, of "30s" or "5m"; None where it is not there."""
    if text is None:
        return None
    try:
        return periods.parse(text).total_seconds()
    except ValueError as error:
        raise MirrordError("bad_request", f"{name}: {error}") from None


def limit(text: str | None) -> int:
    """How many rows at most."""
    if text is None:
        return 1000
    if not re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) or not 1 <= int(text) <= MAX_ROWS:
        raise MirrordError("bad_request", f"limit: expected a number from 1 to {MAX_ROWS}, not {text!r}")
    return int(text)


@web.middleware
async def known(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses a query that says what nobody reads: a change with `dryrun=true` would be one."""
    resource = request.match_info.route.resource
    if resource is not None:
        names = queries(request.method, resource.canonical)
        for name in request.query:
            if name not in names:
                raise MirrordError("bad_request", f"{name}: unknown in the query{nearest(name, names)}")
    return await handler(request)


def caller_of(request: web.Request) -> Caller:
    """Who asks."""
    assert request.transport is not None  # it is there until the request is answered
    return peer(request.transport.get_extra_info("socket").fileno())


def target_of(request: web.Request, kind: str) -> Target:
    """The object of this kind that the path names."""
    mirror = request.match_info["mirror"] if kind == "session" else ""
    return Target(kind, request.match_info[kind], mirror)
