"""aiohttp without the certificates that the host trusts: its client reads them all when it is imported, 1 MB and 20 to
80 ms of each start, and the daemon asks nobody by TLS with it.
"""

from __future__ import annotations

import ssl
from typing import Any


def import_aiohttp() -> None:
    """Import it, unless it is imported already. Its own context for TLS trusts nobody then."""
    whole = ssl.create_default_context
    ssl.create_default_context = _trusting_nobody
    try:
        import aiohttp  # noqa: F401, PLC0415 (for those who import it next)
    finally:
        ssl.create_default_context = whole


def _trusting_nobody(*_: Any, **__: Any) -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
