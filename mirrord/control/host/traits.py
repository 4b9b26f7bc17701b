"""What is peculiar to a device, of what a packet tap on it sees: read from what rtnetlink says of the link.

linux/if_link.h; https://docs.kernel.org/PCI/pci-iov-howto.html
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mirrord.control.host.isolate import alternative_names, bridge_of
from mirrord.control.host.rtnetlink import attributes, number, text
from mirrord.control.host.view import Traits
from mirrord.kernel import (
    IFLA_BR_VLAN_FILTERING,
    IFLA_BR_VLAN_PROTOCOL,
    IFLA_GRE_COLLECT_METADATA,
    IFLA_GRE_REMOTE,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_PARENT_DEV_BUS_NAME,
    IFLA_PARENT_DEV_NAME,
    IFLA_PROP_LIST,
    IFLA_XDP,
    IFLA_XDP_ATTACHED,
)
from mirrord.protocols import ETH_P_8021Q

XDP_MODES = {1: "native", 2: "generic", 3: "offloaded", 4: "several"}  # XDP_ATTACHED_DRV, _SKB, _HW, _MULTI
MACVLAN_MODES = {1: "private", 2: "vepa", 4: "bridge", 8: "passthru", 16: "source"}  # enum macvlan_mode
MODES = {
    "macvlan": (1, MACVLAN_MODES),  # IFLA_MACVLAN_MODE
    "macvtap": (1, MACVLAN_MODES),
    "ipvlan": (1, {0: "l2", 1: "l3", 2: "l3s"}),  # IFLA_IPVLAN_MODE, enum ipvlan_mode
}
TOLD = {"bridge", "gre", "ip6gre", *MODES}  # kinds whose own attributes matter
PCI_DEVICES = Path("/sys/bus/pci/devices")


def traits(found: Mapping[int, bytes], info: Mapping[int, bytes]) -> Traits:
    """Of a link's attributes and those in its IFLA_LINKINFO."""
    kind = text(info.get(IFLA_INFO_KIND))
    data = attributes(info.get(IFLA_INFO_DATA, b"")) if kind in TOLD else {}
    where, modes = MODES.get(kind, (0, {}))
    attached = number(attributes(found.get(IFLA_XDP, b"")).get(IFLA_XDP_ATTACHED))
    virtual, functions = False, 0
    if text(found.get(IFLA_PARENT_DEV_BUS_NAME)) == "pci":  # Linux 5.14 or newer tells
        virtual, functions = _functions(PCI_DEVICES / text(found.get(IFLA_PARENT_DEV_NAME)))
    return Traits(
        mode=modes.get(number(data.get(where)), "") if where in data else "",
        xdp=XDP_MODES.get(attached, "native") if attached else "",
        vlan_filtering=kind == "bridge" and _filters_vlans(data),
        functions=functions,
        virtual=virtual,
        multipoint=kind in ("gre", "ip6gre") and _multipoint(data),
        taken_off=bridge_of(alternative_names(found.get(IFLA_PROP_LIST, b""))),
    )


def _filters_vlans(data: Mapping[int, bytes]) -> bool:
    """Whether a bridge has VLANs of its own, of 802.1Q tags."""
    protocol = int.from_bytes(data.get(IFLA_BR_VLAN_PROTOCOL, b""), "big")
    return bool(number(data.get(IFLA_BR_VLAN_FILTERING))) and protocol in (0, ETH_P_8021Q)


def _multipoint(data: Mapping[int, bytes]) -> bool:
    """Whether a GRE device has neither one remote nor its remotes from routes; then it has link headers of its own
    (ipgre_tunnel_init in net/ipv4/ip_gre.c, ip6gre_tunnel_init in net/ipv6/ip6_gre.c).
    """
    remote = data.get(IFLA_GRE_REMOTE, b"")
    multicast = len(remote) == 4 and remote[0] >> 4 == 14
    return IFLA_GRE_COLLECT_METADATA not in data and (multicast or not any(remote))


def _functions(device: Path) -> tuple[bool, int]:
    """Whether a PCI device is a virtual function, and how many it has itself."""
    if (device / "physfn").is_symlink():
        return True, 0
    with suppress(OSError, ValueError):
        return False, int((device / "sriov_numvfs").read_text())
    return False, 0
