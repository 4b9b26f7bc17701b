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


INGRESS, EGRESS = 1, 2
