"""Where frames come from."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Annotated, Literal

from pydantic import Tag, model_validator

from mirrord.model.base import ErspanSession, GreKey, Model, Port, Vni, type_of
from mirrord.values.addresses import AnyAddress, NetworkList
from mirrord.values.guests import Connection, ContainerOrGlob, Engine, GuestOrGlob, Label, Nics
from mirrord.values.names import Device, Devices, Name, Netns
from mirrord.values.ports import VlanIds
from mirrord.values.written import Flag

ANY_ADDRESS = IPv4Address("0.0.0.0")  # noqa: S104 (it is no default: see the contradictions)


class CapturedSource(Model):
    """Frames that pass a NIC; those that are tunnel packets may be looked into."""

    inside: Literal["vxlan", "geneve", "gre", "any"] | None = None
    """Mean the frames inside of tunnel packets that pass by, as on the uplink of an overlay: filter, sampling and flow
    go by these, and nothing else is mirrored. `any`: all three. VXLAN and Geneve by their UDP ports (`inside_port`);
    GRE with Ethernet or IP in it. One tunnel is looked into, not another one inside of that. Of a packet that comes in
    IP fragments the first one counts, and has but a part of the frame."""
    strip: Flag = False
    """Mirror the frame inside alone (IP packets get an Ethernet header of zero addresses); else the whole packet."""
    inside_port: Port | None = None
    """The UDP port of the tunnel; left out: 4789 for VXLAN (many overlays use 8472), 6081 for Geneve."""
    vni: Vni | None = None
    """Only VXLAN and Geneve packets of this VNI."""
    key: GreKey | None = None
    """Only GRE packets with this key."""

    def _contradictions(self) -> Iterator[tuple[str, ...]]:
        for key, fits in (("inside_port", ("vxlan", "geneve")), ("vni", ("vxlan", "geneve", "any")), ("key", ("gre",))):
            if getattr(self, key) is not None and self.inside not in fits:
                yield key, f"needs {' or '.join(f'inside = {one!r}' for one in fits)}".replace("'", '"')
        if self.strip and self.inside is None:
            yield "strip", 'needs `inside`: "vxlan", "geneve", "gre" or "any"'


class DeviceSource(CapturedSource):
    """NICs by name or glob; in TOML a bare string is short for it."""

    type: Literal["device"] = "device"
    """A network device. A bare string is short for this with `device`."""
    device: Devices
    """A name, a glob (every device that matches, now or later), or a list of both. A glob leaves out what cannot be
    captured, with a note in `status`. Packets of a device without Ethernet (tun, WireGuard, PPP, sit, ipip, gre) get an
    Ethernet header with addresses of zeros, but in a file, which has them as they are."""
    vlan: VlanIds | None = None
    """Only frames whose outermost tag has this id, or one of these."""
    netns: Netns | None = None
    """The network namespace that the device is in: a name, the id of a process in it, or a path."""
    perspective: Literal["host", "guest"] = "host"
    """`guest`: the device is the host's end of a VM's or container's NIC, so directions turn around."""
    promiscuous: Flag = False
    """Have the NIC take frames for other addresses, too, while the session runs."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"device": value} if isinstance(value, str) else value


class BridgeSource(CapturedSource):
    """Every frame that enters or leaves a bridge, once: ingress from a port, egress from the host itself.

    What the bridge says for itself (spanning tree, queriers) and what is sent out of a port past it is neither.
    """

    type: Literal["bridge"] = "bridge"
    """Every frame that enters or leaves a bridge, once. Needs `direction = "both"`."""
    bridge: Device
    """The bridge's device."""
    vlan: VlanIds | None = None
    """Only frames whose outermost tag has this id, or one of these. On a bridge with `vlan_filtering` what comes in
    without a tag is of its port's VLAN (PVID), and is copied with that tag."""


class GuestSource(CapturedSource):
    """NICs of VMs or containers by the names that people use; the host's devices behind them come and go.

    Directions are the guest's: `ingress` is what the guest receives.
    """

    vlan: VlanIds | None = None
    """Only frames whose outermost tag has this id, or one of these."""


class VmSource(GuestSource):
    """A VM's NIC, found through libvirt. While the VM does not run the session waits."""

    type: Literal["vm"] = "vm"
    """NICs of VMs, found through libvirt (`virsh`, of Debian's libvirt-clients) and followed by its events."""
    vm: GuestOrGlob
    """The name or UUID of a VM, or a glob of names: every VM that matches, now or later."""
    nic: Nics = 0
    """Which of its NICs: an index in the order of the VM's definition, from 0 on; a MAC address, which lasts where an
    index moves as NICs are unplugged; or `"*"`, all of them."""
    connection: Connection = "qemu:///system"
    """The URI that libvirt is reached by; read-only. `"proc:"`: without libvirt, by the taps that this host's QEMUs
    hold open, and the names on their command lines; it needs the drop-in `processes.conf`."""


class ContainerSource(GuestSource):
    """A container's NIC, found through its engine. While the container does not run the session waits."""

    type: Literal["container"] = "container"
    """NICs of containers and pods, by the host's end of their veth: found through the engine's API or the cache of CNI,
    and followed by their events."""
    container: ContainerOrGlob | None = None
    """The name of a container, or its id (12 digits or more of it), or a glob of names. In the cache of CNI a pod is
    called `namespace/pod`, what belongs to none by its id."""
    label: Label | None = None
    """Every container with this label, now or later: `"app=web"`, or `"app"` with any value."""
    nic: Device = "eth0"
    """The NIC's name in the container."""
    engine: Engine = "auto"
    """`podman`, `docker`, or the path of the engine's socket; `auto`: whichever of the two is there, or both. The path
    of a directory is that of a cache of CNI, `/var/lib/cni/results`; to read it needs the drop-in `cni.conf`."""

    def _contradictions(self) -> Iterator[tuple[str, ...]]:
        yield from super()._contradictions()
        if self.container is None and self.label is None:
            yield "container", "needs the name of a container, or a label", "container", "label"
        if self.container is not None and self.label is not None:
            yield "label", "goes in place of `container`, not with it"


class TunnelSource(Model):
    """The receiving end of a tunnel; `allow` lists the peers, empty: any."""

    local: AnyAddress = ANY_ADDRESS
    """The address of this host that the tunnel ends at; 0.0.0.0 or :: for any that no other source of this type (and
    port) names: what comes to such an address is that source's alone, even where it does not want it. Required but with
    a `flow_network`."""
    flow_network: Name | None = None
    """In place of `local`: the address that this host has in a flow network, which its mirror may send by, too. `allow`
    is the flow network's own network then, unless it is given. While there is no address, the session waits."""
    allow: NetworkList = ()
    """Networks that the senders may be in; empty: any."""

    def _contradictions(self) -> Iterator[tuple[str, ...]]:
        if self.flow_network is not None:
            if self.local != ANY_ADDRESS:
                yield "local", "is the flow network's to choose: leave one of the two out"
            return
        if "local" not in self.model_fields_set:
            why = "expected a value: this key is required, or flow_network in its place"
            yield "local", why, "local", "flow_network"
        for network in self.allow:
            if network.version != self.local.version:
                yield "allow", f"{network} is IPv{network.version}, but local is IPv{self.local.version}"


class VxlanSource(TunnelSource):
    """RFC 7348; without `vni`, every VNI."""

    type: Literal["vxlan"] = "vxlan"
    """VXLAN (RFC 7348), received."""
    port: Port = 4789
    """UDP port that is listened on."""
    vni: Vni | None = None
    """Only this VNI; left out: every one."""


class GeneveSource(TunnelSource):
    """RFC 8926; without `vni`, every VNI."""

    type: Literal["geneve"] = "geneve"
    """Geneve (RFC 8926), received. Of Ethernet, or of IP packets, as the clouds' load balancers
    and mirrors send them, which get an Ethernet header with addresses of zeros. A packet of control (O), or with an
    option that has to be understood (C), counts as `malformed`. What mirrord's `metadata` tell (direction, time,
    truncated, device) goes on: into `metadata` again, and all but the device into ERSPAN's header, ids of egress
    frames, a file's packets. Numbers that are missing are counted. Other options are skipped."""
    port: Port = 6081
    """UDP port that is listened on."""
    vni: Vni | None = None
    """Only this VNI; left out: every one."""


class TzspSource(TunnelSource):
    """The sniffer of MikroTik's RouterOS, among others."""

    type: Literal["tzsp"] = "tzsp"
    """TZSP with Ethernet in it, as MikroTik's sniffer sends it (`/tool sniffer`, streaming; `sniff-tzsp`), received."""
    port: Port = 37008
    """UDP port that is listened on."""


class GreSource(TunnelSource):
    """RFC 2784, 2890; without `key`, with any key and none."""

    type: Literal["gre"] = "gre"
    """GRE with Ethernet in it (RFC 2784, 2890), received."""
    key: GreKey | None = None
    """Only this key; left out: any, and none."""


class ErspanSource(TunnelSource):
    """ERSPAN I, II and III; without `session_id`, every one."""

    type: Literal["erspan"] = "erspan"
    """ERSPAN I, II and III, received. What the sender's header says of the frame goes on: VLAN, COS and truncated into
    ERSPAN's header, III's direction also into whatever tells one. Its time does not: it comes round every 429 s. A tag
    that the sender took off is not put back."""
    session_id: ErspanSession | None = None
    """Only this session; left out: every one."""


Source = Annotated[
    Annotated[DeviceSource, Tag("<device source>")]
    | Annotated[BridgeSource, Tag("<bridge source>")]
    | Annotated[VmSource, Tag("<vm source>")]
    | Annotated[ContainerSource, Tag("<container source>")]
    | Annotated[VxlanSource, Tag("<vxlan source>")]
    | Annotated[GeneveSource, Tag("<geneve source>")]
    | Annotated[GreSource, Tag("<gre source>")]
    | Annotated[ErspanSource, Tag("<erspan source>")]
    | Annotated[TzspSource, Tag("<tzsp source>")],
    type_of("source"),
]
