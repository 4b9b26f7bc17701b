"""By what packet sockets copies may leave as well as by their own: those of the same device, namespace and mark."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirrord.plans import Netns

_ALIKE = struct.Struct("=IIQ")  # a device's index, or 0 for any, the mark, the namespace's inode


def alike(index: int, mark: int, netns: Netns | None) -> bytes:
    """What is the same of all of these."""
    return _ALIKE.pack(index, mark, netns.inode if netns else 0)
