"""Flow networks: list, show, create, delete."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from mirrord.cli import complete
from mirrord.cli.arguments import check, given, read_by
from mirrord.cli.asker import Asker, say
from mirrord.cli.group import Group
from mirrord.cli.tables import origin, row, table
from mirrord.model import FlowNetwork
from mirrord.values import parse_name

network_argument = click.argument("network", shell_complete=complete.flow_networks)


@click.group("network", cls=Group)
def network() -> None:
    """Look at flow networks, create and delete them."""


@network.command("list")
@click.pass_obj
def list_(ask: Asker) -> None:
    """List the flow networks."""
    ask(lambda client: client.flow_networks(), _show)


@network.command()
@network_argument
@click.pass_obj
def show(ask: Asker, network: str) -> None:
    """Show a flow network."""
    ask(lambda client: client.flow_network(network), lambda answer, console: _show([answer], console))


@network.command()
@click.argument("network", callback=read_by(parse_name))
@click.option("--device", required=True, help="The device set aside for copies.")
@click.option(
    "--addresses", required=True, help="One address or a range to take a free one from: 192.0.2.10-192.0.2.20/24."
)
@click.option("--gateway", help="The way to collectors elsewhere.")
@click.pass_obj
def create(ask: Asker, network: str, device: str, addresses: str, gateway: str | None) -> None:
    """Create a flow network: a device, addresses and a gateway set aside for the copies of one mirror."""
    written = check(FlowNetwork, given(device=device, addresses=addresses, gateway=gateway))
    ask(lambda client: client.create_flow_network(network, written), say(f"{network}: created"))


@network.command()
@network_argument
@click.pass_obj
def delete(ask: Asker, network: str) -> None:
    """Delete a flow network that no mirror has."""
    ask.deleted(lambda client: client.delete_flow_network(network), network)


def _show(networks: Any, console: Console) -> None:
    shown = table("NETWORK", "DEVICE", "ADDRESSES", "GATEWAY", "ORIGIN")
    for each in networks:
        row(shown, each["name"], each["device"], each["addresses"], each["gateway"] or "", origin(each))
    console.print(shown)
