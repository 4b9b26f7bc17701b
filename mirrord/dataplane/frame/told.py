"""What a tunnel tells of the frame in it, beside the frame."""

from __future__ import annotations

from typing import NamedTuple


class Told(NamedTuple):
    """What a tunnel's header tells of the frame in it; zeros where it does not. A relay carries it on."""

    direction: int = 0  # 1: ingress, 2: egress, where it was captured first
    time: int = 0  # of its first capture, nanoseconds since 1970
    vlan: int = 0  # ERSPAN's VLAN id, COS and En
    cos: int = 0
    en: int = 0
    truncated: bool = False
    device: int = 0  # its index, at the host where the frame was captured first
    ident: int = 0  # the tunnel's VNI, key or session id,
    number: int | None = None  # and the packet's number among those of its sender that have it; not carried on


INGRESS, EGRESS = 1, 2
