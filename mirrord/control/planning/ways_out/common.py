"""What the planning of every kind of destination has in common: what is asked, what is answered, what is warned of."""

from __future__ import annotations

from typing import NamedTuple

from mirrord.control.host.view import Lease, Link, View
from mirrord.control.planning.finding import ERROR, WARNING, Finding, tool
from mirrord.model import Config, Session
from mirrord.plans import ForwardPlan, OnMtuExceeded, TransmitPlan
from mirrord.protocols import ETH_HEADER

UNBOUNDED = 1 << 31  # an MTU that no device has
SHAPERS = frozenset({"cake", "cbq", "hfsc", "htb", "netem", "tbf"})  # queueing disciplines that hold traffic back


class Asked(NamedTuple):
    """What the way out of a session's frames follows from. `forward` is what does not depend on the destination."""

    config: Config
    mirror: str
    session: Session
    source: Link
    view: View
    lease: Lease | None  # of the mirror's flow network
    forward: ForwardPlan
    native: bool


class RemoteState(NamedTuple):
    """How one collector of a session is."""

    remote: str
    up: bool
    reason: str = ""  # why not
    takes: bool = True  # copies are sent to it


class WayOut(NamedTuple):
    """What the data plane is to do with a session's frames, and what the operator should know about it."""

    transmit: TransmitPlan
    forward: ForwardPlan
    warnings: tuple[Finding, ...] = ()
    how: tuple[tuple[str, str], ...] = ()  # in words, of a tunnel: by which kind of socket, whether copies are joined
    trouble: Finding | None = None  # why no copy gets anywhere for now; what cannot be sent, the step counts as lost
    remotes: tuple[RemoteState, ...] = ()  # how a tunnel's collectors are


def shaping(link: Link, role: str, netns: str | None) -> list[Finding]:
    """A warning when this device holds traffic back."""
    if link.qdisc not in SHAPERS:
        return []
    effect = "what is sent there waits before it is copied" if role == "source" else "copies wait or are lost there"
    problem = f"{role} device {link.name} is shaped ({link.qdisc}): {effect}"
    remedy = f"{tool('tc', netns)} qdisc delete dev {link.name} root, or use a device without QoS"
    return [Finding(WARNING, "shaped", problem, remedy)]


def dead(link: Link | None, netns: str | None) -> Finding | None:
    """Why nothing that is given to this device leaves it; None when it does."""
    if link is None or (link.up and link.carrier):
        return None
    name = f"{link.name}{f' in {netns}' if netns else ''}, by which copies leave,"
    if link.up:
        remedy = "see to its cable, or to what is at its other end"
        return Finding(ERROR, "no_carrier", f"{name} has no carrier", remedy)
    return Finding(ERROR, "device_down", f"{name} is down", f"{tool('ip', netns)} link set {link.name} up")


class Narrows(NamedTuple):
    """What bounds the length of copies. `mtu` is of an IP packet, or of a frame without its Ethernet header."""

    words: str
    device: str
    mtu: int
    most: int  # the largest MTU that is possible there


def too_long(asked: Asked, forward: ForwardPlan, narrows: Narrows) -> list[Finding]:
    """A warning when the way out does not carry the longest frame of the source."""
    session, source = asked.session, asked.source
    full = forward.longest_kept(source.mtu + ETH_HEADER)
    short = full - forward.frame_limit
    if short <= 0:
        return []
    problem = (
        f"{narrows.words}, {narrows.mtu}, carries frames of {forward.frame_limit} bytes, but those of {source.name}"
        f" have up to {full}: longer ones are {fate(forward, full)}"
    )
    needed, remedies = narrows.mtu + short, []
    if narrows.mtu < narrows.most:
        there = tool("ip", getattr(session.destination, "netns", None))
        remedies.append(f"{there} link set {narrows.device} mtu {min(needed, narrows.most)}, and the same all the way")
    if needed > narrows.most:
        problem += f"; to carry them takes an MTU of {needed}, and there is no MTU of more than {narrows.most} there"
        here, longest = tool("ip", getattr(session.source, "netns", None)), narrows.most - narrows.mtu
        mtu = forward.frame_limit + longest - ETH_HEADER
        remedies.append(f"{here} link set {source.name} mtu {mtu}, so that it has no longer ones")
    remedy = f"{'; and '.join(remedies)}; or snaplen = {forward.frame_limit}"
    return [Finding(WARNING, "mtu", problem, remedy)]


def fate(forward: ForwardPlan, full: int) -> str:
    """What becomes of frames of up to `full` bytes that are longer than the path MTU lets a copy carry, in words."""
    fates = {OnMtuExceeded.truncate: "truncated", OnMtuExceeded.fragment: "fragmented", OnMtuExceeded.drop: "dropped"}
    words = fates[forward.on_mtu_exceeded]
    if 0 < forward.longest < full:
        words += f", and those of more than {forward.longest}, which fit no IP packet, dropped"
    return words
