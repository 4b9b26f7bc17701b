"""One run of the console: the address, the browser's window, and the server until it is ended."""

from __future__ import annotations

import asyncio
import socket
import sys
import tempfile
import webbrowser
from html import escape
from pathlib import Path

from mirrord.console.pages import MissingError
from mirrord.console.relay import Relay
from mirrord.console.server import serve

__all__ = ["MissingError", "run"]


def run(address: tuple[str, int], relay: Relay, *, browser: bool) -> None:
    """Serve the page at this address, and with `browser` open it, until SIGINT or SIGTERM. OSError; MissingError."""
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener, tempfile.TemporaryDirectory() as private:
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listener.getsockname()[1]}/"

        def started(token: str) -> None:
            print(f"{url}#token={token}", flush=True)  # noqa: T201 (mirrorctl's)
            print("Ctrl-C ends it", file=sys.stderr, flush=True)  # noqa: T201
            if browser:
                webbrowser.open(_door(Path(private), f"{url}#token={token}").as_uri())

        asyncio.run(serve(listener, relay, started))


def _door(private: Path, address: str) -> Path:
    """A page that leads there, which only this user can read: a browser's command line is everybody's to see."""
    door = private / "mirrord.html"
    to = escape(address)
    door.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={to}"><a href="{to}">mirrord</a>\n')
    return door
