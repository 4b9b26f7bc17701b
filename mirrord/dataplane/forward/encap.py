"""Encapsulations as data: a destination compiles to a header template, and the forward step never knows which it is.

A template is constant bytes that go before every copy, and a short list of fields that differ from copy to copy. What
goes before the template (IP, UDP) is the transmit's. Numbers are in network order.

VXLAN: RFC 7348 5. Geneve: RFC 8926 3.4. GRE: RFC 2784 2, RFC 2890 2. ERSPAN: draft-foschiano-erspan-03 4.
A block of a file, which also has something behind the frame: pcapng.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from mirrord.dataplane.frame.told import Told
from mirrord.dataplane.transmit import pcapng
from mirrord.protocols import ETH_P_ERSPAN, ETH_P_ERSPAN_III, ETH_P_TEB

GRE_KEY = 0x2000
GRE_SEQUENCE = 0x1000

VXLAN_FLAGS = 0x08
"""The I flag: the VNI is valid."""

ERSPAN_TAGGED = 3
"""The En bits of type II: a VLAN tag that was on the frame is still in it."""

ERSPAN_COS = 0xE0
"""COS in the third byte of the header."""

METADATA_CLASS, METADATA_TYPE = 0xFF6D, 1
"""Of the Geneve option with what mirrord tells of a copy: a class for experiments (RFC 8926 7), not critical."""

METADATA_LENGTH = 20
"""Bytes of it, behind its header of 4."""

ERSPAN_TICK = 100
"""Nanoseconds of a type III timestamp's unit, which the header announces as granularity 1."""


class Field(IntEnum):
    """What differs from copy to copy, and is written over the template at a patch's offset."""

    SEQUENCE = 1  # 32 bits, one up with every copy
    ERSPAN_II = 2  # or-ed to the first 32 bits: VLAN id, En, T
    ERSPAN_III = 3  # the same but for En, then 32 bits of timestamp, then D, turned over by egress
    PACKET_BLOCK = 4  # a pcapng packet block's 28 bytes; the rest of the block is the trailer
    EGRESS = 5  # 32 bits, in the copy of an egress frame turned over by the patch's value
    METADATA = 6  # of Geneve, 20 bytes, see geneve(); the patch's value is 1 for a guest's


class Patch(NamedTuple):
    """A field and its offset in the template."""

    field: Field
    at: int
    value: int = 0  # of EGRESS: the bits that differ; of METADATA: whether directions are turned around


class Facts(NamedTuple):
    """What the fields are made from."""

    sequence: int
    vlan: int | None  # the outermost tag's id
    truncated: bool
    egress: bool  # as the host sees it
    time: int  # of capture, nanoseconds since 1970
    kept: int = 0  # bytes of the mirrored frame in the copy
    original: int = 0  # bytes that it had
    told: Told = Told()

    @property
    def stamp(self) -> int:
        """The time of the first capture, as far as it is known."""
        return self.told.time or self.time


@dataclass(frozen=True, slots=True)
class Template:
    """What precedes the mirrored frame in what is handed to the socket."""

    header: bytes = b""
    patches: tuple[Patch, ...] = ()

    def fill(self, facts: Facts) -> bytes:
        """The header of one copy."""
        if not self.patches:
            return self.header
        header = bytearray(self.header)
        for field, at, value in self.patches:
            if field is Field.EGRESS:
                if facts.egress:
                    header[at : at + 4] = (int.from_bytes(header[at : at + 4], "big") ^ value).to_bytes(4, "big")
                continue
            if field is Field.PACKET_BLOCK:
                header[at:] = pcapng.packet_header(facts.kept, facts.original, facts.stamp)
                continue
            if field is Field.METADATA:
                header[at + 1] = 1 + (facts.egress ^ bool(value))
                header[at + 3] = facts.truncated or facts.told.truncated
                header[at + 4 : at + 12] = facts.stamp.to_bytes(8, "big")
                if facts.told.device:
                    header[at + 12 : at + 16] = facts.told.device.to_bytes(4, "big")
                _or(header, at + 16, facts.sequence)
                continue
            if field is Field.SEQUENCE:
                _or(header, at, facts.sequence)
                continue
            told = facts.told
            vlan, en = (facts.vlan, ERSPAN_TAGGED) if facts.vlan is not None else (told.vlan, told.en)
            cos = 0 if header[at + 2] & ERSPAN_COS else told.cos  # the destination's own, if it has one
            truncated = facts.truncated or told.truncated
            en = en if field is Field.ERSPAN_II else 0
            _or(header, at, vlan << 16 | cos << 13 | en << 11 | truncated << 10)
            if field is Field.ERSPAN_III:
                _or(header, at + 4, facts.stamp // ERSPAN_TICK)
                header[at + 11] ^= facts.egress << 3
        return bytes(header)

    @property
    def two_ids(self) -> bool:
        """Whether egress frames have an id of their own, and so numbers of their own."""
        return any(patch.field is Field.EGRESS for patch in self.patches)

    def trailer(self, facts: Facts) -> bytes:
        """What follows the mirrored frame in one copy: nothing but in a file."""
        if any(patch.field is Field.PACKET_BLOCK for patch in self.patches):
            return pcapng.packet_trailer(facts.kept, egress=facts.egress)
        return b""


def _or(header: bytearray, at: int, bits: int) -> None:
    number = int.from_bytes(header[at : at + 4], "big") | bits & 0xFFFFFFFF
    header[at : at + 4] = number.to_bytes(4, "big")


def bare() -> Template:
    """The frame alone, as it goes out of a device."""
    return Template()


class Ids(NamedTuple):
    """The VNI, key or session id of a session's copies; its egress frames may have one of their own.

    Directions are the session's: a `guest`'s are the host's turned around.
    """

    ingress: int
    egress: int | None = None  # None: the same
    guest: bool = False

    @property
    def first(self) -> int:
        """The one that a template has: of what the host receives."""
        return self.egress if self.guest and self.egress is not None else self.ingress

    def patches(self, at: int, shift: int = 0) -> tuple[Patch, ...]:
        """What makes it the other one; it is `shift` bits up in the 32 bits at this offset."""
        differing = 0 if self.egress is None else self.ingress ^ self.egress
        return (Patch(Field.EGRESS, at, differing << shift),) if differing else ()


def vxlan(vni: int | Ids) -> Template:
    """8 bytes behind the UDP header: flags, 24 bits zero, VNI, 8 bits zero."""
    ids = _ids(vni)
    header = bytes([VXLAN_FLAGS, 0, 0, 0]) + ids.first.to_bytes(3, "big") + b"\0"
    return Template(header, ids.patches(4, 8))


def geneve(vni: int | Ids, *, metadata_of: int | None = None) -> Template:
    """8 bytes behind the UDP header: version 0, options' length, no flags, Ethernet inside, VNI, 8 bits zero.

    With `metadata_of`, the index of the source device, an option of 24 bytes follows: class, type, length; 8 bits zero,
    8 of direction (1 ingress, 2 egress), 15 zero, 1 for a truncated frame; the time of capture in nanoseconds since
    1970 in 64 bits; the index and a sequence number in 32 bits each. Of a frame that was told of so, direction, time
    and index are as they were told.
    """
    ids = _ids(vni)
    option = b""
    if metadata_of is not None:
        option = METADATA_CLASS.to_bytes(2, "big") + bytes([METADATA_TYPE, METADATA_LENGTH // 4]) + bytes(12)
        option += metadata_of.to_bytes(4, "big") + bytes(4)
    header = bytes([len(option) // 4, 0]) + ETH_P_TEB.to_bytes(2, "big") + ids.first.to_bytes(3, "big") + b"\0"
    metadata = (Patch(Field.METADATA, 12, int(ids.guest)),) if option else ()
    return Template(header + option, ids.patches(4, 8) + metadata)


def gre(key: int | Ids | None) -> Template:
    """Transparent Ethernet bridging: 4 bytes behind the IP header, 8 with a key."""
    if key is None:
        return Template(_gre(0, ETH_P_TEB))
    ids = _ids(key)
    return Template(_gre(GRE_KEY, ETH_P_TEB) + ids.first.to_bytes(4, "big"), ids.patches(4))


def erspan_i() -> Template:
    """GRE alone: no key, no sequence, no ERSPAN header."""
    return Template(_gre(0, ETH_P_ERSPAN))


def erspan_ii(session_id: int | Ids, *, cos: int = 0, index: int = 0) -> Template:
    """GRE with a sequence number, then version 1, VLAN, COS, En, T, session id; 12 bits zero, index."""
    ids = _ids(session_id)
    first = 1 << 28 | cos << 13 | ids.first
    header = _gre(GRE_SEQUENCE, ETH_P_ERSPAN) + bytes(4) + first.to_bytes(4, "big") + index.to_bytes(4, "big")
    return Template(header, (Patch(Field.SEQUENCE, 4), Patch(Field.ERSPAN_II, 8), *ids.patches(8)))


def erspan_iii(
    session_id: int | Ids, *, cos: int = 0, hardware_id: int = 0, sgt: int = 0, guest: bool = False
) -> Template:
    """GRE with a sequence number, then version 2, VLAN, COS, BSO 0 (a good frame, or not known), T, session id.

    Then the timestamp in units of 100 ns, and the security group tag, P (Ethernet inside), frame type 0, hardware id,
    D (0 for ingress, 1 for egress; a guest's are the host's turned around), granularity 1.
    """
    ids = _ids(session_id)
    first = 2 << 28 | cos << 13 | ids.first
    last = sgt << 16 | 1 << 15 | hardware_id << 4 | guest << 3 | 1 << 1
    header = _gre(GRE_SEQUENCE, ETH_P_ERSPAN_III) + bytes(4) + first.to_bytes(4, "big") + bytes(4)
    patches = (Patch(Field.SEQUENCE, 4), Patch(Field.ERSPAN_III, 8), *ids.patches(8))
    return Template(header + last.to_bytes(4, "big"), patches)


def packet_block() -> Template:
    """A copy as a block of a pcapng file."""
    return Template(bytes(pcapng.PACKET_HEADER_LENGTH), (Patch(Field.PACKET_BLOCK, 0),))


def _ids(ids: int | Ids) -> Ids:
    return ids if isinstance(ids, Ids) else Ids(ids)


def _gre(flags: int, protocol: int) -> bytes:
    return flags.to_bytes(2, "big") + protocol.to_bytes(2, "big")
