"""What could be mirrored: the host's devices, the guests behind them, and who mirrors them now. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mirrord.control.guests.inventory import Guest, GuestNic, Inventory
from mirrord.control.host.view import View
from mirrord.control.planning.plan import WITHOUT_ETHERNET
from mirrord.control.reporting.metrics import Row

NO_RATE = (0.0, 0.0)


def sources(
    view: View, inventory: Inventory, rows: Iterable[Row], rates: Mapping[str, tuple[float, float]]
) -> list[dict[str, Any]]:
    """Every device by name, then every NIC of a guest that has no device here."""
    users: dict[str, list[str]] = {}
    for row in rows:
        users.setdefault(row.entry.key.source, []).append(f"{row.entry.key.mirror}/{row.entry.key.session}")
    found: list[dict[str, Any]] = [
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
                told = {"type": place.kind, "name": guest.name, "id": guest.id, "runs": guest.runs, "nic": index}
                told |= {"nic_name": nic.name, "mac": nic.mac, "manager": place.address, "labels": dict(guest.labels)}
                if nic.device in by_device and not nic.netns:
                    by_device[nic.device]["guest"] = told
                else:
                    found.append(_without_device(told, _why(guest, nic)))
    return found


def _why(guest: Guest, nic: GuestNic) -> str:
    if nic.netns:
        return f"in the network namespace {nic.netns}"
    return nic.reason or ("" if guest.runs else "it does not run")


def _without_device(guest: dict[str, Any], reason: str) -> dict[str, Any]:
    rate = {"frames_per_second": 0.0, "bits_per_second": 0.0}
    return {
        "device": "", "kind": guest["type"], "link": "", "state": reason or "no device here", "master": "",
        "guest": guest, **rate, "mirrored_by": [],
    }  # fmt: skip
