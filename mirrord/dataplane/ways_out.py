"""Which way out a plan is for: a line for each kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mirrord.dataplane.transmit.file import FileTransmit
from mirrord.dataplane.transmit.nowhere import Nowhere
from mirrord.dataplane.transmit.pcap import PcapTransmit
from mirrord.dataplane.transmit.pcap_end import Ends
from mirrord.dataplane.transmit.remotes import Remotes
from mirrord.dataplane.transmit.sockets import Transmit
from mirrord.dataplane.transmit.stream import StreamTransmit
from mirrord.plans import DevicePlan, FilePlan, NowherePlan, PcapPlan, RemotesPlan, StreamPlan, TunnelPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mirrord.dataplane.transmit.way_out import WayOut
    from mirrord.plans import TransmitPlan

WAYS_OUT: Mapping[type[TransmitPlan], Callable[[Any], WayOut]] = {
    DevicePlan: Transmit,
    TunnelPlan: Transmit,
    RemotesPlan: Remotes,
    FilePlan: FileTransmit,
    StreamPlan: StreamTransmit,
    NowherePlan: Nowhere,
}


def open_way_out(plan: TransmitPlan, ends: Ends) -> WayOut:
    """The way out that the plan asks for; `ends` are there before it. OSError when it cannot be opened."""
    if isinstance(plan, PcapPlan):
        return PcapTransmit(plan, ends.of(plan.end))
    return WAYS_OUT[type(plan)](plan)
