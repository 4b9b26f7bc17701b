"""Whether a UDP datagram of many segments is cut before anyone can look at it, by ethtool's word.

A device without tx-udp-segmentation has the kernel cut first, whatever the device. One with it may be hardware, which
cuts on the way out; or a virtual link, whose far side would see one long packet; or lead to others, which decide.

ethtool(8), linux/ethtool.h
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mirrord.control.host import ethtool
from mirrord.kernel import (
    ETH_GSTRING_LEN,
    ETH_SS_FEATURES,
    ETHTOOL_GDRVINFO,
    ETHTOOL_GFEATURES,
    ETHTOOL_GSSET_INFO,
    ETHTOOL_GSTRINGS,
)

if TYPE_CHECKING:
    from mirrord.control.host.view import Link

DRVINFO_LENGTH = 196
FEATURE = b"tx-udp-segmentation"
SEGMENTING = ("", "ifb")  # kinds that cut by themselves: hardware, and a null sink to measure with
LEADING_ON = ("bond", "bridge", "team", "vlan")
PARAVIRTUAL = (b"virtio_net", b"vmxnet3", b"hv_netvsc", b"xennet", b"vif")  # another host's kernel is the far side


def takes_ring(device: str, kind: str) -> bool:
    """Whether a device takes packets out of a TX ring as they are; for another stack the kernel copies them."""
    return kind in SEGMENTING and _driver(device) not in PARAVIRTUAL


def uncut(link: Link, links: Iterable[Link]) -> str:
    """Who would see a datagram of many segments that leaves by this device; "" when nobody can."""
    if not _feature(link.name):
        return ""
    if link.kind in LEADING_ON:
        lower = [one for one in links if one.master == link.index or one.index == link.lower]
        return next((words for one in lower if (words := uncut(one, links))), "")
    if link.takes_ring:
        return ""
    return f"the far side of {link.name} would see copies joined"


def _feature(device: str) -> bool:
    """Whether the device cuts UDP datagrams; True where it cannot be told."""
    try:
        info = ethtool.ask(device, struct.pack("=IIQI", ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0))
        count = struct.unpack_from("=I", info, 16)[0]
        names = struct.pack("=III", ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count) + bytes(count * ETH_GSTRING_LEN)
        names = ethtool.ask(device, names)[12:]
        blocks = (count + 31) // 32
        features = ethtool.ask(device, struct.pack("=II", ETHTOOL_GFEATURES, blocks) + bytes(16 * blocks))[8:]
    except OSError:
        return True
    for n in range(count):
        if names[n * ETH_GSTRING_LEN :].split(b"\0", 1)[0] == FEATURE:
            active = struct.unpack_from("=IIII", features, 16 * (n // 32))[2]
            return bool(active >> n % 32 & 1)
    return False  # a kernel older than the feature


def _driver(device: str) -> bytes:
    try:
        return ethtool.ask(device, struct.pack("=I", ETHTOOL_GDRVINFO).ljust(DRVINFO_LENGTH, b"\0"))[4:36].rstrip(b"\0")
    except OSError:
        return b""
