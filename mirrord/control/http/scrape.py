"""The page `/metrics`."""

from __future__ import annotations

import asyncio
import gzip

from aiohttp import web
from prometheus_client import ProcessCollector

from mirrord.control.reporting.exposition import Family, accepted, compressed, render
from mirrord.control.reporting.metrics import Counts


def application(counts: Counts) -> web.Application:
    """The web application that serves `/metrics`, in OpenMetrics to who asks for it."""
    process = ProcessCollector(registry=None)

    async def scrape(request: web.Request) -> web.Response:
        content_type = accepted(",".join(request.headers.getall("Accept", [])))
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if compressed(",".join(request.headers.getall("Accept-Encoding", []))):
            headers["Content-Encoding"] = "gzip"

        def page() -> bytes:
            families = [*counts.collect(), *(Family.of(metric) for metric in process.collect())]
            body = render(families, content_type).encode()
            return gzip.compress(body, 1) if "Content-Encoding" in headers else body  # 1: lines that are much alike

        return web.Response(body=await asyncio.to_thread(page), headers=headers)

    app = web.Application()
    app.router.add_get("/metrics", scrape)
    return app
