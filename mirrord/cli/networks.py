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
@click.option("--device", help="The device set aside for copies; not in a cluster.", shell_complete=complete.devices)
@click.option("--addresses", required=True, help=RANGE)
@click.option("--gateway", help="The way to collectors elsewhere.")
@click.option("--description", help="What it is for: one line.")
@click.option("--vnis", metavar="FIRST-LAST", help="In a cluster: the VNIs of sessions between hosts; 5000-5999.")
@changes
@click.pass_obj
def create(ask: Asker, /, network: str, **options: str | None) -> None:
    """Create a flow network: a device, addresses and a gateway set aside for the copies of one mirror."""
    written = _cluster_network(given(**options)) if ask.cluster else check("FlowNetwork", _of_a_host(given(**options)))
    ask.change(lambda client: client.create_flow_network(network, written), f"{network}: created")


def _of_a_host(written: dict[str, Any]) -> dict[str, Any]:
    if "device" not in written:
        raise click.UsageError("Missing option '--device'.")
    return written


def _cluster_network(written: dict[str, Any]) -> dict[str, Any]:
    """Bad usage, where a device is named: each host has its own."""
    if "device" in written:
        raise click.UsageError("--device: in a cluster each host has its own: `devices` in its agent.toml")
    return written


@network.command("set")
@network_argument
@click.option("--device", help="Another device set aside for copies.", shell_complete=complete.devices)
@click.option("--addresses", help=RANGE)
@click.option("--gateway", help='Another way to collectors elsewhere; "": none.')
@click.option("--description", help="A new description.")
@click.option("--vnis", metavar="FIRST-LAST", help="In a cluster: other VNIs of sessions between hosts.")
@changes
@click.pass_obj
def set_(ask: Asker, /, network: str, **options: str | None) -> None:
    """Change a flow network. The sessions of its mirror begin anew, unless only the description changes."""
    changed: dict[str, Any] = given(**options)
    if not changed:
        raise click.UsageError("nothing to set: give --device, --addresses, --gateway, --description or --vnis")
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
            whole("VNIS" if any("vnis" in one for one in networks) else "DEVICE"),
            words("ADDRESSES"),
            whole("GATEWAY", 2),
            name_column("ORIGIN", 1),
            words("DESCRIPTION", 3),
        ]
    )
    for each in networks:
        gateway = each["gateway"] or ""
        shown.row(
            each["name"],
            each.get("device") or each.get("vnis", ""),
            each["addresses"],
            gateway,
            origin(each),
            each["description"],
        )
    screen.table(shown)
