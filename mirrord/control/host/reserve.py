"""Destination devices set aside for copies (`normal_io = false`): whatever else passes them, either way, is dropped.

Two classifiers at the device's clsact hooks do it: on the way out one that lets only the mark pass, on the way in one
that lets nothing pass. Both are known again by their handle, priority and bytecode, so that the next start can take
away what a killed daemon left, and nothing else. The handle also tells whether the clsact hooks were made for them.

pyroute2's bpf classifier has no place for bytecode, so the few netlink messages are made here.

tc-bpf(8); linux/rtnetlink.h, linux/pkt_sched.h, linux/pkt_cls.h
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
import threading
from collections.abc import Collection
from contextlib import suppress
from typing import NamedTuple

from mirrord import kernel
from mirrord.control.host.rtnetlink import TRAFFIC, Rtnetlink, attribute, attributes, text
from mirrord.dataplane.filter import assembler as op
from mirrord.dataplane.filter.assembler import Instruction, pack
from mirrord.protocols import ETH_P_ALL

FIRST = 1  # the priority: before any classifier that would end the search
HANDLE = int.from_bytes(b"mir\0", "big")
MADE_CLSACT = 1  # or-ed to the handle
INFO = FIRST << 16 | socket.htons(ETH_P_ALL)

DROP_ALL = pack((Instruction(op.RET, k=kernel.TC_ACT_SHOT),))


def drop_unmarked(mark: int) -> bytes:
    """The bytecode that drops what lacks this mark."""
    return pack(
        (
            Instruction(op.LD_W_ABS, k=op.MARK),
            Instruction(op.JEQ, jf=1, k=mark),
            Instruction(op.RET, k=kernel.TC_ACT_UNSPEC),
            Instruction(op.RET, k=kernel.TC_ACT_SHOT),
        )
    )


class _Found(NamedTuple):
    """A qdisc or classifier that the kernel told of."""

    device: int  # index
    handle: int
    parent: int
    info: int
    kind: str
    code: bytes

    @property
    def ours(self) -> bool:
        known = self.kind == "bpf" and self.info == INFO and self.handle & ~MADE_CLSACT == HANDLE
        if self.parent == kernel.CLSACT_INGRESS:
            return known and self.code == DROP_ALL
        return known and len(self.code) == len(drop_unmarked(0)) and self.code == drop_unmarked(_mark(self.code))


class Reservations:
    """The devices reserved by this process, by index. Blocks for as long as the kernel takes, microseconds.

    OSError when netlink sockets cannot be opened.
    """

    def __init__(self) -> None:
        self._held: set[int] = set()
        self._lock = threading.Lock()
        self._netlink = _Netlink()

    def take_away_leftovers(self) -> list[int]:
        """Take away what a daemon that was killed left behind; the indexes of the devices that it was on."""
        hooked = {found.device for found in self._netlink.qdiscs() if found.kind == "clsact"}
        left = sorted(index for index in hooked if any(one.ours for one in self._netlink.classifiers(index)))
        for index in left:
            self._release(index)
        return left

    def hold(self, index: int, mark: int) -> None:
        """Reserve a device for frames with this mark, if it is not reserved yet; on any thread.

        OSError when that cannot be had.
        """
        with self._lock:
            if index not in self._held:
                self._hold(index, mark)

    def _hold(self, index: int, mark: int) -> None:
        hooks = (one.kind for one in self._netlink.qdiscs() if (one.device, one.parent) == (index, kernel.TC_H_CLSACT))
        kind = next(hooks, "")
        if kind not in ("", "clsact"):  # its egress classifiers would end up on its ingress
            raise OSError(errno.EBUSY, f"its {kind} qdisc leaves no place for the rule that reserves it")
        if not kind:
            self._netlink.add_clsact(index)
        handle = HANDLE if kind else HANDLE | MADE_CLSACT
        try:
            self._netlink.add_classifier(index, kernel.CLSACT_INGRESS, handle, DROP_ALL)
            self._netlink.add_classifier(index, kernel.CLSACT_EGRESS, handle, drop_unmarked(mark))
        except OSError:
            self._release(index)
            raise
        self._held.add(index)

    def keep(self, indexes: Collection[int]) -> None:
        """Give every other device back."""
        for index in self._held.difference(indexes):
            with suppress(OSError):  # the device is gone, and all on it
                self._release(index)
            self._held.remove(index)

    def close(self) -> None:
        """Give every device back."""
        self.keep(())
        self._netlink.close()

    def _release(self, index: int) -> None:
        classifiers = self._netlink.classifiers(index)
        ours = [one for one in classifiers if one.ours]
        if len(ours) == len(classifiers) and any(one.handle & MADE_CLSACT for one in ours):
            self._netlink.remove_clsact(index)
            return
        for one in ours:
            self._netlink.remove_classifier(one)


class _Netlink(Rtnetlink):
    """What is asked of it."""

    def qdiscs(self) -> list[_Found]:
        """Those of every device."""
        return [_found(body) for body in self.dump(kernel.RTM_GETQDISC, TRAFFIC.pack(0, 0, 0, 0, 0))]

    def classifiers(self, index: int) -> list[_Found]:
        """Those at both hooks of a device that has a clsact qdisc."""
        asked = (TRAFFIC.pack(0, index, 0, parent, 0) for parent in (kernel.CLSACT_INGRESS, kernel.CLSACT_EGRESS))
        found = [_found(body) for question in asked for body in self.dump(kernel.RTM_GETTFILTER, question)]
        return [one for one in found if one.handle]

    def add_clsact(self, index: int) -> None:
        body = TRAFFIC.pack(0, index, kernel.CLSACT_HANDLE, kernel.TC_H_CLSACT, 0) + attribute(
            kernel.TCA_KIND, b"clsact\0"
        )
        self.ask(kernel.RTM_NEWQDISC, body, kernel.NLM_F_CREATE | kernel.NLM_F_EXCL)

    def remove_clsact(self, index: int) -> None:
        self.ask(kernel.RTM_DELQDISC, TRAFFIC.pack(0, index, kernel.CLSACT_HANDLE, kernel.TC_H_CLSACT, 0))

    def add_classifier(self, index: int, parent: int, handle: int, code: bytes) -> None:
        options = (
            attribute(kernel.TCA_BPF_OPS_LEN, struct.pack("=H", len(code) // len(DROP_ALL)))
            + attribute(kernel.TCA_BPF_OPS, code)
            + attribute(kernel.TCA_BPF_FLAGS, struct.pack("=I", kernel.TCA_BPF_FLAG_ACT_DIRECT))
        )
        body = attribute(kernel.TCA_KIND, b"bpf\0") + attribute(kernel.TCA_OPTIONS, options)
        self.ask(
            kernel.RTM_NEWTFILTER,
            TRAFFIC.pack(0, index, handle, parent, INFO) + body,
            kernel.NLM_F_CREATE | kernel.NLM_F_EXCL,
        )

    def remove_classifier(self, one: _Found) -> None:
        body = TRAFFIC.pack(0, one.device, one.handle, one.parent, one.info) + attribute(kernel.TCA_KIND, b"bpf\0")
        self.ask(kernel.RTM_DELTFILTER, body)


def _found(payload: bytes) -> _Found:
    _family, index, handle, parent, info = TRAFFIC.unpack_from(payload)
    found = attributes(payload, TRAFFIC.size)
    kind = text(found.get(kernel.TCA_KIND))
    options = attributes(found.get(kernel.TCA_OPTIONS, b"")) if kind == "bpf" else {}
    return _Found(index, handle, parent, info, kind, options.get(kernel.TCA_BPF_OPS, b""))


def _mark(code: bytes) -> int:
    """The operand of the second instruction."""
    return int.from_bytes(code[12:16], sys.byteorder)
