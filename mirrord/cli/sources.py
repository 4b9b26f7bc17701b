"""What could be mirrored: devices, the guests behind them, and who mirrors them now."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from mirrord.cli.asker import Asker
from mirrord.cli.tables import row, scaled, table
from mirrord.client import Client


@click.command()
@click.pass_obj
def sources(ask: Asker) -> None:
    """List what could be mirrored: devices, VMs and containers, their rates, and who mirrors them now."""

    def show(answer: Any, console: Console) -> None:
        shown = table("DEVICE", "KIND", "GUEST", "STATE", "FRAMES/S", "BITS/S", "MIRRORED BY")
        for one in answer:
            rates = scaled(one["frames_per_second"]), scaled(one["bits_per_second"])
            row(shown, one["device"], one["kind"], _guest(one["guest"]), one["state"], *rates, *_users(one))
        console.print(shown)

    ask(Client.sources, show)


def _guest(guest: Any) -> str:
    if guest is None:
        return ""
    nic = guest["nic_name"] or f"nic {guest['nic']} {guest['mac']}"
    return f"{guest['type']} {guest['name']} {nic}"


def _users(source: Any) -> tuple[str]:
    return (", ".join(source["mirrored_by"]),)
