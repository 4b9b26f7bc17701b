"""The kernel's numbers are those of its headers, and each is written down once."""

from __future__ import annotations

import ast
import subprocess
from collections import defaultdict
from pathlib import Path

from mirrord import kernel

PACKAGE = Path(kernel.__file__).parent

HEADERS = """\
sys/socket.h asm/socket.h linux/netlink.h linux/rtnetlink.h linux/if_link.h
linux/if_tunnel.h linux/if.h linux/if_arp.h linux/if_bridge.h
linux/if_addr.h linux/neighbour.h linux/fib_rules.h linux/net_namespace.h linux/pkt_sched.h linux/pkt_cls.h
linux/tc_act/tc_bpf.h linux/xfrm.h linux/netfilter/nfnetlink.h linux/netfilter/nf_tables.h linux/sockios.h
linux/ethtool.h linux/sock_diag.h linux/in.h linux/in6.h linux/udp.h linux/icmp.h linux/icmpv6.h
linux/if_packet.h linux/sched.h linux/prctl.h
"""

MEANT = {
    "NLA_TYPE_MASK": "(__u16)NLA_TYPE_MASK",
    "CLSACT_HANDLE": "TC_H_MAKE(TC_H_CLSACT, 0)",
    "CLSACT_INGRESS": "TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)",
    "CLSACT_EGRESS": "TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)",
    "NFT_MSG_GETCHAIN": "(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN)",
    "PMTUDISC_DONT": "IP_PMTUDISC_DONT",
    "PMTUDISC_DO": "IP_PMTUDISC_DO",
    "TC_ACT_UNSPEC": "(__u32)TC_ACT_UNSPEC",
}
"""What has another name there, or none."""


def test_the_numbers_are_those_of_the_kernels_headers(tmp_path: Path) -> None:
    here = {name: value for name, value in vars(kernel).items() if isinstance(value, int)}
    program = tmp_path / "numbers"
    includes = "".join(f"#include <{header}>\n" for header in ("stdio.h", *HEADERS.split()))
    lines = "".join(f'printf("{name} %lld\\n", (long long){MEANT.get(name, name)});\n' for name in here)
    source = f"{includes}int main(void) {{\n{lines}return 0;\n}}\n"
    subprocess.run(["cc", "-x", "c", "-", "-o", program], input=source, text=True, check=True)
    told = dict(line.split() for line in subprocess.check_output([program], text=True).splitlines())
    assert {name: int(value) for name, value in told.items()} == here
    assert len(here) > 100


def test_no_number_has_the_same_name_in_two_modules() -> None:
    """Names that happen to be alike are fine, as long as they are of different things: then their values differ."""
    where = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            for name, value in _constants(node):
                where[name, value].add(str(path.relative_to(PACKAGE)))
    alike = {
        "MODE",  # of files
        "MOST",  # that a table holds
        "MOST_REMOTES",  # a row of counters has room for, and a model allows; test_remotes.py compares
        *("PACKET", "STATISTICS"),  # pcapng blocks, which mirrorctl reads without the data plane
    }
    assert {key: files for key, files in where.items() if len(files) > 1 and key[0] not in alike} == {}


def _constants(node: ast.stmt) -> list[tuple[str, int]]:
    if not isinstance(node, ast.Assign):
        return []
    names = node.targets[0].elts if isinstance(node.targets[0], ast.Tuple) else node.targets
    values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
    return [
        (name.id, value.value)
        for name, value in zip(names, values, strict=False)
        if isinstance(name, ast.Name) and isinstance(value, ast.Constant) and type(value.value) is int
    ]
