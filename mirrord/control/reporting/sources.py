"""What could be mirrored: the host's devices, the guests behind them, and who mirrors them now. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypedDict

from mirrord.control.guests.inventory import Guest, GuestNic, Inventory
from mirrord.control.host.view import View
from mirrord.control.planning.plan import WITHOUT_ETHERNET
from mirrord.control.reporting.metrics import Row

NO_RATE = (0.0, 0.0)


class ShownGuest(TypedDict):
    """A NIC of a guest, and whose it is. `nic` is its index."""

    type: str
    name: str
    id: str
    nic_name: str
    mac: str
    manager: str
    runs: bool
    nic: int
    labels: dict[str, str]


class ShownSource(TypedDict):
    """A device, or with `device` "" a guest's NIC that has none here. Rates are both ways together."""

    device: str
    kind: str
    link: str
    state: str
    master: str
    guest: ShownGuest | None
    frames_per_second: float
    bits_per_second: float
    mirrored_by: list[str]


def sources(
    view: View, inventory: Inventory, rows: Iterable[Row], rates: Mapping[str, tuple[float, float]]
) -> list[ShownSource]:
    """Every device by name, then every NIC of a guest that has no device here."""
    users: dict[str, list[str]] = {}
    for row in rows:
        users.setdefault(row.entry.key.source, []).append(f"{row.entry.key.mirror}/{row.entry.key.session}")
    found: list[ShownSource] = [
        {
            "device": link.name,
            "kind": link.kind or ("loopback" if link.loopback else "nic"),
            "link": "ethernet" if link.ethernet else WITHOUT_ETHERNET if link.raw else "other",
            "state": "up" if link.up else "down",
            "master": view.by_index[link.master].name if link.master in view.by_index else "",
            "guest": None,
            "frames_per_second": round(rates.get(link.name, NO_RATE)[0], 1),
            "bits_per_second": round(rates.get(link.name, NO_RATE)[1], 1),
            "mirrored_by": users.get(link.name, []),
        }
        for link in sorted(view.links.values(), key=lambda one: one.name)
    ]
    by_device = {one["device"]: one for one in found}
    for place, answer in inventory.items():
        for guest in answer.guests:
            for index, nic in enumerate(guest.nics):
                told = ShownGuest(
                    type=place.kind,
                    name=guest.name,
                    id=guest.id,
                    nic_name=nic.name,
                    mac=nic.mac,
                    manager=place.address,
                    runs=guest.runs,
                    nic=index,
                    labels=dict(guest.labels),
                )
                if nic.device in by_device and not nic.netns:
                    by_device[nic.device]["guest"] = told
                else:
                    found.append(_without_device(told, _why(guest, nic)))
    return found


def _why(guest: Guest, nic: GuestNic) -> str:
    if nic.netns:
        return f"in the network namespace {nic.netns}"
    return nic.reason or ("" if guest.runs else "it does not run")


def _without_device(guest: ShownGuest, reason: str) -> ShownSource:
    return ShownSource(
        device="",
        kind=guest["type"],
        link="",
        state=reason or "no device here",
        master="",
        guest=guest,
        frames_per_second=0.0,
        bits_per_second=0.0,
        mirrored_by=[],
    )
