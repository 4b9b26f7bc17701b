"""A socket to the far end of a tunnel: what copies of one lane leave by, or what keeps a source port for them."""

from __future__ import annotations

import errno
import random
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING

from mirrord.dataplane.filter import bpf
from mirrord.dataplane.forward.step import SOURCE_PORTS
from mirrord.dataplane.netns import inside
from mirrord.kernel import (
    IP_MTU_DISCOVER,
    IP_RECVERR,
    IPV6_MTU_DISCOVER,
    IPV6_RECVERR,
    MSG_ERRQUEUE,
    PMTUDISC_DO,
    PMTUDISC_DONT,
    SO_NO_CHECK,
    SO_SNDBUFFORCE,
)
from mirrord.protocols import IPPROTO_UDP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirrord.plans import DevicePlan, TunnelPlan

SEND_BUFFER = 4 << 20


def tunnel_socket(plan: TunnelPlan) -> socket.socket:
    """A connected socket that takes no packet in. OSError when it cannot be had: EPERM, ENODEV, ENETUNREACH, ..."""
    return inside(plan.netns, lambda: _open(plan))


def _open(plan: TunnelPlan) -> socket.socket:
    v6, udp = ip_address(plan.remote).version == 6, plan.protocol == IPPROTO_UDP
    kind = (socket.SOCK_DGRAM, 0) if udp else (socket.SOCK_RAW, plan.protocol)
    sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, *kind)
    try:
        bpf.attach_reject_all(sock)
        set_common(sock, plan.mark)
        if plan.device:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, plan.device.encode())
            require_index(plan)
        discover = PMTUDISC_DONT if plan.fragment else PMTUDISC_DO
        if v6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, plan.ttl)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, plan.ttl)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, plan.dscp << 2)
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, discover)
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, plan.ttl)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, plan.ttl)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, plan.dscp << 2)
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, discover)
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            leave_checksum_out(sock, plan)
        if udp:
            _bind(sock, plan.local, range(SOURCE_PORTS, 65536))
        elif plan.local:
            sock.bind((plan.local, 0))
        sock.connect((plan.remote, plan.port))
    except BaseException:
        sock.close()
        raise
    return sock


def leave_checksum_out(sock: socket.socket, plan: TunnelPlan) -> None:
    """Transmit it as zero over IPv4 (RFC 7348 5), but not with GSO, which the kernel then refuses."""
    if sock.type == socket.SOCK_DGRAM and sock.family == socket.AF_INET:
        sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, int(not plan.gso))


def set_common(sock: socket.socket, mark: int) -> None:
    """What every socket has that copies leave by."""
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER)
    if mark:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)


def require_index(plan: DevicePlan | TunnelPlan) -> None:
    """OSError where another device has come to the name of the plan's."""
    if socket.if_nametoindex(plan.device) != plan.index:
        raise OSError(errno.ENODEV, "the device was replaced", plan.device)


def clear_errors(sock: socket.socket) -> None:
    """Empty the error queue: what it holds was about copies that are gone."""
    while True:
        try:
            sock.recvmsg(0, 0, MSG_ERRQUEUE)
        except OSError:
            return


def _bind(sock: socket.socket, local: str, ports: Sequence[int]) -> None:
    """Bind to a free port of the range, wherever in it: another daemon, or a server, may hold some."""
    first = random.randrange(len(ports))  # noqa: S311 -- spread, not secret
    for n in range(len(ports)):
        try:
            return sock.bind((local, ports[(first + n) % len(ports)]))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, "every UDP port from 49152 up is in use")
