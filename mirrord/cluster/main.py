"""`mirrord-agent`: from the command line to a running agent; and what sets a cluster up.

Exit status: 0 after a clean stop, 1 when this host or the store does not let it run, 2 for a configuration or a command
line that is wrong.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import click
from aiohttp import web

from mirrord import __version__
from mirrord.cluster import records, rights, settings
from mirrord.cluster.agent import Agent
from mirrord.cluster.api import application
from mirrord.cluster.etcd import Etcd, absent, files_can_be_used, put
from mirrord.cluster.figures import families
from mirrord.cluster.keys import Keys
from mirrord.cluster.settings import Cluster, parse_host
from mirrord.control import command, limits, logs
from mirrord.control.http import activation
from mirrord.control.logs import logger
from mirrord.control.notify import notify
from mirrord.control.reporting.exposition import accepted, render
from mirrord.crowds import MAX_CONNECTIONS, open_for
from mirrord.errors import ConfigError, HostError, MirrordError, at_address, of_host
from mirrord.values.ports import Endpoint

log = logger("agent")

CLOSE_SECONDS = 0.5
MAX_SCRAPERS = 16

T = TypeVar("T")


@click.group(invoke_without_command=True)
@click.option(
    "-c",
    "--config",
    "path",
    metavar="FILE",
    default=settings.DEFAULT_PATH,
    show_default=True,
    help="The configuration.",
)
@click.option("--check", is_flag=True, help="Validate the configuration and exit.")
@command.log_format
@click.version_option(__version__, prog_name="mirrord-agent")
@click.pass_context
def main(context: click.Context, path: str, log_format: str, *, check: bool) -> None:
    """Have this host's mirrord do its part of a cluster. Without a command, run until told to stop."""
    try:
        loaded = settings.load(path)
    except ConfigError as error:
        command.refuse("mirrord-agent", error)
    context.obj = loaded
    if check:
        _or_exit(lambda: files_can_be_used(loaded.access))
        click.echo(f"{path}: the configuration is valid")
    elif context.invoked_subcommand is None:
        logs.configure(log_format)
        logs.level(loaded.log_level)
        limits.keep_little_memory()
        limits.look_for_garbage_seldom()
        limits.switch_often()
        # not by uvloop, as the daemon: that is 2 MB, for a process that is asked for little
        _or_exit(lambda: asyncio.run(run(loaded)))


@main.command()
@click.pass_obj
def init(loaded: Cluster) -> None:
    """Begin a cluster in a store that has none: once, on one host. One that is there stays as it is."""
    keys = Keys(loaded.prefix)

    async def begin(etcd: Etcd) -> str:
        made = {"id": str(uuid4()), "made": int(time.time())}
        operations = [put(keys.cluster, records.record(made)), put(keys.guard, records.guard(loaded.host))]
        if (await etcd.change([absent(keys.cluster)], operations)).succeeded:
            return f"cluster {made['id']} was made"
        found, _ = await etcd.get(keys.cluster)
        there = records.read(found.value, "config.cluster")[0].get("id", "") if found is not None else ""
        return f"the store has cluster {there} already: nothing was changed"

    click.echo(_asked(loaded, begin))


@main.command()
@click.option("--replace", is_flag=True, help="Forget the cluster that this host was in, and take the store's.")
@click.pass_obj
def join(loaded: Cluster, *, replace: bool) -> None:
    """See whether the store's cluster can be joined; the agent must not run.

    What the daemon runs of the cluster before goes when the agent has read the new one.
    """
    keys = Keys(loaded.prefix)

    async def look(etcd: Etcd) -> str:
        found, _ = await etcd.get(keys.cluster)
        return str(records.read(found.value, "config.cluster")[0].get("id", "")) if found is not None else ""

    there = _asked(loaded, look)
    if not there:
        raise click.ClickException("the store has no cluster: run `mirrord-agent init` once, on one host")
    file = Path(loaded.state)
    if replace and _answers(loaded.socket):
        raise click.ClickException(
            "the agent runs, and would keep what it knows: stop it first (systemctl stop mirrord-agent)"
        )
    if replace:
        file.unlink(missing_ok=True)
        click.echo(f"the agent takes cluster {there} when it starts: systemctl start mirrord-agent")
    else:
        known = "it knows a cluster already; --replace forgets that" if file.exists() else "it knows none yet"
        click.echo(f"the store has cluster {there}; of this host, {known}")


@main.command("rights")
@click.argument("hosts", nargs=-1, required=True)
@click.option("--admin", is_flag=True, help="At these hosts the cluster may be changed, too.")
@click.pass_obj
def rights_(loaded: Cluster, hosts: tuple[str, ...], *, admin: bool) -> None:
    """Print the commands of etcdctl that give hosts their users and roles: a host may write only what is its own.

    Each user is called as its host. Its password is made, too: HOST.password is what password_file names there. What is
    there already stays, and a password in the file becomes the user's.
    """
    for host in hosts:
        try:
            parse_host(host)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    click.echo("\n".join(rights.commands(Keys(loaded.prefix), hosts, admin=admin)))


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as one:
        return not one.connect_ex(path)


def _asked(loaded: Cluster, question: Callable[[Etcd], Awaitable[T]]) -> T:
    """What the store answers; exit 1 when it does not."""

    async def ask() -> T:
        etcd = Etcd(loaded.access)
        try:
            return await question(etcd)
        finally:
            await etcd.close()

    return _or_exit(lambda: asyncio.run(ask()))


def _or_exit(function: Callable[[], T]) -> T:
    try:
        return function()
    except (MirrordError, OSError) as error:
        told = error if isinstance(error, MirrordError) else of_host(error)
        click.echo(logs.with_priority("error", f"mirrord-agent: {told or error}"), err=True)
        sys.exit(1)


async def run(loaded: Cluster) -> None:
    """Run until SIGTERM or SIGINT. HostError when an address is taken, or the state file cannot be used."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    again = "agent.toml is read at the start only: to have it read, restart the agent; nothing that runs ends by that"
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, log.warning, again)
    agent = Agent(loaded)
    agent.remember()
    served: list[Served] = []
    listener = _listen(loaded)
    try:
        served.append(await _serve(application(agent), listener, MAX_CONNECTIONS))
        if loaded.metrics is not None:
            served.append(await _serve(_metrics(agent), _listen_metrics(loaded.metrics), MAX_SCRAPERS))
        log.info("started", version=__version__, host=loaded.host, endpoints=list(loaded.endpoints))
        notify("READY=1")
        task, told = asyncio.create_task(agent.run()), asyncio.create_task(stop.wait())
        await asyncio.wait((task, told), return_when=asyncio.FIRST_COMPLETED)
        notify("STOPPING=1")
        if not task.done():
            task.cancel()
        told.cancel()
        with suppress(asyncio.CancelledError):
            await task
    finally:
        for runner, server in served:
            server.close()
            await runner.cleanup()
        await asyncio.to_thread(Path(loaded.socket).unlink, missing_ok=True)
    log.info("stopped")


def _listen(loaded: Cluster) -> socket.socket:
    try:
        return activation.listen(Path(loaded.socket), loaded.socket_group)
    except OSError as error:
        raise HostError("no_address", f"{loaded.socket}: {error.strerror or error}", "cluster.socket") from error


def _listen_metrics(at: Endpoint) -> socket.socket:
    try:
        return socket.create_server(at, family=socket.AF_INET6 if ":" in at.host else socket.AF_INET)
    except OSError as error:
        why = f"{at.host} port {at.port}: {at_address(error)}"
        raise HostError("address_in_use", why, "cluster.metrics") from error


Served = tuple[web.AppRunner, asyncio.Server]


async def _serve(app: web.Application, listener: socket.socket, most: int) -> Served:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_SECONDS)
    await runner.setup()
    assert runner.server is not None  # set up above
    return runner, await open_for(runner.server, listener, most)


def _metrics(agent: Agent) -> web.Application:
    async def scrape(request: web.Request) -> web.StreamResponse:
        content_type = accepted(",".join(request.headers.getall("Accept", [])))
        text = "".join(render(families(agent), content_type))
        return web.Response(body=text.encode(), headers={"Content-Type": content_type, "Vary": "Accept"})

    app = web.Application()
    app.router.add_get("/metrics", scrape)
    return app


if __name__ == "__main__":
    main()
