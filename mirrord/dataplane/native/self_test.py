"""The core's self-test, at each start: one frame through its forward step, and the two copies that have to come out.

The version says which sources a core was built from, not by what, and on which machine it runs. A compiler's fault, a
processor that does something else than the one it was built for, or a damaged file would otherwise show in what
collectors get. The frame takes most ways there are: a tag to be put back, a super-frame to be split, both checksums of
each segment, a header in front. It costs 0.1 ms.
"""

from __future__ import annotations

from typing import Any

from mirrord.dataplane.forward import encap
from mirrord.dataplane.frame.headers import Tag
from mirrord.dataplane.frame.wire import VNET_GSO_TCPV4, VNET_NEEDS_CSUM, Frame, Vnet
from mirrord.plans import ForwardPlan

_DATA = bytes.fromhex(
    "02000000 00020200 00000001 08004500 00360001 40004006 b6bdc000 0201c000 02029c40 00500000 03e80000 07d05018"
    "2000842c 00006d69 72726f72 65642074 77696365"
)
"""TCP over IPv4 as a sender's stack hands it to a device: its checksum is that of the pseudo-header."""

FRAME = Frame(_DATA, len(_DATA), tag=Tag(0x8100, 5), vnet=Vnet(VNET_NEEDS_CSUM, VNET_GSO_TCPV4, 54, 8, 34, 16))

COPIES = [
    bytes.fromhex(
        "08000000 12345600 02000000 00020200 00000001 81000005 08004500 00300001 40004006 b6c3c000 0201c000 02029c40"
        "00500000 03e80000 07d05010 2000aecd 00006d69 72726f72 6564"
    ),
    bytes.fromhex(
        "08000000 12345600 02000000 00020200 00000001 81000005 08004500 002e0002 40004006 b6c4c000 0201c000 02029c40"
        "00500000 03f00000 07d05018 2000682f 00002074 77696365"
    ),
]
"""As scapy writes them, which tests/unit/test_native.py compares: RFC 7348 5, IEEE 802.1Q, RFC 791, RFC 9293."""


def run(core: Any) -> str:
    """What this core does wrong; "" where it does what it should."""
    try:
        copies = core.Forward(ForwardPlan(encap.vxlan(0x123456)), None)(FRAME).copies
    except (AttributeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "" if copies == COPIES else f"wrong copies of a known frame: {' '.join(copy.hex() for copy in copies)}"
