"""Flow networks: list, show, create, set, delete."""

from __future__ import annotations

from typing import Any

import click

from mirrord.cli import complete
from mirrord.cli.arguments import check, given, name, read_by
from mirrord.cli.asker import Asker
from mirrord.cli.group import Group, changes
from mirrord.cli.screen import Screen
from mirrord.cli.tables import Table, origin, whole, words
from mirrord.cli.tables import name as name_column

network_argument = click.argument("network", shell_complete=complete.flow_networks)
RANGE = "One address or a range to take a free one from: 192.0.2.10-192.0.2.20/24."


@click.group("network", cls=Group)
def network() -> None:
    """Look at flow networks, create, change and delete them."""


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
    ask(lambda client: client.flow_network(network), lambda answer, screen: _show([answer], screen))


@network.command()
@click.argument("network", callback=read_by(name))
@click.option("--device", required=True, help="The device set aside for copies.", shell_complete=complete.devices)
@click.option("--addresses", required=True, help=RANGE)
@click.option("--gateway", help="The way to collectors elsewhere.")
@click.option("--description", help="What it is for: one line.")
@changes
@click.pass_obj
def create(ask: Asker, /, network: str, **options: str | None) -> None:
    """Create a flow network: a device, addresses and a gateway set aside for the copies of one mirror."""
    written = check("FlowNetwork", given(**options))
    ask.change(lambda client: client.create_flow_network(network, written), f"{network}: created")


@network.command("set")
@network_argument
@click.option("--device", help="Another device set aside for copies.", shell_complete=complete.devices)
@click.option("--addresses", help=RANGE)
@click.option("--gateway", help='Another way to collectors elsewhere; "": none.')
@click.option("--description", help="A new description.")
@changes
@click.pass_obj
def set_(ask: Asker, /, network: str, **options: str | None) -> None:
    """Change a flow network. The sessions of its mirror begin anew, unless only the description changes."""
    changed: dict[str, Any] = given(**options)
    if not changed:
        raise click.UsageError("nothing to set: give --device, --addresses, --gateway or --description")
    if changed.get("gateway") == "":
        changed["gateway"] = None  # RFC 7396: as by default
    ask.change(lambda client: client.change_flow_network(network, changed), f"{network}: set")


@network.command()
@network_argument
@changes
@click.pass_obj
def delete(ask: Asker, network: str) -> None:
    """Delete a flow network that no mirror has."""
    ask.deleted(lambda client: client.delete_flow_network(network), network)


def _show(networks: Any, screen: Screen) -> None:
    shown = Table(
        [
            name_column("NETWORK"),
            whole("DEVICE"),
            words("ADDRESSES"),
            whole("GATEWAY", 2),
            name_column("ORIGIN", 1),
            words("DESCRIPTION", 3),
        ]
    )
    for each in networks:
        gateway = each["gateway"] or ""
        shown.row(each["name"], each["device"], each["addresses"], gateway, origin(each), each["description"])
    screen.table(shown)
