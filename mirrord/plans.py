"""Plans: what the data plane is to do, as immutable values. The control plane makes them, the data plane obeys them.

Nothing here opens anything. Lengths and sizes are in bytes.
"""

from __future__ import annotations

import os.path
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from mirrord.dataplane.filter.rules import Selection
from mirrord.protocols import IPPROTO_UDP

if TYPE_CHECKING:
    from collections.abc import Hashable
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    from mirrord.dataplane.counters import Slot
    from mirrord.dataplane.forward.encap import Template


class Netns(NamedTuple):
    """A network namespace. The inode tells it from another that has come to the same path."""

    path: str
    inode: int


# --- where frames come from ---


@dataclass(frozen=True, slots=True)
class CapturePlan:
    """What to capture and how. `ring_size` is in bytes, rounded up to whole blocks, two of them at least."""

    shared: ClassVar[bool] = True  # sessions that ask for it in the same way share it
    device: str
    index: int
    selection: Selection
    mode: str = "ring"  # or "socket", "auto"
    ring_size: int = 8 << 20
    promiscuous: bool = False
    netns: Netns | None = None  # where the device is; None: here
    pvid: int = 0  # what has no tag there is of this VLAN, see frame/port_vlan.py; 0: of none
    raw: bool = False  # it has no Ethernet: its packets are given some, see frame/without_ethernet.py
    together: bool = False  # one of a session's several devices, whose frames are to stay in order: see tap.py

    @property
    def everywhere(self) -> CapturePlan:
        """The plan of a capture on all devices of the namespace, which `together` ones share."""
        return replace(self, device="", index=0, selection=Selection(), together=True)


class Tunnel(IntEnum):
    """How the frames that a listener takes are wrapped."""

    VXLAN = 1
    GRE = 2  # transparent Ethernet bridging
    ERSPAN = 3  # types I, II and III
    GENEVE = 4  # Ethernet, or IP, which gets an Ethernet header
    TZSP = 5

    @property
    def udp(self) -> bool:
        """Whether it is carried by UDP; else by GRE."""
        return self not in (Tunnel.GRE, Tunnel.ERSPAN)

    @property
    def numbers(self) -> bool:
        """Whether its packets may have sequence numbers."""
        return self in (Tunnel.GRE, Tunnel.ERSPAN, Tunnel.GENEVE)


@dataclass(frozen=True, slots=True)
class ListenPlan:
    """Which tunnel's frames to take. `local` may be 0.0.0.0 or ::, any address of the host."""

    shared: ClassVar[bool] = False  # each session has a socket of its own
    tunnel: Tunnel
    local: IPv4Address | IPv6Address
    selection: Selection  # of the frames inside
    port: int = 0  # UDP only
    ident: int | None = None  # VNI, key, or session id; None: any
    allow: tuple[IPv4Network | IPv6Network, ...] = ()  # the senders; empty: any
    elsewhere: tuple[IPv4Address | IPv6Address, ...] = ()  # what comes to these is other listeners'
    buffer_size: int = 8 << 20  # bytes
    told: bool = False  # a frame's direction is what its packet tells; else, or where it does not, ingress


# --- what becomes of them ---

USUAL_HEADERS = 22 + 40 + 60
"""Ethernet with two tags, IPv6, TCP with all of its options."""


class OnMtuExceeded(IntEnum):
    """What becomes of a copy that is too long for the path."""

    truncate = 0
    fragment = 1
    drop = 2


class Payload(IntEnum):
    """What becomes of all behind a frame's headers."""

    keep = 0
    zero = 1
    tls = 2  # of TCP from the first application data of TLS on, else as zero


RING_BLOCK = 512 << 10
"""Bytes of a ring's block. A frame must fit into one, and BIG TCP makes frames of 131 KB and more."""

LEAST_RING_BLOCKS = 2

DUPLICATES_BYTES = 65536 * (32 + 8)
"""What the native core takes to remember what was copied to a destination."""

CONNECTIONS_BYTES = 65536 * 128
"""What the TCP connections that are followed take at most, where application data are hidden."""

FLOW_BYTES = 88
"""What the native core takes for a flow at most, with its share of the chains."""


@dataclass(frozen=True, slots=True)
class FlowLimit:
    """How much of each flow is mirrored whole; 0: any number. What comes first decides."""

    packets: int = 0
    octets: int = 0  # of frames as they are read
    headers: bool = False  # what comes after is cut behind its headers; else skipped
    idle: int = 60_000_000_000  # nanoseconds until a flow is forgotten
    flows: int = 65536  # the most that are known


@dataclass(frozen=True, slots=True)
class Inside:
    """Which tunnel packets are looked into, and what is wanted of the frames inside. Port 0: not this encapsulation."""

    selection: Selection
    vxlan_port: int = 0
    geneve_port: int = 0
    gre: bool = False
    ident: int = 0  # the VNI or key
    any_ident: bool = True  # whatever it is, or is not there
    strip: bool = False  # the frame inside is what is mirrored, else all of the packet


@dataclass(frozen=True, slots=True)
class Remote:
    """What the step has to know of one of several collectors. Lengths are as of a ForwardPlan."""

    seed: int  # 64 bits of its address, see forward/remotes.py
    alive: bool = True
    frame_limit: int = 0
    longest: int = 0
    overhead: int = 0


@dataclass(frozen=True, slots=True)
class ForwardPlan:
    """What becomes of a captured frame. Lengths are in bytes."""

    template: Template
    snaplen: int = 0  # of the mirrored frame, outer headers not included; 0: all
    past_headers: int | None = None  # of it, behind its own headers; None: all
    payload: Payload = Payload.keep
    frame_limit: int = 0  # the longest frame that the path MTU lets a copy carry; 0: no limit
    longest: int = 0  # the longest frame that a copy can carry in however many fragments; 0: no limit
    on_mtu_exceeded: OnMtuExceeded = OnMtuExceeded.truncate
    sampling_rate: int = 1  # 1 in n conversations
    duplicate_window: int = 0  # nanoseconds within which a packet of two sources is one; 0: two
    overload: bool = False  # fewer conversations, when there is too much
    least_level: int = 0  # of these: one in two to it, at most
    flow_limit: FlowLimit | None = None  # how much of each flow
    rate_limit: int = 0  # bits a second of sent bytes; 0: none
    packet_limit: int = 0  # copies a second; 0: none
    strip_tag: bool = False  # take the outermost VLAN tag off
    push_tag: int = 0  # put an 802.1Q tag of this id on; 0: none
    tpid: int = 0  # of the outermost of the frame's tags that stay, in place of its own; 0: as it is
    strip_ethernet: bool = False  # take off the Ethernet header that a device without Ethernet does not have
    overhead: int = 0  # what counts as sent beside header and frame: the kernel's headers; less what does not count
    remotes: tuple[Remote, ...] = ()  # of several collectors, one of which is alive; (): there is one way out
    spread_all: bool = False  # each gets every copy, of one length; else a conversation goes to one, by its own lengths
    blocked: Slot | None = None  # make no copies for now: what each frame counts as instead
    guarded: bool = True  # what is a copy already, by the guards of all sessions, is not mirrored again
    exact: Selection | None = None  # match it here: the kernel ran a coarser filter, or rules are counted
    inside: Inside | None = None  # the frames that are meant are in tunnel packets; `exact` is of these

    def bounds(self, recipients: tuple[int, ...]) -> tuple[int, int]:
        """The frame limit and the longest frame of copies for these of the collectors."""
        if not self.remotes or self.spread_all:
            return self.frame_limit, self.longest
        one = self.remotes[recipients[0]]
        return one.frame_limit, one.longest

    def overhead_of(self, recipient: int) -> int:
        """The overhead of copies for this one of the collectors."""
        return self.remotes[recipient].overhead if self.remotes else self.overhead

    def longest_kept(self, full: int) -> int:
        """What may be left of frames of up to `full` bytes. Headers are taken for no longer than they usually are."""
        if self.past_headers is not None:
            return min(full, USUAL_HEADERS + self.past_headers)
        return min(full, self.snaplen or full)


# --- where copies go ---


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """Copies leave by this device, as they are."""

    waits: ClassVar[bool] = False  # a copy that there is no room for is lost
    device: str
    index: int
    mark: int = 0
    netns: Netns | None = None  # where the device is; None: here
    reserved: bool = False  # nothing else passes it meanwhile; the control plane sees to that
    isolated: bool = False  # taken off its bridge meanwhile; as well
    takes_ring: bool = False  # a TX ring pays: the device takes packets out of its memory


@dataclass(frozen=True, slots=True)
class Hop:
    """The next hop of copies whose outer headers are ours. Addresses are of six bytes."""

    device: str
    index: int
    source: bytes
    destination: bytes
    takes_ring: bool = False  # as of a DevicePlan


@dataclass(frozen=True, slots=True)
class TunnelPlan:
    """Copies are the payload of UDP datagrams, or of packets of another IP protocol, that the kernel routes."""

    waits: ClassVar[bool] = False
    remote: str
    port: int = 0  # UDP only
    protocol: int = IPPROTO_UDP
    local: str = ""
    device: str = ""  # leave by this one only
    index: int = 0
    netns: Netns | None = None  # where its sockets are; None: here
    ttl: int = 64
    dscp: int = 0
    mark: int = 0
    fragment: bool = False  # let the kernel fragment what exceeds the path MTU
    hop: Hop | None = None  # leave by a packet socket, with outer headers of ours; None: the kernel routes
    gso: bool = False  # several copies of a lane in one message; the native plane's alone
    overtakes: bool = False  # with gso: copies of one lane may overtake another's, so that more of them are neighbours

    def by_the_way_of(self, other: TunnelPlan) -> TunnelPlan:
        """The same with the other one's next hop, and what follows from that."""
        return replace(self, hop=other.hop, gso=other.gso, overtakes=other.overtakes)


@dataclass(frozen=True, slots=True)
class RemotesPlan:
    """Copies go to one of several collectors, or to each of them: the forward step says which."""

    waits: ClassVar[bool] = False
    addresses: tuple[str, ...]
    remotes: tuple[TunnelPlan | None, ...]  # to these; None: to one that no socket can be opened for yet


@dataclass(frozen=True, slots=True)
class FilePlan:
    """Copies are appended to `name`, a path below `directory` in which no symbolic link is followed."""

    waits: ClassVar[bool] = True  # for a disk, as long as that likes
    directory: str
    name: str
    interface: str  # that the packets were captured on
    comment: str = ""
    snaplen: int = 0
    rotate_size: int = 0  # bytes; 0: any
    rotate_seconds: int = 0  # 0: any
    keep: int = 0  # files, the one in work included; 0: all
    raw: bool = False  # of IP packets, without Ethernet

    @property
    def path(self) -> str:
        return os.path.join(self.directory, self.name)  # noqa: PTH118 (text for messages)


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """Copies are written to `descriptor`, the end of a pipe, which is the transmit's from now on."""

    waits: ClassVar[bool] = True  # for its reader
    descriptor: int
    interface: str  # that the packets were captured on
    comment: str = ""
    snaplen: int = 0
    raw: bool = False  # of IP packets, without Ethernet


@dataclass(frozen=True, slots=True)
class TlsPlan:
    """Files of PEM, "" where there is none, and the name that a collector's certificate is to have."""

    ca: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """Where a session's packets are streamed to: an address that is connected to, or that `listens` for clients."""

    address: IPv4Address | IPv6Address
    port: int
    listens: bool
    comment: str  # names the session, which has it alone
    pcap: bool = False  # of that format; else pcapng
    tls: TlsPlan | None = None
    allow: tuple[IPv4Network | IPv6Network, ...] = ()  # who may connect; empty: anybody
    buffer: int = 64 << 20  # bytes of a queue
    mark: int = 0


@dataclass(frozen=True, slots=True)
class PcapPlan:
    """Copies are queued for the clients of `end`, which have those of the session's other sources, too."""

    waits: ClassVar[bool] = False  # a copy that there is no room for is lost
    end: StreamEnd
    interface: str  # that the packets were captured on
    snaplen: int = 0
    raw: bool = False  # of IP packets, without Ethernet


_SHORTEST_BLOCK, _IN_FLIGHT = 64, 8 << 20


def ends_of(buffer: int) -> int:
    """How many frames a queue of so many bytes has the ends of: those in it, and those that are on their way."""
    return (buffer + _IN_FLIGHT) // _SHORTEST_BLOCK


def queue_bytes(buffer: int) -> int:
    """What such a queue takes, with its frames' ends."""
    return buffer + 8 * ends_of(buffer)


@dataclass(frozen=True, slots=True)
class NowherePlan:
    """There is nowhere to send copies to yet, and frames are taken all the same, to be counted as lost."""

    waits: ClassVar[bool] = False


SourcePlan = CapturePlan | ListenPlan
TransmitPlan = DevicePlan | TunnelPlan | RemotesPlan | FilePlan | StreamPlan | PcapPlan | NowherePlan


@dataclass(frozen=True, slots=True)
class PipelinePlan:
    """One source of one session."""

    capture: SourcePlan
    forward: ForwardPlan
    transmit: TransmitPlan
    count_rules_of: str = ""  # the filter that the rules are of, to be counted; "": they are not
    workers: int = 1  # threads, which divide the source by its frames' addresses
    recorder: int = 0  # bytes for the last copies; 0: none are kept
    duplicates_of: Hashable = (
        None  # the destination that a packet of several sources is copied to once; None: each time
    )
