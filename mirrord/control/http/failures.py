"""How a request that failed is answered: as JSON, with a stable code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from mirrord.control.http.resource import Handler
from mirrord.control.logs import logger
from mirrord.errors import MirrordError, of_host

log = logger("api")


def told(statuses: Mapping[str, int]) -> Middleware:
    """Every error as JSON, with a stable code, by which it has its status."""

    @web.middleware
    async def errors(request: web.Request, handler: Handler) -> Any:
        try:
            return await handler(request)
        except MirrordError as error:
            return _error(statuses[error.code], error.code, error.message, error.path)
        except web.HTTPException as error:
            code = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(error.status, "bad_request")
            headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            return _error(error.status, code, f"{request.method} {request.path}: {error.reason}", "", headers)
        except Exception as error:
            host = of_host(error)
            if host is not None:
                log.error("cannot answer", method=request.method, path=request.path, reason=host.message)  # noqa: TRY400 (no bug)
                return _error(statuses[host.code], host.code, host.message, "")
            log.exception("a bug", method=request.method, path=request.path)
            return _error(statuses["internal"], "internal", "a bug in mirrord: its log tells more", "")

    return errors


def _error(
    status: int, code: str, message: str, path: str, headers: dict[str, str] | None = None
) -> web.StreamResponse:
    error = {"code": code, "message": message, "path": path}
    return web.json_response({"error": error}, status=status, headers=headers)
