"""What in the kernel treats a packet that a socket sends in a way that one from a packet socket would escape.

That is an outgoing IPsec policy, a routing rule that looks at more than addresses, or a firewall on output. Read from
netlink in the calling thread's network namespace.

linux/xfrm.h, linux/netfilter/nf_tables.h, https://docs.kernel.org/userspace-api/netlink/intro.html
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from mirrord import kernel
from mirrord.control.host.rtnetlink import RULE, Rtnetlink, attributes, number

ROUTE_PROTOCOL = 109  # of our own rules and routes; not one of linux/rtnetlink.h
POLICY_ID_LENGTH, POLICY_DIRECTION = 64, 160  # of struct xfrm_userpolicy_id; in struct xfrm_userpolicy_info
NFGENMSG_LENGTH = 4
OUTPUT_HOOKS = (3, 4)  # NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING
INET_FAMILIES = (1, 2, 10)  # NFPROTO_INET, _IPV4, _IPV6
LEGACY_TABLES = ("ip_tables_names", "ip6_tables_names")
SELECTORS = {
    kernel.FRA_FWMASK: "mark",
    kernel.FRA_IP_PROTO: "protocol",
    kernel.FRA_SPORT_RANGE: "source port",
    kernel.FRA_DPORT_RANGE: "destination port",
    kernel.FRA_UID_RANGE: "user",
}
"""linux/fib_rules.h; a rule has those by which it selects."""


def obstacle(netlink: Rtnetlink) -> str:
    """The first obstacle found, in words; "" when there is none."""
    for rule in _rules(netlink):
        for selector, words in SELECTORS.items():
            if selector in rule and number(rule.get(kernel.FRA_PROTOCOL)) != ROUTE_PROTOCOL:
                return f"a routing rule looks at the {words}"
    with suppress(OSError):  # a kernel without IPsec
        if any(data[POLICY_DIRECTION] == kernel.XFRM_POLICY_OUT for data in _policies()):
            return "there is an outgoing IPsec policy"
    with suppress(OSError):  # a kernel without nftables
        if any(map(_on_output, _dump(kernel.NETLINK_NETFILTER, kernel.NFT_MSG_GETCHAIN, bytes(NFGENMSG_LENGTH)))):
            return "there is an nftables chain on output"
    for name in LEGACY_TABLES:
        with suppress(OSError):
            if Path("/proc/thread-self/net", name).read_text().strip():
                return "there is an iptables firewall"
    return ""


def _rules(netlink: Rtnetlink) -> Iterator[dict[int, bytes]]:
    """The routing rules of both families, by attribute."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):  # a kernel without them
            for body in netlink.dump(kernel.RTM_GETRULE, RULE.pack(family, *bytes(8))):
                yield attributes(body, RULE.size)


def _policies() -> Iterator[bytes]:
    for data in _dump(kernel.NETLINK_XFRM, kernel.XFRM_MSG_GETPOLICY, bytes(POLICY_ID_LENGTH)):
        if len(data) > POLICY_DIRECTION:
            yield data


def _on_output(chain: bytes) -> bool:
    """Whether a chain's message, from its nfgenmsg on, is of a base chain that sees what this host sends."""
    hook = attributes(chain[NFGENMSG_LENGTH:]).get(kernel.NFTA_CHAIN_HOOK)
    if hook is None or chain[0] not in INET_FAMILIES:
        return False
    place = attributes(hook).get(kernel.NFTA_HOOK_HOOKNUM)
    return place is not None and int.from_bytes(place, "big") in OUTPUT_HOOKS


def _dump(protocol: int, kind: int, body: bytes) -> list[bytes]:
    """The bodies of the messages that answer a dump request. OSError when the kernel refuses it."""
    with closing(Rtnetlink(protocol)) as netlink:
        return netlink.dump(kind, body)
