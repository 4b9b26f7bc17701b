"""`mirrord`: from the command line to a running service, and down again.

Exit status: 0 after a clean stop, 1 when this host does not let it run, 2 for a configuration or a command line that is
wrong. What went wrong is one line on stderr, or one for each problem of a configuration.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import uvloop

from mirrord import __version__
from mirrord.control import command, limits, logs
from mirrord.control.callers import myself
from mirrord.control.changes import Changes
from mirrord.control.configuration import config
from mirrord.control.host.links import Links
from mirrord.control.http.sockets import Addresses
from mirrord.control.logs import logger
from mirrord.control.net import Net
from mirrord.control.notify import notify
from mirrord.control.origins import Origins, lend, of_store
from mirrord.control.privileges import Privileges
from mirrord.control.running.pipelines import Pipelines
from mirrord.control.running.time_keeper import keep_time
from mirrord.control.service import Service
from mirrord.control.store import LOOK_SECONDS, Store
from mirrord.dataplane import native
from mirrord.dataplane.budget import Budget
from mirrord.dataplane.memory import Memory
from mirrord.errors import ConfigError, HostError, MirrordError, of_host

if TYPE_CHECKING:
    from mirrord.control.http.server import Server

log = logger("daemon")

# linux/capability.h; the first is for SO_MARK and promiscuity, the second for AF_PACKET
CAPABILITIES = {12: "CAP_NET_ADMIN", 13: "CAP_NET_RAW"}
THREADS = 6
"""For what blocks: to apply a plan, to keep a change, to look at the host."""


@click.command()
@click.option(
    "-c", "--config", "path", metavar="FILE", default=config.DEFAULT_PATH, show_default=True, help="The configuration."
)
@click.option("--check", is_flag=True, help="Validate the configuration and exit.")
@command.log_format
@click.version_option(__version__, prog_name="mirrord")
def main(path: str, log_format: str, *, check: bool) -> None:
    """Copy the traffic of network interfaces to where it can be looked at."""
    try:
        loaded = config.load(path)
    except ConfigError as error:
        command.refuse("mirrord", error)
    if check:
        for warning in loaded.warnings:
            click.echo(f"mirrord: warning: {warning}", err=True)
        click.echo(f"{path}: the configuration is valid")
        return
    logs.configure(log_format)
    logs.level(loaded.config.daemon.log_level)
    try:
        require_capabilities()
        limits.keep_little_memory()
        limits.raise_descriptors()
        limits.require_nice(loaded.config.daemon.nice)
        dataplane = choose_dataplane(loaded.config.daemon.dataplane)
        limits.switch_often()
        limits.look_for_garbage_seldom()
        uvloop.run(run(path, loaded, dataplane))
    except (HostError, OSError, RuntimeError) as error:
        host = error if isinstance(error, HostError) else of_host(error)
        if host is None:
            raise
        click.echo(logs.with_priority("error", f"mirrord: {host}"), err=True)
        sys.exit(host.exit_status)


def require_capabilities() -> None:
    """HostError when the process lacks a capability that it needs, by name (capabilities(7))."""
    status = Path("/proc/self/status").read_text()
    effective = int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)
    missing = [name for bit, name in CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        message = f"no privilege: needs {' and '.join(missing)}; run it as root or by its systemd unit"
        raise HostError("no_privilege", message)


def choose_dataplane(wanted: str) -> str:
    """`native` or `python`; the log says where it is the slow one. HostError when native is demanded and not there."""
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
    stop, early = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, early.set)  # else it would end what is not running yet
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    store, addresses, privileges = Store(loaded.config.daemon.state), Addresses(), Privileges()
    try:
        loaded = remember(loaded, store)
        wanted = of_store(store)
        loaded = lend(loaded, wanted)
        addresses.take(loaded.config.daemon)
        privileges.settle(path, loaded)  # there is one thread so far: all others have what it keeps
        loop.set_default_executor(limits.started(THREADS, "control"))
        told = loaded.config.daemon
        pipelines = Pipelines(
            native=dataplane == "native",
            nice=told.nice,
            latency=told.latency / 1e9,
            memory=Memory(told.memory_limit),
            budget=Budget(told.cpu_limit / 100),
        )
        service = Service(path, loaded, Links(), pipelines, dataplane, privileges)
        origins = Origins(service, store, wanted)
        service.with_lent = origins.anew
        await run_service(service, Changes(service, store), origins, addresses, stop, early)
    finally:
        addresses.close()
        store.close()
    log.info("stopped")


async def run_service(
    service: Service,
    changes: Changes,
    origins: Origins,
    addresses: Addresses,
    stop: asyncio.Event,
    early: asyncio.Event,
) -> None:
    """Mirror and answer until told to stop, then end what runs."""
    server: Server | None = None
    try:
        await service.start()
        server = await open_server(service, changes, origins, addresses)
        await serve(service, changes, stop, early)
    finally:
        notify("STOPPING=1")
        # together: a live capture that nobody reads any more holds up its connection for a second
        await asyncio.gather(service.stop(), *([server.close()] if server is not None else []))


async def open_server(service: Service, changes: Changes, origins: Origins, addresses: Addresses) -> Server:
    """Answer clients, now that the sessions run: the server takes as long to import as all the rest."""
    from mirrord.control.http.server import Server  # noqa: PLC0415 (see above)

    server = Server(service, changes, origins)
    await server.open(addresses)
    return server


def remember(loaded: config.Loaded, store: Store) -> config.Loaded:
    """The configuration with what was made at run time, as far as that still goes with the files."""
    objects = (one for one in store.objects() if one[0] in config.SECTIONS)
    made = [config.SetAside(section, name, written, "") for section, name, written in objects]
    if not made:
        return loaded
    everything = {
        section: {one.name: one.written for one in made if one.section == section} for section in config.SECTIONS
    }
    try:
        return config.combine(loaded.files, everything)
    except ConfigError:
        return config.restore(loaded.files, config.NOTHING, made)


async def serve(service: Service, changes: Changes, stop: asyncio.Event, early: asyncio.Event) -> None:
    """Keep the service going until told to stop; what ends it otherwise is raised. `early`: reload at once."""
    reloads: set[asyncio.Task[None]] = set()

    def hang_up() -> None:
        task = asyncio.create_task(reload(changes))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
    if early.is_set():
        hang_up()
    log.info("started", version=__version__, dataplane=service.dataplane, path=service.path, pid=os.getpid())
    notify("READY=1")
    gc.freeze()  # what the start made stays: a full collection would look at it again, with 500 sessions for 50 ms
    told = asyncio.create_task(stop.wait())
    tasks = [
        told,
        *map(
            asyncio.create_task, (service.follow(), service.tick(), watch(changes.store), keep_time(service, changes))
        ),
    ]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in (*tasks, *reloads):
        task.cancel()
    for task in done:
        task.result()


async def watch(store: Store) -> None:
    """See from time to time that the state database is still there."""
    looks = Net("cannot look at the state database: tried again")
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        with looks:
            await asyncio.to_thread(store.look)


async def reload(changes: Changes) -> None:
    """Reload on a signal: what is wrong has been logged, and the old configuration runs on."""
    try:
        await changes.reload(myself())
    except MirrordError:
        log.warning("the old configuration stays")
    except Exception:
        log.exception("a bug: the old configuration stays")


if __name__ == "__main__":
    main()
