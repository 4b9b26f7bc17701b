"""Flows that a NIC handles by itself: classifiers of tc that are in hardware (`in_hw`), whose frames come to no tap.

tc-flower(8), tc-matchall(8); linux/pkt_cls.h, linux/rtnetlink.h
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing, suppress

from mirrord.control.host.rtnetlink import TRAFFIC, Rtnetlink, attributes, number, text
from mirrord.kernel import CLSACT_INGRESS, RTM_GETTFILTER, TCA_CLS_FLAGS_IN_HW, TCA_KIND, TCA_OPTIONS

FLAGS = {"bpf": 9, "flower": 22, "matchall": 3, "u32": 11}  # TCA_BPF_FLAGS_GEN, TCA_FLOWER_FLAGS, ...


def with_offloaded_flows(indexes: Collection[int]) -> frozenset[int]:
    """Which of these devices, of this network namespace, have received frames handled in hardware.

    OSError when a netlink socket cannot be opened.
    """
    found = set()
    with closing(Rtnetlink()) as netlink:
        for index in indexes:
            with suppress(OSError):  # the device is gone
                bodies = netlink.dump(RTM_GETTFILTER, TRAFFIC.pack(0, index, 0, CLSACT_INGRESS, 0))
                if any(map(in_hardware, bodies)):
                    found.add(index)
    return frozenset(found)


def in_hardware(body: bytes) -> bool:
    """Whether a classifier, as the kernel tells of it, is in hardware."""
    found = attributes(body, TRAFFIC.size)
    flags = FLAGS.get(text(found.get(TCA_KIND)))
    options = attributes(found.get(TCA_OPTIONS, b""))
    return flags is not None and bool(number(options.get(flags)) & TCA_CLS_FLAGS_IN_HW)
