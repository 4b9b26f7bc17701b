"""`mirrord`: from the command line to a running service, and down again.

Exit status: 0 after a clean stop, 1 when this host does not let it run, 2 for a configuration or a command line that is
wrong. What went wrong is one line on stderr, or one for each problem of a configuration.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
from pathlib import Path

import click
import structlog
import uvloop
from aiohttp import web

from mirrord import __version__
from mirrord.control import api, config, limits, logs, metrics
from mirrord.control.links import Links
from mirrord.control.notify import notify
from mirrord.control.pipelines import Pipelines
from mirrord.control.service import Service
from mirrord.dataplane import native
from mirrord.errors import ConfigError, HostError
from mirrord.model import Daemon

log = structlog.get_logger(subsystem="daemon")

# linux/capability.h; the first is for SO_MARK and promiscuity, the second for AF_PACKET
CAPABILITIES = {12: "CAP_NET_ADMIN", 13: "CAP_NET_RAW"}
CLOSE_SECONDS = 1.0  # how long an open connection may hold up the end


@click.command()
@click.option("-c", "--config", "path", default=config.DEFAULT_PATH, show_default=True)
@click.option("--check", is_flag=True, help="Validate the configuration and exit.")
@click.option("--log-format", type=click.Choice(["console", "json"]), default="console", show_default=True)
@click.version_option(__version__, prog_name="mirrord")
def main(path: str, log_format: str, *, check: bool) -> None:
    """Copy the traffic of network interfaces to where it can be looked at."""
    try:
        loaded = config.load(path)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"mirrord: {problem}", err=True)
        sys.exit(error.exit_status)
    if check:
        for warning in loaded.warnings:
            click.echo(f"mirrord: warning: {warning}", err=True)
        click.echo(f"{path}: the configuration is valid")
        return
    logs.configure(log_format)
    logs.level(loaded.config.daemon.log_level)
    try:
        require_capabilities()
        limits.raise_descriptors()
        limits.require_nice(loaded.config.daemon.nice)
        dataplane = choose_dataplane(loaded.config.daemon.dataplane)
        uvloop.run(run(path, loaded, dataplane))
    except HostError as error:
        click.echo(f"mirrord: {error}", err=True)
        sys.exit(error.exit_status)


def require_capabilities() -> None:
    """HostError when the process lacks a capability that it needs, by name (capabilities(7))."""
    status = Path("/proc/self/status").read_text()
    effective = int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)
    missing = [name for bit, name in CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        message = f"no privilege: needs {' and '.join(missing)}; run it as root or by its systemd unit"
        raise HostError("no_privilege", message)


def choose_dataplane(wanted: str) -> str:
    """`native` or `python`; never the slow one unsaid. HostError when native is demanded and not there."""
    if wanted == "python":
        return wanted
    if not native.missing:
        return "native"
    if wanted == "native":
        message = f"the native data plane is not available: {native.missing}"
        raise HostError("no_native_dataplane", message, "daemon.dataplane")
    log.warning("the native data plane is not available, the much slower python one runs", reason=native.missing)
    return "python"


async def run(path: str, loaded: config.Loaded, dataplane: str) -> None:
    """Run until SIGTERM or SIGINT. HostError when an address is taken."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    pipelines = Pipelines(native=dataplane == "native", nice=loaded.config.daemon.nice)
    service = Service(path, loaded, Links(), pipelines, dataplane)
    doors = Doors(service)
    try:
        await doors.open(loaded.config.daemon)
        await service.start()
        await serve(service, stop)
    finally:
        notify("STOPPING=1")
        await service.stop()
        await doors.close()
    log.info("stopped")


async def serve(service: Service, stop: asyncio.Event) -> None:
    """Keep the service going until told to stop; what ends it otherwise is raised."""
    reloads: set[asyncio.Task[None]] = set()

    def hang_up() -> None:
        task = asyncio.create_task(reload(service))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
    log.info("started", version=__version__, dataplane=service.dataplane, path=service.path, pid=os.getpid())
    notify("READY=1")
    told = asyncio.create_task(stop.wait())
    tasks = [told, asyncio.create_task(service.follow()), asyncio.create_task(service.tick())]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in (*tasks, *reloads):
        task.cancel()
    for task in done:
        task.result()


async def reload(service: Service) -> None:
    """Reload on a signal: every problem has been logged, and the old configuration runs on."""
    try:
        await service.reload()
    except ConfigError:
        log.warning("the old configuration stays", path=service.path)


class Doors:
    """The control API's socket and the metrics' port."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._api = web.AppRunner(api.application(service), access_log=None, shutdown_timeout=CLOSE_SECONDS)
        counts = metrics.Counts(service.rows, service.last_reload, service.dataplane)
        self._metrics = web.AppRunner(metrics.application(counts), access_log=None, shutdown_timeout=CLOSE_SECONDS)
        self._server: asyncio.Server | None = None
        self._path: Path | None = None

    async def open(self, daemon: Daemon) -> None:
        """Listen on both. HostError when an address is taken or not to be had."""
        await self._api.setup()
        await self._metrics.setup()
        try:
            listener = api.listen(Path(daemon.socket), daemon.socket_group)
        except OSError as error:
            raise taken("daemon.socket", daemon.socket, error, "another mirrord listens there") from error
        self._path = Path(daemon.socket)
        assert self._api.server is not None  # set up above
        self._server = await asyncio.get_running_loop().create_unix_server(self._api.server, sock=listener)
        if daemon.metrics:
            host, port = daemon.metrics
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            try:
                tcp = socket.create_server((host, port), family=family)
            except OSError as error:
                raise taken("daemon.metrics", f"{host} port {port}", error, "the port is in use") from error
            await web.SockSite(self._metrics, tcp).start()

    async def close(self) -> None:
        """Stop listening, let what is being answered finish, and take the socket away."""
        if self._server is not None:
            self._server.close()
        await self._api.cleanup()
        await self._metrics.cleanup()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def taken(path: str, address: object, error: OSError, text: str) -> HostError:
    """Why the address cannot be had; `text` when another has it."""
    if error.errno == errno.EADDRINUSE:
        return HostError("address_in_use", f"{address}: {text}", path)
    return HostError("no_address", f"{address}: {error.strerror or error}", path)


if __name__ == "__main__":
    main()
