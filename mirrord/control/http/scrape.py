"""The page `/metrics`."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress

from aiohttp import web
from prometheus_client import ProcessCollector

from mirrord.control.http.answers import gathered, response
from mirrord.control.reporting.exposition import Family, accepted, compressed, render
from mirrord.control.reporting.metrics import Counts

GZIP = zlib.MAX_WBITS | 16  # zlib.h, deflateInit2: with a header and trailer of gzip


def application(counts: Counts) -> web.Application:
    """The web application that serves `/metrics`, in OpenMetrics where the client asks for it."""
    process = ProcessCollector(registry=None)

    def families() -> Iterator[Family]:
        yield from counts.collect()
        with suppress(OSError):  # no descriptor for a look into /proc
            yield from map(Family.of, process.collect())

    async def scrape(request: web.Request) -> web.StreamResponse:
        content_type = accepted(",".join(request.headers.getall("Accept", [])))
        headers = {"Vary": "Accept, Accept-Encoding"}
        parts: Iterator[bytes] = (part.encode() for part in render(families(), content_type))
        if compressed(",".join(request.headers.getall("Accept-Encoding", []))):
            parts, headers["Content-Encoding"] = _gzipped(parts), "gzip"
        return await response(gathered(parts), content_type, headers=headers)

    app = web.Application()
    app.router.add_get("/metrics", scrape)
    return app


def _gzipped(parts: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(1, zlib.DEFLATED, GZIP)  # 1: lines that are much alike
    yield from map(packer.compress, parts)
    yield packer.flush()
