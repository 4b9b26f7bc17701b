"""The vocabulary: what a configuration, a state database and the API may say. No I/O, nothing about the host.

Every model is frozen, refuses unknown keys and contradictions, and gives back the same vocabulary with
`model_dump(mode="json")`, which validates again to an equal model. What depends on more than one object (a name that
must exist, two users of one device) is in control/refusals.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from mirrord.values import (
    Address,
    Addresses,
    AnyAddress,
    Between,
    Description,
    Device,
    Devices,
    Endpoint,
    Flag,
    Group,
    Listen,
    Name,
    Netns,
    NetworkList,
    Networks,
    OptionalSocket,
    Path,
    Pattern,
    Percentage,
    Ports,
    Protocol,
    Rate,
    RingSize,
    Size,
    Socket,
    VlanId,
    VlanIds,
    show_protocol,
)

DirectionName = Literal["ingress", "egress", "both"]
Port = Annotated[int, Between(1, 65535)]
Vni = Annotated[int, Between(0, (1 << 24) - 1)]
GreKey = Annotated[int, Between(0, (1 << 32) - 1)]
ErspanSession = Annotated[int, Between(0, 1023)]
Mark = Annotated[int, Between(1, (1 << 32) - 1)]
Count = Annotated[int, Between(0, (1 << 31) - 1)]

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
ETHERTYPE_FAMILIES = {0x0800: 4, 0x86DD: 6}


class ContradictionError(ValueError):
    """Keys of one object that exclude each other: (key, why) for each."""

    def __init__(self, found: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{key}: {why}" for key, why in found))
        self.found = found


def repeated(key: str, part: str, values: Iterable[object]) -> Iterator[tuple[str, str]]:
    """Contradictions in a list under `key`, whose items have these values of `part`, which must be unique."""
    for value, times in Counter(values).items():
        if times > 1:
            yield key, f"{part} {value!r} is used more than once"


class Model(BaseModel):
    """What all models share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        """Each key that does not go with another one, and why."""
        yield from ()

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Model:
        if found := list(self._contradictions()):
            raise ContradictionError(found)
        return self


class Daemon(Model):
    """The process: its sockets, files and marks."""

    socket: Socket = "/run/mirrord/mirrord.sock"
    socket_group: Group = ""
    read_only_socket: OptionalSocket = ""
    read_only_group: Group = ""
    metrics: Listen = Endpoint("127.0.0.1", 9817)
    state: Path = "/var/lib/mirrord/state.db"
    include: tuple[Pattern, ...] = ("/etc/mirrord/conf.d/*.toml",)
    capture_directories: tuple[Path, ...] = ("/var/lib/mirrord/captures",)
    mark: Mark = 0x10000000
    mark_mask: Mark = 0x10000000
    dataplane: Literal["auto", "native", "python"] = "auto"
    ring_size: RingSize = 8 << 20
    nice: Annotated[int, Between(-20, 19)] = 0
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        if self.mark & ~self.mark_mask:
            yield "mark", f"{self.mark:#x} has bits outside mark_mask {self.mark_mask:#x}: no frame would match"
        if self.read_only_group and not self.read_only_socket:
            yield "read_only_group", "there is no read_only_socket for it"
        if self.socket == self.read_only_socket:
            yield "read_only_socket", "must be another path than socket"


class FlowNetwork(Model):
    """A device, addresses and a gateway set aside for copies."""

    device: Device
    addresses: Addresses
    gateway: AnyAddress | None = None

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        if self.gateway is None or self.gateway.is_link_local:
            return
        if self.gateway not in self.addresses.network:
            yield "gateway", f"{self.gateway} is not in {self.addresses.network}"
        elif int(self.addresses.first) <= int(self.gateway) <= int(self.addresses.last):
            yield "gateway", f"{self.gateway} is one of the addresses"


class Rule(Model):
    """One line of a filter; a key that is None matches anything."""

    priority: Annotated[int, Between(1, 65535)]
    action: Literal["accept", "reject"]
    direction: DirectionName = "both"
    family: Literal["ipv4", "ipv6"] | None = None
    protocol: Protocol | None = None
    source: Networks | None = None
    destination: Networks | None = None
    source_ports: Ports | None = None
    destination_ports: Ports | None = None
    vlan: VlanId | None = None
    ethertype: Annotated[int, Between(0x0600, 0xFFFF)] | None = None  # below 0x0600 it is a length, IEEE 802.3 3.2.6

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        for key in ("source_ports", "destination_ports"):
            if getattr(self, key) is None or self.protocol in (TCP, UDP, SCTP):
                continue
            if self.protocol is None:
                yield key, "ports need a protocol: name tcp, udp or sctp"
            else:
                yield key, f"protocol {show_protocol(self.protocol)} has no ports; only tcp, udp and sctp have"
        yield from self._families()

    def _families(self) -> Iterator[tuple[str, str]]:
        """Keys that leave no IP version for the ones before them."""
        possible, because = {4, 6}, ""
        for key, versions in self._versions():
            if not possible & versions:
                yield key, f"IPv{min(versions)} only, but {because} is IPv{min(possible)} only: no frame can match"
                return
            if not possible <= versions:
                possible, because = possible & versions, key
        keys = ("family", "protocol", "source", "destination")
        used = next((key for key in keys if getattr(self, key) is not None), None)
        if used and self.ethertype is not None and self.ethertype not in ETHERTYPE_FAMILIES:
            yield "ethertype", f"{self.ethertype:#06x} is not IP, but {used} asks for IP: no frame can match"

    def _versions(self) -> Iterator[tuple[str, set[int]]]:
        if self.family is not None:
            yield "family", {int(self.family[-1])}
        for key, networks in (("source", self.source), ("destination", self.destination)):
            if networks is not None:
                yield key, {network.version for network in networks}
        if self.protocol in (ICMP, ICMPV6):
            yield "protocol", {4 if self.protocol == ICMP else 6}
        if self.ethertype in ETHERTYPE_FAMILIES:
            yield "ethertype", {ETHERTYPE_FAMILIES[self.ethertype]}


class Filter(Model):
    """Rules, tried in ascending priority; the first match decides."""

    rules: tuple[Rule, ...]

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        if not self.rules:
            yield "rules", "expected at least one rule: a filter without rules copies nothing"
        yield from repeated("rules", "priority", [rule.priority for rule in self.rules])


class DeviceSource(Model):
    """NICs by name or glob; in TOML a bare string is short for it."""

    type: Literal["device"] = "device"
    device: Devices
    vlan: VlanIds | None = None
    netns: Netns | None = None
    perspective: Literal["host", "guest"] = "host"
    promiscuous: Flag = False

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"device": value} if isinstance(value, str) else value


class BridgeSource(Model):
    """Every frame that enters or leaves a bridge, once: ingress from a port, egress from the host itself.

    What the bridge says for itself (spanning tree, queriers) and what is sent out of a port past it is neither.
    """

    type: Literal["bridge"] = "bridge"
    bridge: Device
    vlan: VlanIds | None = None


class TunnelSource(Model):
    """The receiving end of a tunnel; `allow` lists the peers, empty: any."""

    local: AnyAddress
    allow: NetworkList = ()

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        for network in self.allow:
            if network.version != self.local.version:
                yield "allow", f"{network} is IPv{network.version}, but local is IPv{self.local.version}"


class VxlanSource(TunnelSource):
    """RFC 7348; without `vni`, every VNI."""

    type: Literal["vxlan"] = "vxlan"
    port: Port = 4789
    vni: Vni | None = None


class GreSource(TunnelSource):
    """RFC 2784, 2890; without `key`, with any key and none."""

    type: Literal["gre"] = "gre"
    key: GreKey | None = None


class ErspanSource(TunnelSource):
    """ERSPAN I, II and III; without `session_id`, every one."""

    type: Literal["erspan"] = "erspan"
    session_id: ErspanSession | None = None


def _default_original_vlan(data: dict[str, Any]) -> Literal["strip", "keep"]:
    return "keep" if data.get("vlan") is None else "strip"


class DeviceDestination(Model):
    """SPAN, or RSPAN with `vlan`. `original_vlan` is what becomes of a frame's outermost tag.

    By default it is "strip" where `vlan` takes the tag's place or the source selected by `vlan`, else "keep".
    """

    type: Literal["device"] = "device"
    device: Device
    vlan: VlanId | None = None
    original_vlan: Literal["strip", "keep"] = Field(default_factory=_default_original_vlan)
    netns: Netns | None = None
    normal_io: Flag = True
    allow_default_route: Flag = False

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        if self.netns is not None and not self.normal_io:
            yield "normal_io", "a device in another network namespace cannot be reserved"


class TunnelDestination(Model):
    """What every encapsulation in IP takes."""

    remote: AnyAddress
    local: AnyAddress | None = None
    dscp: Annotated[int, Between(0, 63)] = 0
    ttl: Annotated[int, Between(1, 255)] = 64
    netns: Netns | None = None

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        if _nowhere(self.remote):
            yield "remote", f"{self.remote} is not the address of a host"
        if self.remote.version == 6 and self.remote.is_link_local:
            yield "remote", f"{self.remote} is link-local: no route leads to it, only a device"
        if self.local is None:
            return
        if self.local.version != self.remote.version:
            yield "local", f"{self.local} is IPv{self.local.version}, but remote is IPv{self.remote.version}"
        if _nowhere(self.local) or self.local.is_multicast:
            yield "local", f"{self.local} is not the address of a host"


class VxlanDestination(TunnelDestination):
    """RFC 7348."""

    type: Literal["vxlan"] = "vxlan"
    vni: Vni
    port: Port = 4789
    shared_vni: Flag = False


class GeneveDestination(TunnelDestination):
    """RFC 8926."""

    type: Literal["geneve"] = "geneve"
    vni: Vni
    port: Port = 6081


class GreDestination(TunnelDestination):
    """Transparent Ethernet bridging, RFC 1701 protocol 0x6558; RFC 2784, 2890."""

    type: Literal["gre"] = "gre"
    key: GreKey | None = None


class ErspanDestination(TunnelDestination):
    """ERSPAN, draft-foschiano-erspan. Type I has no header, so no place for a session id."""

    type: Literal["erspan"] = "erspan"
    erspan_type: Literal["I", "II", "III"]
    session_id: ErspanSession | None = None
    cos: Annotated[int, Between(0, 7)] = 0
    index: Annotated[int, Between(0, (1 << 20) - 1)] = 0
    hardware_id: Annotated[int, Between(0, 63)] = 0
    sgt: Annotated[int, Between(0, 65535)] = 0

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        yield from super()._contradictions()
        if self.session_id is None and self.erspan_type != "I":
            yield "session_id", f"required by type {self.erspan_type}"
        carried = {"I": (), "II": ("cos", "index"), "III": ("cos", "hardware_id", "sgt")}[self.erspan_type]
        for key in ("cos", "index", "hardware_id", "sgt"):
            if getattr(self, key) and key not in carried:
                yield key, f"type {self.erspan_type} does not carry it"


class FileDestination(Model):
    """pcapng files; 0 never rotates, and `keep = 0` keeps them all."""

    type: Literal["file"] = "file"
    path: Path
    rotate_size: Size = 0
    rotate_seconds: Count = 0
    keep: Count = 0

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        if self.keep and not (self.rotate_size or self.rotate_seconds):
            yield "keep", "needs rotate_size or rotate_seconds: one file is never replaced"


def _type_of(side: str) -> Discriminator:
    """Choose by `type`. The tag names the side, too, so that it is told from a key in an error's location."""

    def tag(value: object) -> str | None:
        if isinstance(value, str):
            return f"<device {side}>" if side == "source" else None
        kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
        return None if kind is None else f"<{kind} {side}>"

    return Discriminator(tag)


Source = Annotated[
    Annotated[DeviceSource, Tag("<device source>")]
    | Annotated[BridgeSource, Tag("<bridge source>")]
    | Annotated[VxlanSource, Tag("<vxlan source>")]
    | Annotated[GreSource, Tag("<gre source>")]
    | Annotated[ErspanSource, Tag("<erspan source>")],
    _type_of("source"),
]
Destination = Annotated[
    Annotated[DeviceDestination, Tag("<device destination>")]
    | Annotated[VxlanDestination, Tag("<vxlan destination>")]
    | Annotated[GeneveDestination, Tag("<geneve destination>")]
    | Annotated[GreDestination, Tag("<gre destination>")]
    | Annotated[ErspanDestination, Tag("<erspan destination>")]
    | Annotated[FileDestination, Tag("<file destination>")],
    _type_of("destination"),
]


def _default_direction(data: dict[str, Any]) -> DirectionName:
    return "ingress" if isinstance(data.get("source"), TunnelSource) else "both"


class Session(Model):
    """Source, direction and filter to a destination. `direction` is "both" by default, "ingress" from a tunnel."""

    name: Name
    priority: Annotated[int, Between(1, 65535)] | None = None
    source: Source
    direction: DirectionName = Field(default_factory=_default_direction)
    filter: Name | None = None
    destination: Destination
    snaplen: Count = 0
    sampling_rate: Annotated[int, Between(1, (1 << 31) - 1)] = 1
    rate_limit: Rate = 0
    on_mtu_exceeded: Literal["truncate", "fragment", "drop"] = "truncate"
    count_rules: Flag = False
    mirror_tunnels: Flag = False
    capture: Literal["auto", "ring", "socket"] = "auto"
    ring_size: RingSize | None = None  # None: the daemon's
    workers: Annotated[int, Between(1, 256)] = 1
    transmit: Literal["auto", "packet", "socket"] = "auto"
    gso: Literal["auto", "on", "off"] = "auto"
    pause_above: Percentage = 0

    @field_validator("destination")
    @classmethod
    def _strip_what_selected(cls, value: Model, info: ValidationInfo) -> Model:
        """Write the default out that depends on the source, so that what is shown says what is done."""
        selected = getattr(info.data.get("source"), "vlan", None) is not None
        if selected and isinstance(value, DeviceDestination) and "original_vlan" not in value.model_fields_set:
            return value.model_copy(update={"original_vlan": "strip"})
        return value

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        if isinstance(self.source, BridgeSource) and self.direction != "both":
            yield "direction", 'must be "both" for a bridge'
        if isinstance(self.source, TunnelSource) and self.direction != "ingress":
            yield "direction", 'must be "ingress" for a tunnel that is received'
        if isinstance(self.source, TunnelSource) and self.capture == "ring":
            yield "capture", '"ring" does not apply to a tunnel that is received'
        if self.workers > 1 and isinstance(self.source, TunnelSource):
            yield "workers", "a tunnel that is received has one socket, which one worker reads"
        if self.workers > 1 and isinstance(self.destination, FileDestination):
            yield "workers", "a file is written by one worker, in the order that frames were captured"
        if self.count_rules and self.filter is None:
            yield "count_rules", "needs a filter"
        if not isinstance(self.destination, TunnelDestination):
            kind = self.destination.type
            if self.transmit == "socket" or (self.transmit == "packet" and kind == "file"):
                yield "transmit", f'"{self.transmit}" does not apply to a {kind} destination'
            if self.on_mtu_exceeded == "fragment":
                yield "on_mtu_exceeded", f"a {kind} destination has no IP header to fragment by"


class Mirror(Model):
    """A named group of sessions that is enabled, disabled and deleted together."""

    description: Description = ""
    flow_network: Name | None = None
    enabled: Flag = True
    overlap: Literal["all", "first"] = "all"
    sessions: tuple[Session, ...] = ()

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        yield from repeated("sessions", "name", [session.name for session in self.sessions])
        if self.overlap == "first":
            yield from repeated("sessions", "priority", [one.priority for one in self.sessions if one.priority])


class Config(Model):
    """All that files, or the state database, say."""

    daemon: Daemon = Daemon()
    flow_networks: dict[Name, FlowNetwork] = {}
    filters: dict[Name, Filter] = {}
    mirrors: dict[Name, Mirror] = {}


def _nowhere(address: Address) -> bool:
    return address.is_unspecified or address == IPv4Address("255.255.255.255")
