"""The header of every encapsulation, field by field, as scapy's layers write it and as RFCs and draft lay it out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.erspan import ERSPAN_II, ERSPAN_III
from scapy.contrib.geneve import GENEVE, GeneveOptions
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import GRE, Dot1AD, Dot1Q
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

from mirrord.dataplane.forward import encap
from mirrord.dataplane.forward.encap import Ids, Template
from mirrord.dataplane.frame.headers import Tag
from mirrord.dataplane.frame.told import Told
from mirrord.dataplane.frame.wire import Frame, Vnet
from mirrord.plans import ForwardPlan
from tests.support.packets import LINK
from tests.support.planes import step

DATAGRAM = IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1000, dport=2000) / bytes(range(100))
PLAIN = bytes(LINK / DATAGRAM)


def forward(plan: ForwardPlan, frames: list[Frame], dataplane: str) -> list[bytes]:
    """The copies of these frames, one after the other."""
    run = step(plan, dataplane)
    return [copy for frame in frames for copy in run(frame).copies]


@pytest.mark.parametrize(
    ("template", "layers", "layout"),
    [
        # RFC 7348 5: I flag, 24 bits reserved; VNI, 8 bits reserved
        pytest.param(encap.vxlan(0xABCDEF), VXLAN(flags=0x08, vni=0xABCDEF), "08000000 abcdef00", id="vxlan"),
        # RFC 8926 3.4: version and option length, O and C, 0x6558; VNI, 8 bits reserved
        pytest.param(encap.geneve(0xABCDEF), GENEVE(vni=0xABCDEF, proto=0x6558), "00006558 abcdef00", id="geneve"),
        # RFC 2784 2; RFC 2890 2: K is bit 2, a key of 0 is a key
        pytest.param(encap.gre(None), GRE(proto=0x6558), "00006558", id="gre"),
        pytest.param(encap.gre(0), GRE(key_present=1, key=0, proto=0x6558), "20006558 00000000", id="gre-key-0"),
        pytest.param(
            encap.gre(0xFEDCBA98), GRE(key_present=1, key=0xFEDCBA98, proto=0x6558), "20006558 fedcba98", id="gre-key"
        ),
        # draft-foschiano-erspan 4.1: GRE with no flag, then the frame
        pytest.param(encap.erspan_i(), GRE(proto=0x88BE), "000088be", id="erspan-i"),
        # 4.2: S; sequence; version 1, VLAN, COS, En, T, session id; reserved, index
        pytest.param(
            encap.erspan_ii(0x2A5, cos=5, index=0x12345),
            GRE(seqnum_present=1, proto=0x88BE) / ERSPAN_II(cos=5, session_id=0x2A5, index=0x12345),
            "100088be 00000000 1000a2a5 00012345",
            id="erspan-ii",
        ),
        # 4.3: S; sequence; version 2, VLAN, COS, BSO, T, session id; timestamp; SGT, P, FT, hardware id, D, Gra, O
        pytest.param(
            encap.erspan_iii(0x2A5, cos=5, hardware_id=0x2A, sgt=0xBEEF),
            GRE(seqnum_present=1, proto=0x22EB)
            / ERSPAN_III(cos=5, session_id=0x2A5, sgt_other=0xBEEF, p=1, ft=0, hw=0x2A, gra=1),
            "100022eb 00000000 2000a2a5 00000000 beef82a2",
            id="erspan-iii",
        ),
    ],
)
def test_every_field_is_where_its_standard_puts_it(
    template: Template, layers: Packet, layout: str, dataplane: str
) -> None:
    (copy,) = forward(ForwardPlan(template), [Frame(PLAIN, len(PLAIN))], dataplane)
    assert copy[: -len(PLAIN)].hex() == bytes.fromhex(layout).hex() == bytes(layers).hex()
    assert copy.endswith(PLAIN)


def test_what_differs_from_copy_to_copy_is_laid_out_as_the_draft_says(dataplane: str) -> None:
    frame = Frame(PLAIN, len(PLAIN), egress=True, tag=Tag(0x8100, 0xEABC), time=0x1_2345_6789 * 100 + 99)
    two = ForwardPlan(encap.erspan_ii(0x2A5, cos=5, index=0x12345), snaplen=60)
    three = ForwardPlan(encap.erspan_iii(0x2A5, cos=5, hardware_id=0x2A, sgt=0xBEEF), snaplen=60)
    # VLAN 0xabc; En 3 where there is one; T; the low 32 bits of the time in units of 100 ns; D
    for plan, length, first, second in (
        (two, 16, "100088be 00000000 1abcbea5 00012345", "100088be 00000001 1abcbea5 00012345"),
        (three, 20, "100022eb 00000000 2abca6a5 23456789 beef82aa", "100022eb 00000001 2abca6a5 23456789 beef82aa"),
    ):
        copies = forward(plan, [frame, frame], dataplane)
        assert [copy[:length] for copy in copies] == [bytes.fromhex(first), bytes.fromhex(second)]
        assert {copy[length:] for copy in copies} == {bytes(LINK / Dot1Q(prio=7, vlan=0xABC) / DATAGRAM)[:60]}


@pytest.mark.parametrize("guest", [False, True])
@pytest.mark.parametrize(
    ("template", "layers"),
    [
        pytest.param(encap.vxlan, lambda vni: VXLAN(flags=0x08, vni=vni), id="vxlan"),
        pytest.param(encap.geneve, lambda vni: GENEVE(vni=vni, proto=0x6558), id="geneve"),
        pytest.param(encap.gre, lambda key: GRE(key_present=1, key=key, proto=0x6558), id="gre"),
        pytest.param(
            encap.erspan_ii,
            lambda number: GRE(seqnum_present=1, proto=0x88BE) / ERSPAN_II(session_id=number),
            id="erspan-ii",
        ),
        pytest.param(
            encap.erspan_iii,
            lambda number: GRE(seqnum_present=1, proto=0x22EB) / ERSPAN_III(session_id=number, p=1, gra=1),
            id="erspan-iii",
        ),
    ],
)
def test_egress_frames_have_an_id_of_their_own(
    template: Callable[[Ids], Template], layers: Callable[[int], Packet], guest: bool, dataplane: str
) -> None:
    plan = ForwardPlan(template(Ids(0x1A5, 0x2C3, guest)))
    for egress in (False, True):
        (copy,) = forward(plan, [Frame(PLAIN, len(PLAIN), egress)], dataplane)
        expected = bytearray(bytes(layers(0x2C3 if egress is not guest else 0x1A5)))
        if template is encap.erspan_iii:
            expected[-1] |= egress << 3  # D is told by the template's guest
        assert copy == bytes(expected) + PLAIN


def test_each_id_of_a_session_has_numbers_of_its_own(dataplane: str) -> None:
    """So that a receiver, which counts by id, misses none."""
    frames = [Frame(PLAIN, len(PLAIN), egress) for egress in (False, True, True, False, True)]
    for template, at in (
        (encap.erspan_ii(Ids(1, 2)), 4),
        (encap.erspan_iii(Ids(1, 2)), 4),
        (encap.geneve(Ids(1, 2), metadata_of=5), 28),
        (encap.erspan_ii(1), None),
    ):
        copies = forward(ForwardPlan(template), frames, dataplane)
        numbers = [int.from_bytes(copy[at or 4 : (at or 4) + 4], "big") for copy in copies]
        assert numbers == ([0, 0, 1, 1, 2] if at else [0, 1, 2, 3, 4])


def test_geneve_tells_of_the_frame_in_an_option_that_others_skip(dataplane: str) -> None:
    """RFC 8926 3.4, 3.5: options of 24 bytes, not critical; direction, truncated, time, source, sequence."""
    seen = [Frame(PLAIN, len(PLAIN), egress, time=0x0102030405060708) for egress in (False, True)]
    relayed = Frame(PLAIN, len(PLAIN), time=9, told=Told(2, 7, truncated=True, device=0x3B))
    for guest in (False, True):
        plan = ForwardPlan(encap.geneve(Ids(0x1A5, guest=guest), metadata_of=0x2A), snaplen=60)
        for n, (copy, turned, truncated, time) in enumerate(
            zip(
                forward(plan, [*seen, relayed], dataplane),
                (False, True, True),
                (1, 1, 1),
                (0x0102030405060708, 0x0102030405060708, 7),
                strict=True,
            )
        ):
            body = bytes([0, 1 + (turned != guest), 0, truncated]) + time.to_bytes(8, "big")
            body += (0x3B if time == 7 else 0x2A).to_bytes(4, "big") + n.to_bytes(4, "big")
            option = GeneveOptions(classid=0xFF6D, type=1, data=body)
            assert copy == bytes(GENEVE(vni=0x1A5, proto=0x6558, options=[option])) + PLAIN[:60]


def test_a_relay_carries_erspans_fields_on(dataplane: str) -> None:
    frame = Frame(PLAIN, len(PLAIN), time=5, told=Told(2, 0, 0xABC, 6, 2, truncated=True))
    two, three = (
        forward(ForwardPlan(template), [frame], dataplane)[0] for template in (encap.erspan_ii(7), encap.erspan_iii(7))
    )
    own = forward(ForwardPlan(encap.erspan_ii(7, cos=1)), [frame], dataplane)[0]
    told = {"vlan": 0xABC, "t": 1, "session_id": 7}
    outer = GRE(seqnum_present=1, proto=0x88BE)
    assert two == bytes(outer / ERSPAN_II(**told, cos=6, en=2) / PLAIN)
    assert own == bytes(outer / ERSPAN_II(**told, cos=1, en=2) / PLAIN)
    assert three == bytes(GRE(seqnum_present=1, proto=0x22EB) / ERSPAN_III(**told, cos=6, p=1, gra=1, d=1) / PLAIN)


frames = st.builds(
    lambda kind, vid, egress, time: (kind, vid, egress, time),
    st.sampled_from(["untagged", "metadata", "in the frame", "qinq"]),
    st.integers(0, 4095),
    st.booleans(),
    st.integers(0, (1 << 63) - 1),
)


@given(
    seen=st.lists(frames, min_size=1, max_size=4),
    session_id=st.integers(0, 1023),
    cos=st.integers(0, 7),
    index=st.integers(0, (1 << 20) - 1),
    hardware_id=st.integers(0, 63),
    sgt=st.integers(0, 65535),
    guest=st.booleans(),
    snaplen=st.sampled_from([0, 64, 1000]),
)
def test_erspan_is_what_scapy_writes_whatever_is_in_it(
    seen: list[tuple[str, int, bool, int]],
    session_id: int,
    cos: int,
    index: int,
    hardware_id: int,
    sgt: int,
    guest: bool,
    snaplen: int,
) -> None:
    captured, twos, threes = [], [], []
    for sequence, (kind, vid, egress, time) in enumerate(seen):
        tags = {"untagged": (), "qinq": (Dot1AD(vlan=vid), Dot1Q(vlan=5))}.get(kind, (Dot1Q(vlan=vid),))
        whole = LINK.copy()
        for tag in tags:
            whole /= tag
        whole = bytes(whole / DATAGRAM)
        metadata = Tag(0x8100, vid) if kind == "metadata" else None
        data = PLAIN if metadata else whole
        captured.append(Frame(data, len(data), egress, metadata, Vnet(), time))
        kept = whole[:snaplen] if snaplen else whole
        same = {"vlan": vid if tags else 0, "cos": cos, "t": len(kept) < len(whole), "session_id": session_id}
        twos.append(
            GRE(seqnum_present=1, sequence_number=sequence, proto=0x88BE)
            / ERSPAN_II(**same, en=3 if tags else 0, index=index)
            / kept
        )
        threes.append(
            GRE(seqnum_present=1, sequence_number=sequence, proto=0x22EB)
            / ERSPAN_III(
                **same,
                timestamp=time // 100 % (1 << 32),
                sgt_other=sgt,
                p=1,
                hw=hardware_id,
                d=egress is not guest,
                gra=1,
            )
            / kept
        )
    two = ForwardPlan(encap.erspan_ii(session_id, cos=cos, index=index), snaplen)
    three = ForwardPlan(encap.erspan_iii(session_id, cos=cos, hardware_id=hardware_id, sgt=sgt, guest=guest), snaplen)
    for dataplane in ("python", "native"):
        assert forward(two, captured, dataplane) == [bytes(packet) for packet in twos]
        assert forward(three, captured, dataplane) == [bytes(packet) for packet in threes]
