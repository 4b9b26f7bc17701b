"""What in the kernel treats a packet that a socket sends in a way that one from a packet socket would escape.

That is an outgoing IPsec policy, a routing rule that looks at more than addresses, or a firewall on output. Read from
netlink in the calling thread's network namespace.

linux/xfrm.h, linux/netfilter/nf_tables.h, https://docs.kernel.org/userspace-api/netlink/intro.html
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mirrord.control.host.rtnetlink import Rtnetlink, attributes, number

ROUTE_PROTOCOL = 109  # of our own rules and routes; not one of linux/rtnetlink.h
NETLINK_XFRM, NETLINK_NETFILTER = 6, 12  # linux/netlink.h
NLM_F_REQUEST, NLM_F_DUMP = 0x01, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
XFRM_MSG_GETPOLICY, XFRM_POLICY_OUT = 0x15, 1
POLICY_ID_LENGTH, POLICY_DIRECTION = 64, 160  # of struct xfrm_userpolicy_id; in struct xfrm_userpolicy_info
NFT_MSG_GETCHAIN, NFTA_CHAIN_HOOK, NFTA_HOOK_HOOKNUM = 10 << 8 | 4, 4, 1
NFGENMSG_LENGTH = 4
OUTPUT_HOOKS = (3, 4)  # NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING
INET_FAMILIES = (1, 2, 10)  # NFPROTO_INET, _IPV4, _IPV6
LEGACY_TABLES = ("ip_tables_names", "ip6_tables_names")
RTM_GETRULE = 34
FRA_FWMASK, FRA_UID_RANGE, FRA_PROTOCOL, FRA_IP_PROTO, FRA_SPORT_RANGE, FRA_DPORT_RANGE = 16, 20, 21, 22, 23, 24
SELECTORS = {
    FRA_FWMASK: "mark",
    FRA_IP_PROTO: "protocol",
    FRA_SPORT_RANGE: "source port",
    FRA_DPORT_RANGE: "destination port",
    FRA_UID_RANGE: "user",
}
"""linux/fib_rules.h; a rule has those by which it selects."""

_RULE = struct.Struct("=B11x")  # family (struct fib_rule_hdr)
BUFFER = 1 << 16


def obstacle(netlink: Rtnetlink) -> str:
    """The first obstacle found, in words; "" when there is none."""
    for rule in _rules(netlink):
        for selector, words in SELECTORS.items():
            if selector in rule and number(rule.get(FRA_PROTOCOL)) != ROUTE_PROTOCOL:
                return f"a routing rule looks at the {words}"
    with suppress(OSError):  # a kernel without IPsec
        if any(data[POLICY_DIRECTION] == XFRM_POLICY_OUT for data in _policies()):
            return "there is an outgoing IPsec policy"
    with suppress(OSError):  # a kernel without nftables
        if any(map(_on_output, _dump(NETLINK_NETFILTER, NFT_MSG_GETCHAIN, bytes(NFGENMSG_LENGTH)))):
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
            for body in netlink.dump(RTM_GETRULE, _RULE.pack(family)):
                yield attributes(body, _RULE.size)


def _policies() -> Iterator[bytes]:
    for data in _dump(NETLINK_XFRM, XFRM_MSG_GETPOLICY, bytes(POLICY_ID_LENGTH)):
        if len(data) > POLICY_DIRECTION:
            yield data


def _on_output(chain: bytes) -> bool:
    """Whether a chain's message, from its nfgenmsg on, is of a base chain that sees what this host sends."""
    hook = attributes(chain[NFGENMSG_LENGTH:]).get(NFTA_CHAIN_HOOK)
    if hook is None or chain[0] not in INET_FAMILIES:
        return False
    place = attributes(hook).get(NFTA_HOOK_HOOKNUM)
    return place is not None and int.from_bytes(place, "big") in OUTPUT_HOOKS


def _dump(protocol: int, kind: int, payload: bytes) -> Iterator[bytes]:
    """The payload of each message that answers a dump request. OSError when the kernel refuses it."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as netlink:
        netlink.settimeout(1.0)
        netlink.bind((0, 0))
        netlink.send(struct.pack("=IHHII", 16 + len(payload), kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + payload)
        while True:
            data = netlink.recv(BUFFER)
            while len(data) >= 16:
                length, got, *_ = struct.unpack_from("=IHHII", data)
                if got == NLMSG_DONE:
                    return
                if got == NLMSG_ERROR:
                    raise OSError(-struct.unpack_from("=i", data, 16)[0], "netlink dump refused")
                yield data[16:length]
                data = data[(length + 3) & ~3 :]
