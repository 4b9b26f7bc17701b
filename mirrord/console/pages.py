"""The page's files, read once: what is not among them is not there, whatever a path says."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

PAGE = Path(__file__).parent / "page"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
FETCHED = "vendor/preact.js"


class MissingError(Exception):
    """What the page takes from others was not fetched."""


class File(NamedTuple):
    data: bytes
    kind: str
    tag: str


def read(directory: Path = PAGE) -> dict[str, File]:
    """Every file that a browser asks for, by its path in a URL. MissingError."""
    if not (directory / FETCHED).exists():
        raise MissingError(f"{directory / FETCHED} is not there: `make venv` fetches it")
    files = {}
    for path in sorted(directory.rglob("*")):
        if path.suffix in TYPES:
            data = path.read_bytes()
            tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
            files[f"/{path.relative_to(directory).as_posix()}"] = File(data, TYPES[path.suffix], tag)
    return files


class Pages:
    """Answers for the files; `/` is the page."""

    def __init__(self, files: dict[str, File]) -> None:
        self._files = {**files, "/": files["/index.html"]}

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """The file, or only that it is still the same."""
        file = self._files.get(request.path)
        if file is None:
            raise web.HTTPNotFound
        headers = {"ETag": file.tag, "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == file.tag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=file.data, headers={**headers, "Content-Type": file.kind})
