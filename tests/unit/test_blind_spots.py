"""What is said of sources whose tap does not see everything, of links that the tests' kernel cannot make as well."""

from __future__ import annotations

import struct
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from mirrord.control.host import traits as traits_of
from mirrord.control.host.offloaded import in_hardware
from mirrord.control.host.rtnetlink import attribute, attributes
from mirrord.control.host.traits import traits
from mirrord.control.host.view import Link, Traits, View
from mirrord.control.planning.blind_spots import blind_spots
from mirrord.control.planning.plan import Entry, Key, make
from mirrord.model import Config

ETH, ETH1, BOND = Link("eth0", 2, 1500), Link("eth1", 3, 1500, master=4), Link("bond0", 4, 1500, kind="bond")
TO_DEVICE = '{ type = "device", device = "span0" }'
SPAN = Link("span0", 9, 1500)


def entries(source: str, *links: Link, more: str = "", to: str = TO_DEVICE) -> dict[Key, Entry]:
    session = f'[[mirrors.m.sessions]]\nname = "s"\nsource = {source}\ndestination = {to}\n{more}'
    view = View(links={link.name: link for link in (SPAN, *links)})
    return make(Config.model_validate(tomllib.loads(session)), view)


def told(source: str, *links: Link, more: str = "", to: str = TO_DEVICE) -> list[tuple[str, bool]]:
    """What is said of each source, and whether it counts as bypassed."""
    made = entries(source, *links, more=more, to=to).values()
    return [(warning.problem, entry.bypassed) for entry in made for warning in entry.warnings]


def test_an_ordinary_device_has_nothing_to_tell() -> None:
    assert told('"eth0"', ETH) == []
    assert (
        told('"mt0"', replace(Link("mt0", 5, 1500, kind="macvtap", lower=2), traits=Traits(mode="passthru")), ETH) == []
    )


@pytest.mark.parametrize(
    ("link", "words", "bypassed"),
    [
        (replace(ETH, traits=Traits(xdp="offloaded")), "eth0 has an XDP program offloaded to the NIC", True),
        (replace(ETH, traits=Traits(xdp="several")), "eth0 has an XDP program in several modes", True),
        (replace(ETH, traits=Traits(functions=4)), "the NIC of eth0 has 4 virtual functions", True),
        (replace(replace(ETH, master=7), traits=Traits(virtual=True)), "eth0 is a virtual function", True),
        (replace(ETH, kind="netkit"), "eth0 is a netkit device", False),
        (replace(ETH, kind="vrf"), "eth0 is a VRF device", False),
        (replace(replace(ETH, kind="ipvlan"), traits=Traits(mode="l3s")), "eth0 is an ipvlan device in mode l3s", True),
    ],
)
def test_a_kind_of_device_is_told(link: Link, words: str, *, bypassed: bool) -> None:
    ((warning, counted),) = told('"eth0"', link)
    assert warning.startswith(words)
    assert counted is bypassed


@pytest.mark.parametrize(
    "link",
    [replace(ETH, kind="vrf"), replace(replace(ETH, kind="ipvlan"), traits=Traits(mode="l3s"))],
    ids=lambda link: link.kind,
)
def test_the_direction_that_a_device_has_none_of_is_refused(link: Link) -> None:
    (entry,) = entries('"eth0"', link, more='direction = "ingress"').values()
    assert (entry.state, 'direction = "ingress" has none; mirror the device' in entry.reason) == ("failed", True)
    guest = '{ type = "device", device = "eth0", perspective = "guest" }'
    (entry,) = entries(guest, link, more='direction = "egress"').values()
    assert (entry.state, 'direction = "egress" has none' in entry.reason) == ("failed", True)
    (entry,) = entries('"eth0"', link, more='direction = "egress"').values()
    assert entry.state == "up"


def test_a_bond_and_what_belongs_to_it_see_the_same_frames() -> None:
    warning = "eth1 belongs to bond0, which is a source of the mirror as well: frames are seen on both"
    assert told('{ type = "device", device = ["eth1", "bond0"] }', ETH1, BOND) == [(warning, False)]
    second = f'[[mirrors.m.sessions]]\nname = "t"\nsource = "bond*"\ndestination = {TO_DEVICE}'
    assert told('"eth1"', ETH1, BOND, more=second) == [(warning, False)]
    assert told('"eth1"', ETH1, BOND) == []
    vlan = Link("eth0.5", 6, 1500, kind="vlan", lower=2)
    assert [words for words, _ in told('"eth0*"', ETH, vlan)] == [
        "eth0.5 lies on eth0, which is a source of the session as well: frames are seen on both"
    ]


def test_a_bridge_into_files() -> None:
    port = replace(ETH, master=7)
    to = '{ type = "file", path = "/var/lib/mirrord/captures/a.pcapng" }'
    plain = Link("br0", 7, 1500, kind="bridge")
    ((warning, counted),) = told('{ type = "bridge", bridge = "br0" }', plain, port, to=to)
    assert ("the two directions of a conversation are in two files" in warning, counted) == (True, False)


def test_a_tunnel_has_no_tap() -> None:
    text = '[[mirrors.m.sessions]]\nname = "s"\ndirection = "ingress"\n'
    text += f'source = {{ type = "gre", local = "192.0.2.1" }}\ndestination = {TO_DEVICE}'
    mirror = Config.model_validate(tomllib.loads(text)).mirrors["m"]
    assert list(blind_spots(mirror, mirror.sessions[0], replace(ETH, traits=Traits(xdp="native")), View())) == []


def test_traits_are_read_from_the_links_attributes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers are linux/if_link.h's."""

    def read(kind: bytes, data: bytes, *found: tuple[int, bytes]) -> Traits:
        info = attribute(1, kind) + attribute(2, data)
        return traits(attributes(b"".join(attribute(*one) for one in found)), attributes(info))

    assert read(b"ipvlan\0", attribute(1, struct.pack("=H", 2))).mode == "l3s"
    assert read(b"macvtap\0", attribute(1, struct.pack("=I", 8))).mode == "passthru"
    assert read(b"bridge\0", attribute(7, b"\1")).vlan_filtering
    assert not read(b"bridge\0", attribute(7, b"\0")).vlan_filtering
    assert not read(b"bridge\0", attribute(7, b"\1") + attribute(8, b"\x88\xa8")).vlan_filtering  # 802.1ad's
    assert read(b"vxlan\0", attribute(7, b"\1")) == Traits()
    for attached, mode in enumerate(("", "native", "generic", "offloaded", "several")):
        assert read(b"veth\0", b"", (43, attribute(2, bytes((attached,))))).xdp == mode

    monkeypatch.setattr(traits_of, "PCI_DEVICES", tmp_path)
    for name, functions in (("pf", "4\n"), ("plain", "0\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sriov_numvfs").write_text(functions)
    (tmp_path / "vf").mkdir()
    (tmp_path / "vf" / "physfn").symlink_to(tmp_path / "pf")
    pci = (57, b"pci\0")
    assert read(b"\0", b"", (56, b"pf\0"), pci).functions == 4
    assert read(b"\0", b"", (56, b"vf\0"), pci).virtual
    assert read(b"\0", b"", (56, b"plain\0"), pci) == read(b"\0", b"", (56, b"gone\0"), pci) == Traits()
    assert read(b"\0", b"", (56, b"pf\0"), (57, b"virtio\0")) == Traits()


@pytest.mark.parametrize(("kind", "number"), [(b"bpf\0", 9), (b"flower\0", 22), (b"matchall\0", 3), (b"u32\0", 11)])
def test_a_classifier_in_hardware_is_known(kind: bytes, number: int) -> None:
    """The numbers are linux/pkt_cls.h's: TCA_CLS_FLAGS_SKIP_HW is 1, _IN_HW 4, _NOT_IN_HW 8."""
    for flags, known in ((0, False), (1, False), (4, True), (6, True), (8, False)):
        options = attribute(1, b"\0") + attribute(number, struct.pack("=I", flags))
        assert in_hardware(bytes(20) + attribute(1, kind) + attribute(2, options)) is known
    assert not in_hardware(bytes(20) + attribute(1, b"other\0") + attribute(2, attribute(number, b"\4\0\0\0")))
