"""Copies in a stream of packets: pcap or pcapng over TCP, by TLS or not."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from mirrord.control.planning.ways_out.common import Asked, WayOut
from mirrord.dataplane.forward import encap
from mirrord.model import PcapDestination, Session
from mirrord.plans import PcapPlan, StreamEnd, TlsPlan


def describe(_session: Session, to: PcapDestination) -> tuple[str, str]:
    """The destination in words, and how copies are handed to the kernel."""
    host, port = to.end
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    words = f"{to.format} {'for clients of' if to.listen else 'to'} {where}"
    return f"{words} by TLS" if to.tls else words, "tcp"


def way_out(asked: Asked, to: PcapDestination) -> WayOut:
    """Blocks of a stream, which names the source of each."""
    source, forward = asked.source, asked.forward
    host, port = to.end
    end = StreamEnd(
        address=ip_address(host),
        port=port,
        listens=to.listen is not None,
        comment=f"mirror {asked.mirror}, session {asked.session.name}",
        pcap=to.format == "pcap",
        tls=None if to.tls is None else TlsPlan(*(getattr(to.tls, key) or "" for key in TlsPlan.__slots__)),
        allow=to.allow,
        buffer=to.buffer,
        mark=asked.config.daemon.mark,
    )
    template = encap.packet_block()
    forward = replace(forward, template=template, overhead=-len(template.header), strip_ethernet=source.raw)
    return WayOut(PcapPlan(end, source.name, forward.snaplen, raw=source.raw), forward)
