"""Encapsulations as data: a destination compiles to a header template, constant bytes that go before every copy.

VXLAN: RFC 7348 5.
"""

from __future__ import annotations

from dataclasses import dataclass

VXLAN_FLAGS = 0x08
"""The I flag: the VNI is valid."""


@dataclass(frozen=True, slots=True)
class Template:
    """What precedes the mirrored frame in what is handed to the socket."""

    header: bytes = b""


def bare() -> Template:
    """The frame alone, as it goes out of a device."""
    return Template()


def vxlan(vni: int) -> Template:
    """The 8 bytes of VXLAN behind the UDP header, which the kernel writes: flags, 24 bits zero, VNI, 8 bits zero."""
    return Template(bytes([VXLAN_FLAGS, 0, 0, 0]) + vni.to_bytes(3, "big") + b"\0")
