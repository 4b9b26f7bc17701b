"""Where copies go."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from mirrord.model.base import Count, ErspanSession, GreKey, Model, Port, Vni, repeated, too_many, type_of
from mirrord.protocols import TPIDS
from mirrord.values.addresses import Address, AnyAddress, NetworkList, Remotes
from mirrord.values.guests import Connection, Guest, Nic
from mirrord.values.names import Device, Netns, Path, ServerName
from mirrord.values.ports import Liveness, StreamListen, VlanId
from mirrord.values.quantities import BufferSize, Size
from mirrord.values.written import Between, Flag

MOST_REMOTES = 16
"""Collectors of one session, at most: counters.py has as much room for them."""


def _default_original_vlan(data: dict[str, Any]) -> Literal["keep", "strip"]:
    return "keep" if data.get("vlan") is None else "strip"


class RetaggedDestination(Model):
    """What every destination takes, beside `original_vlan`, whose default differs."""

    vlan_tpid: Annotated[int, Between(0x0600, 0xFFFF)] | None = None
    """The TPID of the outermost of the frame's tags that stay, in place of its own: 0x8100, 0x88a8, 0x9100 or 0x9200.
    Many a receiver looks through no tag but one of 0x8100. Left out: as it was."""

    def _contradictions(self) -> Iterator[tuple[str, ...]]:
        if self.vlan_tpid not in (None, *TPIDS):
            known = ", ".join(f"{tpid:#06x}" for tpid in TPIDS)
            yield "vlan_tpid", f"{self.vlan_tpid:#06x} is not the TPID of a VLAN tag, as these are: {known}"


class TaggedDestination(RetaggedDestination):
    """One that puts on no tags."""

    original_vlan: Literal["keep", "strip"] = "keep"
    """What becomes of the frame's outermost VLAN tag: `keep`, or `strip`, which takes it off."""


class SpanDestination(RetaggedDestination):
    """Out of a NIC, as frames: SPAN, or RSPAN with `vlan`. `original_vlan` is what becomes of a frame's outermost tag.

    By default it is "strip" where `vlan` takes the tag's place or the source selected by `vlan`, else "keep".
    """

    vlan: VlanId | None = None
    """RSPAN: the id of the tag that is put on."""
    original_vlan: Literal["keep", "strip"] = Field(default_factory=_default_original_vlan)
    """What becomes of the frame's outermost tag. By default `strip` where `vlan` takes its place or the source was
    selected by `vlan`, else `keep`."""
    normal_io: Flag = True
    """`false`: all other traffic of the NIC, both ways, is dropped while the session runs."""
    isolate: Flag = False
    """`true`: a NIC that is a port of a Linux bridge is taken off it while the session runs, and given back after, as
    it was: a copy that comes back by it would have the bridge learn a wrong place. Of the port's own entries in the
    bridge's tables (`bridge fdb`, `bridge mdb`) nothing is kept."""


class DeviceDestination(SpanDestination):
    """A device of this host."""

    type: Literal["device"] = "device"
    """SPAN: out of another device; with `vlan`, RSPAN."""
    device: Device
    """The device that copies leave by."""
    netns: Netns | None = None
    """The network namespace that the device is in, as in a source."""
    allow_default_route: Flag = False
    """Take a device that holds one of this host's default routes, which is refused otherwise."""

    def _contradictions(self) -> Iterator[tuple[str, ...]]:
        yield from super()._contradictions()
        if self.netns is not None and not self.normal_io:
            yield "normal_io", "a device in another network namespace cannot be reserved"
        if self.netns is not None and self.isolate:
            yield "isolate", "a device in another network namespace cannot be taken off its bridge"


class VmDestination(SpanDestination):
    """A NIC of a VM that runs on this host."""

    type: Literal["vm"] = "vm"
    """SPAN to a VM's NIC, which is found through libvirt, as that of a source."""
    vm: Guest
    """The name or UUID of a VM."""
    nic: Nic
    """Which of its NICs: an index in the order of the VM's definition, from 0 on, or a MAC address."""
    connection: Connection = "qemu:///system"
    """The URI that libvirt is reached by; read-only. `"proc:"`: without libvirt, as in a source."""
    allow_default_route: Flag = False
    """Take the VM's first NIC, the one that it is reached by, which is refused otherwise."""


class TunnelDestination(TaggedDestination):
    """What every encapsulation in IP takes."""

    remote: Remotes
    """The collector's address, or a list of several collectors' (at most 16)."""
    spread: Literal["flow", "all"] = "flow"
    """Of several collectors, `flow` sends each conversation to one of them, both directions and fragments too: TCP by
    addresses and ports, all else by address pair and protocol. One that dies moves its own share only, to the others,
    and takes it back some seconds after it is there again. `all` sends everything to each: captured and made once, as
    long as the least path MTU of them allows; one that is dead is left out."""
    liveness: Liveness = "auto"
    """How mirrord knows whether a collector is there. `auto`: by the carrier, the route, the state of the next hop and
    ICMP's host and network unreachable; nobody is asked. `icmp`: by an echo request each second, besides. `tcp:PORT`:
    by a connection to this port each second, besides. `off`: by carrier, route and next hop alone. One that is dead is
    in `status`, `doctor` and `mirrord_remote_up`. Where none is alive, copies are sent all the same, if a route is
    there."""
    local: AnyAddress | None = None
    """The copies' source address; left out: the kernel's choice, or the flow network's."""
    dscp: Annotated[int, Between(0, 63)] = 0
    """DSCP of the outer header."""
    ttl: Annotated[int, Between(1, 255)] = 64
    """TTL or hop limit of the outer header."""
    netns: Netns | None = None
    """The network namespace whose routes are used, as in a source."""

    def _contradictions(self) -> Iterator[tuple[str, ...]]:
        yield from super()._contradictions()
        yield from too_many("remote", self.remote, MOST_REMOTES)
        yield from repeated("remote", "address", map(str, self.remote))
        for remote in self.remote:
            yield from self._contradicts(remote)
        if self.local is None:
            return
        other = next((remote for remote in self.remote if remote.version != self.local.version), None)
        if other is not None:
            named = f" {other}" if len(self.remote) > 1 else ""
            yield "local", f"{self.local} is IPv{self.local.version}, but remote{named} is IPv{other.version}"
        if _nowhere(self.local) or self.local.is_multicast:
            yield "local", f"{self.local} is not the address of a host"

    def _contradicts(self, remote: Address) -> Iterator[tuple[str, ...]]:
        if _nowhere(remote):
            yield "remote", f"{remote} is not the address of a host"
        if _of_the_link(remote):
            yield "remote", f"{remote} is a multicast group of the link itself: no route leads to it"
        if remote.version == 6 and remote.is_link_local:
            yield "remote", f"{remote} is link-local: no route leads to it, only a device"
        if remote.is_multicast and self.liveness not in ("auto", "off"):
            yield "liveness", f"{remote} is a multicast group: nobody answers for it"


class VxlanDestination(TunnelDestination):
    """RFC 7348."""

    type: Literal["vxlan"] = "vxlan"
    """VXLAN (RFC 7348). The flow's hash is in the UDP source port."""
    vni: Vni
    """VXLAN network identifier."""
    vni_egress: Vni | None = None
    """The VNI of the session's egress frames; left out: `vni`. Where a receiver takes the VNI for a part of what a
    conversation is (Arkime does), each conversation becomes two."""
    port: Port = 4789
    """UDP port of the collector."""
    shared_vni: Flag = False
    """Allow another session to send to the same remote, port and VNI."""


class GeneveDestination(TunnelDestination):
    """RFC 8926."""

    type: Literal["geneve"] = "geneve"
    """Geneve (RFC 8926)."""
    vni: Vni
    """Virtual network identifier."""
    vni_egress: Vni | None = None
    """The VNI of the session's egress frames; left out: `vni`."""
    metadata: Flag = False
    """Tell of each copy, in an option of 24 bytes: the direction, the time of capture in nanoseconds, the index of the
    source device, a sequence number (with `vni_egress`, for each VNI its own), and whether it is truncated. Its class
    is for experiments (0xff6d) and it is not critical: who does not know it skips it. A `geneve` source knows it."""
    port: Port = 6081
    """UDP port of the collector."""


class GreDestination(TunnelDestination):
    """Transparent Ethernet bridging, RFC 1701 protocol 0x6558; RFC 2784, 2890."""

    type: Literal["gre"] = "gre"
    """GRE with the whole frame in it (transparent Ethernet bridging, 0x6558; RFC 2784, 2890)."""
    key: GreKey | None = None
    """The key; left out: a header without one."""
    key_egress: GreKey | None = None
    """The key of the session's egress frames; left out: `key`."""

    def _contradictions(self) -> Iterator[tuple[str, ...]]:
        yield from super()._contradictions()
        if self.key is None and self.key_egress is not None:
            yield "key_egress", "needs `key`: the copies of ingress frames would have none", "key"


class ErspanDestination(TunnelDestination):
    """ERSPAN, draft-foschiano-erspan. Type I has no header, so no place for a session id."""

    type: Literal["erspan"] = "erspan"
    """ERSPAN (draft-foschiano-erspan)."""
    erspan_type: Literal["I", "II", "III"]
    """I is GRE alone; II has session, VLAN and sequence; III a time stamp and the direction as well."""
    session_id: ErspanSession | None = None
    """Required but for type I, which cannot carry it."""
    session_id_egress: ErspanSession | None = None
    """The session id of the session's egress frames; left out: `session_id`. Types II and III."""
    cos: Annotated[int, Between(0, 7)] = 0
    """Class of service. Types II and III."""
    index: Annotated[int, Between(0, (1 << 20) - 1)] = 0
    """Port index. Type II."""
    hardware_id: Annotated[int, Between(0, 63)] = 0
    """Id of the ERSPAN engine. Type III."""
    sgt: Annotated[int, Between(0, 65535)] = 0
    """Security group tag. Type III."""

    def _contradictions(self) -> Iterator[tuple[str, ...]]:
        yield from super()._contradictions()
        if self.session_id is None and self.erspan_type != "I":
            yield "session_id", f"required by type {self.erspan_type}", "session_id"
        if self.session_id_egress is not None and self.erspan_type == "I":
            yield "session_id_egress", "type I does not carry it"
        carried = {"I": (), "II": ("cos", "index"), "III": ("cos", "hardware_id", "sgt")}[self.erspan_type]
        for key in ("cos", "index", "hardware_id", "sgt"):
            if getattr(self, key) and key not in carried:
                yield key, f"type {self.erspan_type} does not carry it"


LONGEST_NAME = 255 - len("-fifteen-letters") - len("-20260131T235959.123456789Z")  # NAME_MAX, limits.h


class FileDestination(TaggedDestination):
    """pcapng files; 0 never rotates, and `keep = 0` keeps them all."""

    type: Literal["file"] = "file"
    """pcapng files with nanosecond stamps; of Ethernet frames, or of IP packets where the source has no Ethernet."""
    path: Path
    """Below one of `daemon.capture_directories`. A finished file has the time of its last packet in its name."""
    rotate_size: Size = 0
    """Begin a new file at this size; 0: never."""
    rotate_seconds: Count = 0
    """Begin a new file after so long; 0: never."""
    keep: Count = 0
    """How many files there are at most, the one written first gives way; 0: all are kept. Their order is in a list
    beside them, `.NAME.files`; a file that is not in it is never deleted."""

    def _contradictions(self) -> Iterator[tuple[str, ...]]:
        yield from super()._contradictions()
        name = self.path.rpartition("/")[2]
        if not name:
            yield "path", f"expected a file: {self.path} is a directory"
        if len(name.encode()) > LONGEST_NAME:
            yield "path", f"expected a file's name of at most {LONGEST_NAME} bytes: its device and time may be added"
        if self.keep and not (self.rotate_size or self.rotate_seconds):
            yield "keep", "needs rotate_size or rotate_seconds: one file is never replaced"


class Tls(Model):
    """By files of PEM that the daemon can read, and reads for each connection, so that renewed ones are taken up."""

    ca: Path | None = None
    """Whom the other side's certificate is to be from. Left out: with `remote`, whom this host trusts; with `listen`,
    clients need none."""
    certificate: Path | None = None
    """This side's certificate, its chain behind it. Required with `listen`."""
    key: Path | None = None
    """The certificate's key, without a pass phrase."""
    server_name: ServerName | None = None
    """The name in the collector's certificate; left out: its address, `remote`."""

    def _contradictions(self) -> Iterator[tuple[str, ...]]:
        if (self.certificate is None) != (self.key is None):
            lacking = "certificate" if self.certificate is None else "key"
            yield lacking, "a certificate and its key go together", lacking


class PcapDestination(TaggedDestination):
    """A stream of packets by TCP: to one collector, or to whoever connects. Without a client the session waits."""

    type: Literal["pcap"] = "pcap"
    """A stream of packets by TCP or TLS, as Wireshark, dumpcap (`-i TCP@HOST:PORT`), tshark and Arkime read it. What a
    client's queue has no room for, or a client has not got when its connection ends, counts as `queue_full`."""
    remote: AnyAddress | None = None
    """The collector's address: mirrord connects, and does again when the connection ends."""
    port: Port | None = None
    """TCP port of the collector, with `remote`."""
    listen: StreamListen | None = None
    """In place of `remote`: where up to 16 clients may connect, `"ADDRESS:PORT"`. Beyond loopback it takes `tls` with
    `ca`: whoever connects gets the traffic."""
    format: Literal["pcap", "pcapng"] = "pcapng"
    """Both have nanosecond stamps. `pcapng` also tells each packet's direction and interface."""
    tls: Tls | None = None
    """TLS; left out: none."""
    buffer: BufferSize = 64 << 20
    """The queue of each client and source, which bridges the time that a client takes nothing. At least "128KiB"."""
    allow: NetworkList = ()
    """With `listen`: networks that clients may connect from; empty: any."""

    @property
    def end(self) -> tuple[str, int]:
        """The address and port that it connects to, or listens on."""
        if self.listen is not None:
            return self.listen.host, self.listen.port
        return str(self.remote), self.port or 0

    def _contradictions(self) -> Iterator[tuple[str, ...]]:
        yield from super()._contradictions()
        if (self.remote is None) == (self.listen is None):
            yield "remote", "either remote and port, or listen", "remote", "listen"
        elif self.listen is None:
            yield from self._of_remote()
        else:
            yield from self._of_listen()

    def _of_remote(self) -> Iterator[tuple[str, ...]]:
        assert self.remote is not None  # the caller has looked
        if self.port is None:
            yield "port", "required with remote", "port"
        if _nowhere(self.remote) or self.remote.is_multicast:
            yield "remote", f"{self.remote} is not the address of a host"
        if self.remote.version == 6 and self.remote.is_link_local:
            yield "remote", f"{self.remote} is link-local: no route leads to it, only a device"
        if self.allow:
            yield "allow", "is for who connects: it needs listen"

    def _of_listen(self) -> Iterator[tuple[str, ...]]:
        address = ip_address(self.end[0])
        if self.port is not None:
            yield "port", "is the collector's, with remote; listen has its own"
        if address.is_multicast or address == IPv4Address("255.255.255.255"):
            yield "listen", f"{address} is not the address of a host"
        if self.tls is not None and self.tls.certificate is None:
            yield "tls", "a listener shows a certificate: tls.certificate and tls.key are needed"
        if self.tls is not None and self.tls.server_name is not None:
            yield "tls", "server_name is the collector's, with remote"
        if not address.is_loopback and (self.tls is None or self.tls.ca is None):
            why = (
                f"{address} is not of the loopback device, and whoever connects gets the traffic: it takes tls with ca,"
            )
            yield "listen", f"{why} by which clients show certificates"
        for network in self.allow:
            if network.version != address.version:
                yield "allow", f"{network} is IPv{network.version}, but listen is IPv{address.version}"


Destination = Annotated[
    Annotated[DeviceDestination, Tag("<device destination>")]
    | Annotated[VmDestination, Tag("<vm destination>")]
    | Annotated[VxlanDestination, Tag("<vxlan destination>")]
    | Annotated[GeneveDestination, Tag("<geneve destination>")]
    | Annotated[GreDestination, Tag("<gre destination>")]
    | Annotated[ErspanDestination, Tag("<erspan destination>")]
    | Annotated[FileDestination, Tag("<file destination>")]
    | Annotated[PcapDestination, Tag("<pcap destination>")],
    type_of("destination"),
]


def _of_the_link(group: Address) -> bool:
    """Whether it is a group that stays on the link, or on the host: RFC 5771 section 4; RFC 7346 section 2."""
    if group.version == 4:
        return group in IPv4Network("224.0.0.0/24")
    return group.is_multicast and group.packed[1] & 15 <= 2


def _nowhere(address: Address) -> bool:
    return address.is_unspecified or address == IPv4Address("255.255.255.255")
