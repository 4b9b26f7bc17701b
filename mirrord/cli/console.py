"""console: the page in a browser, for as long as this runs."""

from __future__ import annotations

from dataclasses import replace

import click

from mirrord.cli.arguments import read_by
from mirrord.cli.asker import Asker
from mirrord.client import READ_ONLY_SOCKET, Client
from mirrord.errors import at_address

ADDRESS = "127.0.0.1:9818"

Address = tuple[str, int]


def _address(text: str) -> Address:
    """Host and port of "127.0.0.1:9818", "[::1]:9818", "localhost:0"; ValueError."""
    from mirrord.console.guard import is_loopback  # noqa: PLC0415 (see console)

    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"expected an address and a port such as {ADDRESS}, not {text!r}")
    if not is_loopback(host):
        raise ValueError(
            f"{host or 'every address'} can be reached from elsewhere, and the console is for this host alone;"
            f" from another one: ssh -L {port}:127.0.0.1:{port}"
        )
    return host, int(port)


def _asked(client: Client) -> str:
    """The socket that answers."""
    client.status()
    return client.path


@click.command()
@click.option(
    "--listen",
    metavar="ADDRESS:PORT",
    default=ADDRESS,
    show_default=True,
    callback=read_by(_address),
    help="Where the browser finds it: an address of the loopback. Port 0: any free one.",
)
@click.option("--no-browser", is_flag=True, help="Print the address alone, and open no browser.")
@click.option("--read-only", is_flag=True, help="Change nothing, and show no packets.")
@click.pass_obj
def console(ask: Asker, listen: Address, *, no_browser: bool, read_only: bool) -> None:
    """Look at mirrord and change what it mirrors in a browser, until Ctrl-C.

    The page is served by this process, to this host alone, and may do what you may. The address that is printed opens
    one window, once. `mirrorctl --cluster console` is of the whole cluster, by this host's agent.
    From another host: ssh -L 9818:127.0.0.1:9818 HOST mirrorctl console --no-browser
    """
    from mirrord.console import relay, window  # noqa: PLC0415 (takes longer to import than most commands to answer)

    if read_only and not ask.path and not ask.cluster:
        ask = replace(ask, path=READ_ONLY_SOCKET)
    path = ask.answer(_asked)
    try:
        asked = relay.Relay(path, read_only=read_only or path == READ_ONLY_SOCKET, cluster=ask.cluster)
        window.run(listen, asked, browser=not no_browser)
    except window.MissingError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{listen[0]} port {listen[1]}: {at_address(error)}") from error
