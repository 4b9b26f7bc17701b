"""The page's files, read once: what is not among them is not there, whatever a path says."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Mapping
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
FIRST = "/app.js"
MODULES = b"<!-- modules -->"
"""Where the page names the modules that it begins with, so that a browser asks for all of them at once."""
IMPORTS = re.compile(rb"\bfrom ?['\"](\.[^'\"]+)['\"]")


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
    there = sorted(path for path in directory.rglob("*") if path.suffix in TYPES)
    read = {f"/{path.relative_to(directory).as_posix()}": path.read_bytes() for path in there}
    links = "".join(f'<link rel="modulepreload" href="{name}">' for name in _needed(read))
    read["/index.html"] = read["/index.html"].replace(MODULES, links.encode())
    return {name: _file(name, data) for name, data in read.items()}


def _needed(files: Mapping[str, bytes]) -> list[str]:
    """The modules that the first one imports, by itself or through others."""
    found = [FIRST]
    for name in found:
        imported = [
            posixpath.normpath(posixpath.join(name, "..", one.decode())) for one in IMPORTS.findall(files[name])
        ]
        found += [one for one in dict.fromkeys(imported) if one not in found]
    return found


def _file(name: str, data: bytes) -> File:
    return File(data, TYPES[Path(name).suffix], f'"{hashlib.sha256(data).hexdigest()[:16]}"')


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
