"""Mirrors, their sessions, flow networks, and all of them together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from mirrord.expiry import Expires
from mirrord.model.base import Count, DirectionName, Model, repeated, too_many
from mirrord.model.daemon import Daemon
from mirrord.model.destinations import (
    Destination,
    FileDestination,
    PcapDestination,
    SpanDestination,
    TunnelDestination,
)
from mirrord.model.filters import Filter
from mirrord.model.flows import FlowLimit
from mirrord.model.sources import BridgeSource, ErspanSource, GeneveSource, Source, TunnelSource
from mirrord.protocols import ETH_HEADER
from mirrord.values.addresses import Addresses, AnyAddress
from mirrord.values.names import Description, Device, Name
from mirrord.values.quantities import KeptLength, Percentage, Rate, RecorderSize, RingSize, Snaplen, Window
from mirrord.values.written import Between, Flag

MOST_SESSIONS = 8192  # of a mirror


def _default_direction(data: dict[str, Any]) -> DirectionName:
    return "ingress" if isinstance(data.get("source"), TunnelSource) else "both"


class Session(Model):
    """Source, direction and filter to a destination. `direction` is "both" by default, "ingress" from a tunnel."""

    name: Name
    """Unique in its mirror."""
    description: Description = ""
    """For people."""
    enabled: Flag = True
    """Whether it runs, where its mirror is enabled."""
    priority: Annotated[int, Between(1, 65535)] | None = None
    """For `overlap = "first"`: the lowest number is asked first."""
    source: Source
    """Where frames come from."""
    direction: DirectionName = Field(default_factory=_default_direction)
    """`ingress` is what the source receives, `egress` what it sends. By default `both`, from a tunnel `ingress`.
    `lo` receives each frame that it sends: it is captured as ingress, once, and `both` means that. Of a tunnel all is
    `ingress`; with `both`, from ERSPAN and Geneve, rules ask for the direction that the packet tells (ERSPAN III's D,
    Geneve's `metadata`), and what tells none is `ingress`."""
    filter: Name | None = None
    """The name of a filter; left out: every frame."""
    destination: Destination
    """Where copies go."""
    snaplen: KeptLength = Snaplen()
    """Bytes of the mirrored frame that are kept; 0: all. Outer headers are not counted. To a device, at least 14.
    `"headers"`: all up to the end of the header of TCP, UDP, SCTP or ICMP, with tags, options and extension headers;
    `"headers+64"`: and 64 bytes behind it. Of a tunnel's packet these are the outer headers; of another protocol or a
    later fragment, all up to the end of the IP header. What is not IP stays whole."""
    payload: Literal["keep", "zero", "tls"] = "keep"
    """What becomes of all behind the headers (as for `snaplen`), where it may not be sent. `zero`: zeros, up to the end
    of the frame; lengths stay, and checksums that were right are right. What is not IP stays, but where IP may be
    inside and is not looked for (behind three VLAN tags, MPLS, PPPoE, ...). `tls`: the same, but of TCP only from the
    first application data of TLS on; TCP that has none stays. What is not TCP has zeros (QUIC, DTLS and tunnels, too),
    and so has a TCP connection whose SYN was not seen, or of which something is missing. **`tls` does not hide the
    names in the ClientHello, certificates of TLS 1.2, lengths and times, nor what is said in the clear.**"""
    sampling_rate: Annotated[int, Between(1, (1 << 31) - 1)] = 1
    """One in n conversations, whole, both directions: TCP connections, and of all else what two addresses say to each
    other by one protocol. Fragments are in or out with the rest."""
    flow_limit: FlowLimit | None = None
    """Mirror the first of each flow only. Left out: all of it."""
    rate_limit: Rate = 0
    """Bound on the sent bits a second, outer headers included, in tc's units; 0: none."""
    packet_limit: Count = 0
    """Bound on the copies a second, a super-frame counting as the packets that it is split into; 0: none. A frame that
    one of the two limits leaves out is skipped whole, and costs the other one nothing."""
    overload: Literal["frames", "flows"] = "frames"
    """What gives way when not everything fits. `frames`: whatever comes while a limit's bucket is empty, the session is
    paused, or the ring is full. `flows`: fewer conversations are mirrored, whole, by a sampling rate that doubles, and
    falls again, as `rate_limit`, `packet_limit`, `pause_above` and the ring's fill tell; what stays has no holes."""
    on_mtu_exceeded: Literal["truncate", "fragment", "drop"] = "truncate"
    """What becomes of a copy larger than the path MTU. With `fragment`, one that fits no IP packet at all, from a frame
    of about 65,500 bytes on, is dropped."""
    count_rules: Flag = False
    """Count what each accept rule matched."""
    mirror_tunnels: Flag = False
    """Also mirror tunnel packets to or from configured destinations and listeners. They may be copies."""
    capture: Literal["auto", "ring", "socket"] = "auto"
    """How frames are read: a ring, a plain socket, or what fits the load."""
    ring_size: RingSize | None = None  # None: the daemon's
    """Memory of this session's ring; left out: `daemon.ring_size`."""
    workers: Annotated[int, Between(1, 256)] = 1
    """Threads for one busy source, each for some of its pairs of addresses. All that is between two addresses is one
    thread's and stays in order."""
    transmit: Literal["auto", "packet", "socket"] = "auto"
    """How copies leave: `packet` (AF_PACKET, headers made by mirrord), `socket` (the kernel routes), or what fits
    the device. `mirrorctl show` says which, and why."""
    gso: Literal["auto", "on", "off"] = "auto"
    """Send copies of equal length as one message. `auto`: those that follow each other, where the device or kernel
    segments before anyone can look; the order of capture is kept. `on`: anywhere, and flow by flow out of up to 512
    copies, so that a copy may overtake others of these that are not of its flow."""
    recorder: RecorderSize = 0
    """Memory for the last frames mirrored from each of its sources, as their copies have them, for `mirrorctl capture
    --last`: "0", or at least "1MiB". They are kept while the session is enabled, over reloads and restarts of the
    source."""
    pause_above: Percentage = 0
    """Pause while the destination's link is busier than this share of its speed; empty: never. With
    `overload = "flows"`, mirror fewer conversations instead."""

    @field_validator("destination")
    @classmethod
    def _strip_what_selected(cls, value: Model, info: ValidationInfo) -> Model:
        """Write the default out that depends on the source, so that what is shown says what is done."""
        selected = getattr(info.data.get("source"), "vlan", None) is not None
        if selected and isinstance(value, SpanDestination) and "original_vlan" not in value.model_fields_set:
            return value.model_copy(update={"original_vlan": "strip"})
        return value

    def _contradictions(self) -> Iterator[tuple[str, ...]]:
        if isinstance(self.source, BridgeSource) and self.direction != "both":
            yield "direction", 'must be "both" for a bridge'
        if isinstance(self.source, (ErspanSource, GeneveSource)):
            if self.direction == "egress":
                yield "direction", 'must be "ingress", or "both" for what it tells, for a tunnel that is received'
        elif isinstance(self.source, TunnelSource) and self.direction != "ingress":
            yield "direction", 'must be "ingress" for a tunnel that is received'
        if isinstance(self.source, TunnelSource) and self.capture == "ring":
            yield "capture", '"ring" does not apply to a tunnel that is received'
        if self.workers > 1 and isinstance(self.source, TunnelSource):
            yield "workers", "a tunnel that is received has one socket, which one worker reads"
        if self.workers > 1 and isinstance(self.destination, FileDestination):
            yield "workers", "a file is written by one worker, in the order that frames were captured"
        if self.workers > 1 and isinstance(self.destination, PcapDestination):
            yield "workers", "a stream is filled by one worker, in the order that frames were captured"
        if self.count_rules and self.filter is None:
            yield "count_rules", "needs a filter", "filter"
        if self.transmit == "packet" and self.on_mtu_exceeded == "fragment":
            yield "transmit", '"packet" cannot fragment, only the kernel can'
        if self.gso == "on" and not hasattr(self.destination, "vni"):
            yield "gso", f'"on" does not apply to a {self.destination.type} destination, which has no UDP'
        short = not self.snaplen.past_headers and 0 < self.snaplen.length < ETH_HEADER
        if isinstance(self.destination, SpanDestination) and short:
            yield "snaplen", f"a device takes no frame shorter than its Ethernet header, {ETH_HEADER} bytes"
        if not isinstance(self.destination, TunnelDestination):
            kind = self.destination.type
            if self.transmit == "socket" or (self.transmit == "packet" and kind in ("file", "pcap")):
                yield "transmit", f'"{self.transmit}" does not apply to a {kind} destination'
            if self.pause_above and kind in ("file", "pcap"):
                yield "pause_above", f"a {kind} destination has no link"
            if self.on_mtu_exceeded == "fragment":
                yield "on_mtu_exceeded", f"a {kind} destination has no IP header to fragment by"


class Mirror(Model):
    """A named group of sessions that is enabled, disabled and deleted together."""

    description: Description = ""
    """For people."""
    flow_network: Name | None = None
    """Have all copies leave by this flow network."""
    enabled: Flag = True
    """Whether its sessions run."""
    expires: Expires | None = None
    """When it ends. In a file a time with its offset, after which it does not run until a reload brings a later one. By
    API and mirrorctl also how long (`"90s"`, `"15m"`, `"2h"`, `"1d"`, `"1w"`), from when it is enabled, however the
    clock is set meanwhile; it is disabled then, and to enable it again takes a new one. Left out: it stays."""
    overlap: Literal["all", "first"] = "all"
    """`all`: every session that matches a frame copies it, of several with equal destinations the first alone. `first`:
    only the first of them by priority."""
    duplicates: Literal["keep", "drop"] = "keep"
    """What becomes of a packet that passes several of its sources, as a tap, the bridge and the uplink. `drop`: it is
    copied once to a destination; its sources are then read by one worker."""
    duplicate_window: Window = 1_000_000
    """How far apart the sources show a packet at most: "1us" to "1s"."""
    sessions: tuple[Session, ...] = ()
    """What it consists of; at most 4,096, and 10,000 of all mirrors together."""

    @property
    def active(self) -> tuple[Session, ...]:
        """The sessions that are to run."""
        return tuple(session for session in self.sessions if session.enabled) if self.enabled else ()

    def _contradictions(self) -> Iterator[tuple[str, ...]]:
        yield from too_many("sessions", self.sessions, MOST_SESSIONS)
        yield from repeated("sessions", "name", [session.name for session in self.sessions])
        for index, session in enumerate(self.sessions if self.duplicates == "drop" else ()):
            if session.workers > 1:
                yield f"sessions[{index}].workers", 'one worker reads all sources of a mirror with duplicates = "drop"'
        if self.overlap == "first":
            yield from repeated("sessions", "priority", [one.priority for one in self.sessions if one.priority])
            for index, session in enumerate(self.sessions if len(self.sessions) > 1 else ()):
                if getattr(session.source, "inside", None) is not None:
                    yield (
                        f"sessions[{index}].source.inside",
                        'does not go with overlap = "first": give it a mirror of its own',
                    )


class FlowNetwork(Model):
    """A device, addresses and a gateway set aside for copies."""

    description: Description = ""
    """For people."""
    device: Device
    """The device that copies leave by, bound to it. Nothing else in the configuration may use it."""
    addresses: Addresses
    """One address with its prefix length, or a range from which a free one is taken. IPv4 ones are probed by ARP; IPv6
    ones by the kernel, unless its settings for the device forbid it (accept_dad, dad_transmits)."""
    gateway: AnyAddress | None = None
    """The next hop to collectors that are not on the link."""

    def _contradictions(self) -> Iterator[tuple[str, ...]]:
        if self.gateway is None:
            return
        if self.gateway.version == self.addresses.network.version and self.gateway.is_link_local:
            return
        if self.gateway not in self.addresses.network:
            yield "gateway", f"{self.gateway} is not in {self.addresses.network}"
        elif int(self.addresses.first) <= int(self.gateway) <= int(self.addresses.last):
            yield "gateway", f"{self.gateway} is one of the addresses"


class Config(Model):
    """All that files, or the state database, say."""

    model_config = ConfigDict(defer_build=True)  # an agent has none: 0.4 MB

    daemon: Daemon = Daemon()
    """The process."""
    flow_networks: dict[Name, FlowNetwork] = Field(default_factory=dict)
    """By name."""
    filters: dict[Name, Filter] = Field(default_factory=dict)
    """By name."""
    mirrors: dict[Name, Mirror] = Field(default_factory=dict)
    """By name."""
