"""Guests' names to devices: what a session resolves to, and what it says while it cannot."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mirrord.control.guests.cni import containers
from mirrord.control.guests.follower import Follower, UnreachableError
from mirrord.control.guests.inventory import Answer, Guest, GuestNic, Place
from mirrord.control.guests.libvirt import domains, guest
from mirrord.control.guests.processes import Nic, machines, told
from mirrord.control.host.view import Link, View
from mirrord.control.planning.guests import Resolved, places, resolve
from mirrord.control.planning.plan import Planner, Replace, diff
from mirrord.dataplane.counters import Slot
from mirrord.model import Config, DeviceDestination, DeviceSource

HERE = Place("vm", "qemu:///system")
NICS = (GuestNic("", "52:54:00:00:00:01", "vnet0"), GuestNic("", "52:54:00:00:00:02", "vnet1"))
VM1 = Guest("VM-1", "11111111-1111-1111-1111-111111111111", True, NICS)
VM2 = Guest("VM-2", "22222222-2222-2222-2222-222222222222", True, (GuestNic("", "52:54:00:00:00:03", "vnet2"),))
OFF = Guest("off", "33333333-3333-3333-3333-333333333333", False, (GuestNic("", "52:54:00:00:00:04", ""),))
DPDK = Guest("dpdk", "4", True, (GuestNic("", "52:54:00:00:00:05", "", "past the kernel"),))
VMS = {HERE: Answer((VM1, VM2, OFF, DPDK))}
WEB = Guest("web", "abcdef0123456789", True, (GuestNic("eth0", "aa:00:00:00:00:01", "veth7"),), {"app": "web"})
PODMAN, DOCKER = Place("container", "podman"), Place("container", "docker")


def config(source: dict[str, Any], destination: dict[str, Any] | None = None) -> Config:
    to = destination or {"type": "vxlan", "remote": "192.0.2.1", "vni": 1}
    return Config.model_validate({"mirrors": {"m": {"sessions": [{"name": "s", "source": source, "destination": to}]}}})


def devices(resolved: Resolved) -> tuple[str, ...]:
    (session,) = resolved.config.mirrors["m"].sessions
    assert isinstance(session.source, DeviceSource)
    assert session.source.perspective == "guest"
    return session.source.device


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ({"vm": "VM-2"}, ("vnet2",)),
        ({"vm": "VM-1", "nic": 1}, ("vnet1",)),
        ({"vm": "VM-1", "nic": "52:54:00:00:00:02"}, ("vnet1",)),
        ({"vm": "VM-1", "nic": "*"}, ("vnet0", "vnet1")),
        ({"vm": VM1.id, "nic": 0}, ("vnet0",)),
        ({"vm": "VM-*"}, ("vnet0", "vnet2")),
        ({"vm": "VM-*", "nic": 1}, ("vnet1",)),  # VM-2 has no second one, VM-1 is mirrored all the same
    ],
)
def test_a_vms_nics_are_found(chosen: dict[str, Any], found: tuple[str, ...]) -> None:
    assert devices(resolve(config({"type": "vm", **chosen}), VMS)) == found


@pytest.mark.parametrize(
    ("chosen", "why"),
    [
        ({"vm": "VM-3"}, "there is no VM VM-3 here"),
        ({"vm": "web*"}, "no VM matches web*"),
        ({"vm": "off"}, "VM off does not run"),
        ({"vm": "VM-1", "nic": 2}, "VM-1 has 2 NICs, not 2"),
        ({"vm": "VM-2", "nic": "52:54:00:00:00:09"}, "VM-2 has 1 NIC, not 52:54:00:00:00:09"),
        ({"vm": "dpdk"}, "52:54:00:00:00:05 of dpdk cannot be captured: past the kernel"),
    ],
)
def test_what_is_not_there_is_waited_for_by_name(chosen: dict[str, Any], why: str) -> None:
    resolved = resolve(config({"type": "vm", **chosen}), VMS)
    assert resolved.absent == {("m", "s"): ((f"vm:{chosen['vm']}", "waiting", why),)}


def test_a_manager_that_is_away_is_named_and_its_last_answer_holds() -> None:
    away = {HERE: Answer((VM1,), "libvirt has gone away")}
    assert devices(resolve(config({"type": "vm", "vm": "VM-1"}), away)) == ("vnet0",)
    (absent,) = resolve(config({"type": "vm", "vm": "VM-2"}), away).absent["m", "s"]
    assert absent.reason == "libvirt has gone away"


def test_a_vms_first_nic_is_no_destination_unless_allowed() -> None:
    to = {"type": "vm", "vm": "VM-1", "nic": 0}
    (absent,) = resolve(config({"type": "device", "device": "eth0"}, to), VMS).absent["m", "s"]
    assert absent.label == "eth0"
    assert absent.state == "failed"
    resolved = resolve(config({"type": "device", "device": "eth0"}, {**to, "allow_default_route": True}), VMS)
    destination = resolved.config.mirrors["m"].sessions[0].destination
    assert isinstance(destination, DeviceDestination)
    assert destination.device == "vnet0"
    assert resolved.about("m", "s", "eth0") == {"guest": "", "destination": "vm VM-1 nic 0 (device vnet0)"}


def test_copies_are_not_for_whoever_takes_the_name_of_another_vm() -> None:
    """A QEMU that libvirt does not know chooses its own name and UUID."""
    to = {"type": "vm", "vm": "VM-1", "nic": 1}
    without = Guest("VM-1", "0", True, (GuestNic("", "02:00:00:00:00:01", "", "no tap"),) * 2)
    resolved = resolve(config({"type": "device", "device": "eth0"}, to), {HERE: Answer((without, VM1))})
    assert resolved.about("m", "s", "eth0")["destination"] == "vm VM-1 nic 1 (device vnet1)"
    another = replace(without, nics=(NICS[0], GuestNic("", "02:00:00:00:00:02", "tap0")))
    (absent,) = resolve(config({"type": "device", "device": "eth0"}, to), {HERE: Answer((another, VM1))}).absent[
        "m", "s"
    ]
    assert (absent.state, "2 VMs are called VM-1" in absent.reason) == ("waiting", True)


class Surprising(Follower):
    """A manager whose first answer is one that nobody foresaw."""

    def __init__(self) -> None:
        self.looks = 0
        super().__init__("a manager", lambda: None)

    async def look(self) -> tuple[Guest, ...]:
        self.looks += 1
        if self.looks == 1:
            raise KeyError("Id")
        return (VM1,)

    async def events(self) -> AsyncGenerator[None, None]:
        yield
        await asyncio.Event().wait()


async def test_what_nobody_foresaw_ends_no_following() -> None:
    manager = Surprising()
    for _ in range(500):
        if manager.answer.guests:
            break
        await asyncio.sleep(0.01)
    assert manager.answer == Answer((VM1,))
    await manager.close()


@pytest.mark.parametrize(
    ("chosen", "found"),
    [({"container": "web"}, True), ({"container": "abcdef012345"}, True), ({"container": "w*"}, True),
     ({"label": "app=web"}, True), ({"label": "app"}, True), ({"label": "app=db"}, False), ({"container": "we"}, False),
     ({"container": "abcdef"}, False), ({"container": "web", "nic": "eth1"}, False)],
)  # fmt: skip
def test_a_containers_nic_is_found_by_name_id_and_label(chosen: dict[str, str], *, found: bool) -> None:
    inventory = {PODMAN: Answer((WEB,)), DOCKER: Answer(problem="it is not there")}
    resolved = resolve(config({"type": "container", **chosen}), inventory)
    assert devices(resolved) == (("veth7",) if found else ())
    assert bool(resolved.absent) != found


def test_a_container_without_an_end_here_is_looked_at_from_within() -> None:
    macvlan = Guest("mac", "a" * 64, True, labels={"app": "web"}, netns="4711")
    shared = Guest(
        "host", "b" * 64, True, reason="it is in the network namespace of the host: mirror the host's devices"
    )
    inventory = {PODMAN: Answer((macvlan, shared, replace(macvlan, name="two", id="c" * 64, netns="4712")))}
    chosen = {"type": "container", "engine": "podman", "nic": "eth0"}
    (session,) = resolve(config({**chosen, "container": "mac"}), inventory).config.mirrors["m"].sessions
    assert isinstance(session.source, DeviceSource)
    assert (session.source.device, session.source.netns, session.source.perspective) == (("eth0",), "4711", "host")
    for which, why in (("container", "host has no NIC eth0: it is in"), ("label", "several containers match")):
        (absent,) = resolve(config({**chosen, which: "host" if which == "container" else "app"}), inventory).absent[
            "m", "s"
        ]
        assert absent.state == "waiting"
        assert absent.reason.startswith(why)
    both = {PODMAN: Answer((macvlan, WEB))}
    assert devices(resolve(config({**chosen, "label": "app=web"}), both)) == ("veth7",)


def test_without_guests_nothing_is_made_anew() -> None:
    plain = config({"type": "device", "device": "eth0"})
    assert resolve(plain, {}).config is plain
    assert places(plain) == frozenset()
    assert places(config({"type": "container", "container": "web"})) == {PODMAN, DOCKER}


def test_what_another_guest_does_leaves_a_session_as_it_was() -> None:
    """The same objects, resolved and planned: a change, or news of a guest, costs what it changes."""
    to = {"type": "vxlan", "remote": "192.0.2.1", "vni": 1}
    sessions = [{"name": f"s{n}", "source": {"type": "vm", "vm": f"VM-{n}"}, "destination": to} for n in (1, 2)]
    words = Config.model_validate({"mirrors": {"m": {"sessions": sessions}}})
    view = View(links={f"vnet{n}": Link(f"vnet{n}", n + 1, 1500) for n in range(4)})
    moved = Guest("VM-2", VM2.id, True, (GuestNic("", "52:54:00:00:00:03", "vnet3"),))
    before = resolve(words, VMS)
    after = resolve(words, {HERE: Answer((VM1, moved))}, before)
    old, new = before.config.mirrors["m"].sessions, after.config.mirrors["m"].sessions
    assert [one is other for one, other in zip(old, new, strict=True)] == [True, False]
    assert resolve(words, VMS, before).config.mirrors["m"] is before.config.mirrors["m"]
    planner = Planner()
    first, second = planner.make(before, view), planner.make(after, view)
    assert {key.source for key in second} == {"vnet0", "vnet3"}
    assert [first[key] is second[key] for key in first if key in second] == [True]


def test_a_tunnel_for_a_vm_that_has_left_is_received_on_and_counted_as_lost() -> None:
    source = {"type": "vxlan", "local": "192.0.2.9", "vni": 7}
    words = config(source, {"type": "vm", "vm": "VM-1", "nic": 1})
    view = View(links={"vnet1": Link("vnet1", 2, 1500)}, addresses=frozenset([ip_address("192.0.2.9")]))
    planner = Planner()
    there = planner.make(resolve(words, VMS), view)
    gone = planner.make(resolve(words, {HERE: Answer((VM2,))}), view)
    (key,) = there
    assert (gone[key].state, gone[key].reason) == ("waiting", "there is no VM VM-1 here")
    old, new = there[key].pipeline, gone[key].pipeline
    assert old is not None
    assert new is not None
    (action,) = diff({key: old}, {key: new})
    assert isinstance(action, Replace)  # its socket is never without an owner
    assert action.pipeline.forward.blocked is Slot.dropped_no_route
    assert action.pipeline.transmit == old.transmit
    assert diff({key: action.pipeline}, {key: new}) == []
    back = planner.make(resolve(words, VMS), replace(view, links={"vnet1": Link("vnet1", 9, 1500)}))
    assert back[key].state == "up"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ({"type": "vm", "vm": "VM-1", "nic": "eth0"}, "the index of a NIC"),
        ({"type": "vm", "vm": "VM-1", "nic": True}, "the index of a NIC"),
        ({"type": "vm", "vm": ""}, "a name or an id"),
        ({"type": "vm", "vm": "VM-1", "connection": "qemu"}, "a URI of libvirt"),
        ({"type": "container"}, "needs the name of a container, or a label"),
        ({"type": "container", "container": "a", "label": "b"}, "goes in place of"),
        ({"type": "container", "container": "a", "engine": "lxc"}, '"auto", "podman", "docker"'),
    ],
)
def test_wrong_words_are_refused(source: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        config(source)


DOCUMENT = """virsh # dumpxml 1
<domain type='kvm' id='7'>
  <name>VM-1</name>
  <uuid>11111111-1111-1111-1111-111111111111</uuid>
  <metadata>
    <domain xmlns='urn:x'>no end of it</domain>
  </metadata>
  <devices>
    <interface type='bridge'><mac address='52:54:00:AA:00:01'/><target dev='vnet0'/></interface>
    <interface type='hostdev'><mac address='52:54:00:aa:00:02'/><target dev='hostdev0'/></interface>
    <interface type='direct'><mac address='52:54:00:aa:00:03'/><target dev='macvtap0'/></interface>
  </devices>
</domain>

virsh # domstate --reason 1
paused (migrating)

<domain type='kvm'>
  <name>off</name>
  <uuid>2</uuid>
  <devices><interface type='bridge'><mac address='52:54:00:aa:00:04'/></interface></devices>
</domain>

shut off (migrated)
"""


def test_libvirts_definitions_are_read() -> None:
    asked = "\n".join(line for line in DOCUMENT.splitlines() if not line.startswith("virsh "))
    one, off = (guest(*each) for each in domains(asked))
    assert (one.name, one.runs, [(nic.mac, nic.device) for nic in one.nics]) == (
        "VM-1", True, [("52:54:00:aa:00:01", "vnet0"), ("52:54:00:aa:00:02", ""), ("52:54:00:aa:00:03", "macvtap0")],
    )  # fmt: skip
    assert one.nics[1].reason.startswith("it is a device of the host handed to the VM")
    assert (off.name, off.runs, off.nics[0].device) == ("off", False, "")
    assert [one.moves, off.moves] == [True, False]
    gone = DOCUMENT.partition("</domain>\n\n")[0] + "</domain>\n"  # between the two questions
    assert [guest(*each).moves for each in domains(gone)] == [False]
    with pytest.raises(ValueError, match="not a definition"):
        guest("<domain")


LIBVIRTS = [
    "/usr/bin/qemu-system-x86_64", "-name", "guest=VM-1,debug-threads=on", "-S", "-uuid", VM1.id,
    "-netdev", '{"type":"tap","fd":"31","vhost":true,"vhostfd":"33","id":"hostnet0"}',
    "-device", '{"driver":"virtio-net-pci","netdev":"hostnet0","id":"net0","mac":"52:54:00:AA:00:01","bus":"pci.0"}',
    "-netdev", "tap,fds=34:35,id=hostnet1",
    "-device", "virtio-net-pci,netdev=hostnet1,mac=52:54:00:aa:00:02",
]  # fmt: skip
PROXMOXS = [
    "/usr/bin/kvm", "-id", "101", "-name", "web,,1,debug-threads=on",
    "-device", "virtio-net-pci,mac=BC:24:11:00:00:01,netdev=net0,bus=pci.0",
    "-netdev", "type=tap,id=net0,ifname=tap101i0,script=/usr/libexec/qemu-server/pve-bridge",
    "--nic", "user,mac=52:54:00:aa:00:03", "-nic", "tap,mac=52:54:00:aa:00:04",
]  # fmt: skip


def test_a_qemus_command_line_is_read() -> None:
    assert told(LIBVIRTS) == (
        "VM-1",
        VM1.id,
        [Nic("hostnet0", "tap", "52:54:00:aa:00:01", 31), Nic("hostnet1", "tap", "52:54:00:aa:00:02", 34)],
    )
    assert told(PROXMOXS) == (
        "web,1",
        "",
        [
            Nic("net0", "tap", "bc:24:11:00:00:01", tap="tap101i0"),
            Nic("-nic 1", "user", "52:54:00:aa:00:03"),
            Nic("-nic 2", "tap", "52:54:00:aa:00:04"),
        ],
    )
    assert told(["qemu-system-x86_64", "-netdev", "{", "-device", "x,netdev=none", "-name"]) == ("", "", [])


def test_what_another_user_writes_into_a_command_line_keeps_no_vm_from_being_found(tmp_path: Path) -> None:
    """Words that JSON and Python's numbers have bounds for: nested without end, and of more digits than are read."""
    deep = '{"id": ' + "[" * 50_000 + "]" * 50_000 + "}"
    long = f"tap,id=a,fd={'9' * 5000}"
    words = [PROXMOXS[0], "-netdev", deep, "-netdev", long, "-device", "virtio-net-pci,netdev=a", "-nic", long]
    as_in_proc(tmp_path, "6", words, {})
    as_in_proc(tmp_path, "7", PROXMOXS, {3: "tap101i0"})
    as_in_proc(tmp_path, "1", ["init"], {})
    other, found = sorted(machines(tmp_path), key=lambda one: one.id)
    assert [nic.device for nic in other.nics] == ["", ""]
    assert found.nics[0].device == "tap101i0"


def as_in_proc(processes: Path, number: str, words: list[str], taps: dict[int, str]) -> None:
    """What the kernel shows of a process and its taps in /proc, in the form of drivers/net/tun.c, as files."""
    process = processes / number
    (process / "fdinfo").mkdir(parents=True)
    (process / "ns").mkdir()
    (process / "ns" / "net").symlink_to(Path("/proc/self/ns/net").readlink())
    (process / "cmdline").write_bytes("\0".join([*words, ""]).encode())
    for descriptor, name in taps.items():
        (process / "fdinfo" / str(descriptor)).write_text(f"pos:\t0\nflags:\t0104002\nmnt_id:\t26\niff:\t{name}\n")


def test_a_process_that_holds_taps_is_a_vm(tmp_path: Path) -> None:
    as_in_proc(tmp_path, "1", ["init"], {})
    as_in_proc(tmp_path, "7", PROXMOXS, {3: "tap101i0", 4: "tap0"})
    (found,) = machines(tmp_path)
    assert (found.name, found.id, found.runs) == ("web,1", "7", True)
    assert [nic.device for nic in found.nics] == ["tap101i0", "", "tap0"]
    assert found.nics[1].reason.startswith("its frames end in QEMU")
    (tmp_path / "7" / "ns" / "net").unlink()
    (tmp_path / "7" / "ns" / "net").symlink_to("net:[1]")
    (elsewhere,) = machines(tmp_path)
    assert [nic.device for nic in elsewhere.nics] == ["", "", ""]  # a tap of this name may be here, too: another one
    assert elsewhere.nics[0].reason == "its process (7) is in another network namespace"
    (tmp_path / "1" / "cmdline").unlink()
    for name in ("fdinfo", "ns/net", "ns"):
        one = tmp_path / "1" / name
        one.rmdir() if one.is_dir() and not one.is_symlink() else one.unlink()
    (tmp_path / "1").rmdir()
    with pytest.raises(UnreachableError, match=r"hidden .* the drop-in processes\.conf"):
        machines(tmp_path)


def test_a_cache_of_cni_is_read(tmp_path: Path) -> None:
    """By the forms of libcni's cache and of an ADD's result, CNI specification 1.0."""

    def write(name: str, container: str, interface: str, interfaces: list[dict[str, str]], **pod: str) -> None:
        arguments = [[key, value] for key, value in pod.items()]
        result = {"cniVersion": "1.0.0", "interfaces": interfaces}
        told = {"kind": "cniCacheV1", "containerId": container, "ifName": interface, "networkName": "net"}
        (tmp_path / name).write_text(json.dumps({**told, "cniArgs": arguments, "result": result}))

    bridge, veth = {"name": "cni0", "mac": "02:00:00:00:00:01"}, {"name": "veth1a2b", "mac": "02:00:00:00:00:02"}
    inside = {"name": "eth0", "mac": "02:00:00:00:00:0A", "sandbox": "/var/run/netns/cni-1"}
    pod = {"K8S_POD_NAMESPACE": "shop", "K8S_POD_NAME": "web-0"}
    write("net-aaa-eth0", "aaa", "eth0", [bridge, veth, inside], IgnoreUnknown="1", **pod)
    write("data-aaa-net1", "aaa", "net1", [{**inside, "name": "net1"}], **pod)
    write("net-bbb-eth0", "bbb", "eth0", [{"name": "cali12"}])
    (tmp_path / "half").write_text('{"kind":')
    (tmp_path / "other").write_text("[]")
    (tmp_path / "directory").mkdir()
    bbb, aaa = containers(tmp_path)
    assert (bbb.name, bbb.nics) == ("bbb", (GuestNic("eth0", "", "cali12"),))
    assert (aaa.name, aaa.id) == ("shop/web-0", "aaa")
    assert aaa.labels == {"io.kubernetes.pod.namespace": "shop", "io.kubernetes.pod.name": "web-0"}
    assert aaa.nics[0] == GuestNic("eth0", "02:00:00:00:00:0a", "veth1a2b")
    assert aaa.nics[1] == GuestNic("net1", "02:00:00:00:00:0a", "net1", netns="/var/run/netns/cni-1")
    cache = {Place("container", "/var/lib/cni/results"): Answer((aaa, bbb))}
    chosen = {"type": "container", "engine": "/var/lib/cni/results"}
    for how in ({"container": "shop/web-0"}, {"container": "shop/*"}, {"label": "io.kubernetes.pod.namespace=shop"}):
        assert devices(resolve(config({**chosen, **how}), cache)) == ("veth1a2b",)
