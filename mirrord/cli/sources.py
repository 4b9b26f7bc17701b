"""What could be mirrored: devices, the guests behind them, and who mirrors them now."""

from __future__ import annotations

from typing import Any

import click

from mirrord.cli.asker import Asker
from mirrord.cli.screen import Screen
from mirrord.cli.tables import Table, scaled, whole, words
from mirrord.client import Client


@click.command()
@click.pass_obj
def sources(ask: Asker) -> None:
    """List what could be mirrored: devices, VMs and containers, their rates, and who mirrors them now."""

    def show(answer: Any, screen: Screen) -> None:
        shown = Table(
            [
                whole("DEVICE"),
                whole("KIND", 3),
                words("GUEST", 1),
                whole("STATE"),
                whole("FRAMES/S", 5),
                whole("BITS/S", 4),
                words("MIRRORED BY", 2),
            ]
        )
        for one in answer:
            rates = scaled(one["frames_per_second"]), scaled(one["bits_per_second"])
            shown.row(
                one["device"], _kind(one), _guest(one["guest"]), one["state"], *rates, ", ".join(one["mirrored_by"])
            )
        screen.table(shown)

    ask(Client.sources, show)


def _kind(one: Any) -> str:
    """The kind of device, and what its packets begin with where that is no Ethernet header."""
    return str(one["kind"]) if one["link"] in ("", "ethernet") else f"{one['kind']} ({one['link']})"


def _guest(guest: Any) -> str:
    if guest is None:
        return ""
    nic = guest["nic_name"] or f"nic {guest['nic']} {guest['mac']}"
    return f"{guest['type']} {guest['name']} {nic}"
