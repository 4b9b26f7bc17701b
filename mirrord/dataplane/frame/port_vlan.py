"""Frames of a bridge that filters VLANs: what has no tag is of the VLAN that its port is in (PVID), and gets its tag.

So one conversation has one form, whether a frame came in by a port that takes untagged frames or by a tagged one, and
is selected by the VLAN that the bridge has it in. A tag whose id is 0 tells a priority alone (IEEE 802.1Q-2022, 6.9.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirrord.dataplane.frame.headers import Tag
from mirrord.dataplane.frame.wire import TAG
from mirrord.protocols import ETH_HEADER, TPIDS

if TYPE_CHECKING:
    from mirrord.dataplane.frame.wire import Frame

_TPIDS = [tpid.to_bytes(2, "big") for tpid in TPIDS]


def classified(frame: Frame, pvid: int) -> Frame:
    """The frame with a tag, as if the kernel had taken it off; one that has a tag in its bytes stays as it is."""
    if frame.tag is not None:
        return frame if frame.tag.vid else frame._replace(tag=frame.tag._replace(tci=frame.tag.tci | pvid))
    if len(frame.data) >= ETH_HEADER + TAG and frame.data[12:14] in _TPIDS:
        return frame
    return frame._replace(tag=Tag(TPIDS[0], pvid))
