"""What keeps `transmit = "auto"` from a packet socket, told from what does not, in a kernel that has it."""

from __future__ import annotations

from contextlib import closing

from pyroute2.nftables.main import NFTables

from mirrord.control.host.obstacles import obstacle
from mirrord.control.host.rtnetlink import Rtnetlink
from tests.support.topology import Host, Topology

POLICY = (
    "xfrm policy add src 192.0.2.0/24 dst 198.51.100.0/24 dir {} tmpl src 10.0.0.1 dst 10.0.0.2 proto esp mode tunnel"
)
IPV4, ACCEPT = 2, 1  # linux/netfilter.h: NFPROTO_IPV4, NF_ACCEPT


def found(host: Host) -> str:
    def look() -> str:
        with closing(Rtnetlink()) as netlink:
            return obstacle(netlink)

    return host.call(look)


def chain(host: Host, hook: str) -> None:
    def add() -> None:
        with NFTables(nfgen_family=IPV4) as nftables:
            nftables.table("add", name="t")
            nftables.chain("add", table="t", name=hook, hook=hook, type="filter", policy=ACCEPT)

    host.call(add)


def test_only_what_concerns_output_is_an_obstacle(net: Topology) -> None:
    rules, policies, tables = net.host("rules"), net.host("policies"), net.host("tables")
    rules.ip("rule add from 192.0.2.1 table 100")
    policies.ip(POLICY.format("in"))
    chain(tables, "input")
    assert [found(host) for host in (rules, policies, tables)] == [""] * 3

    rules.ip("rule add fwmark 0x1 table 100")
    policies.ip(POLICY.format("out"))
    chain(tables, "output")
    assert found(rules) == "a routing rule looks at the mark"
    assert found(policies) == "there is an outgoing IPsec policy"
    assert found(tables) == "there is an nftables chain on output"
