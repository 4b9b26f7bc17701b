"""What copies leave by that a socket on all devices is not to hear: another packet socket, of the same fanout group.

To a socket on all devices the kernel offers whatever any device sends, copies too, and clones a frame for that before
the socket's program refuses it by its mark: 150-220 ns a copy, where to send one takes some 700. It does not offer a
frame to the group whose own socket sends it (skb_loop_sk in net/core/dev.c, match_fanout_group in
net/packet/af_packet.c). The capture itself could send, too, but then to free a copy would wake who waits for it.

It is bound as the capture is, else the group would not have it; the program that chooses among the group's sockets
gives it nothing. Each copy says by which device it leaves. The mark stays the rule by which copies are known: who
captures elsewhere sees no difference.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from mirrord.dataplane.capture.way_in import Sender
from mirrord.dataplane.filter import bpf
from mirrord.dataplane.transmit.alike import alike
from mirrord.dataplane.transmit.tunnel_socket import set_common
from mirrord.kernel import PACKET_VNET_HDR, SOL_PACKET

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrord.dataplane.capture.fanout import Group
    from mirrord.plans import Netns


def open_sender(mark: int, group: Group, bind: Callable[[socket.socket], None]) -> socket.socket:
    """A member of the group for copies with this mark, once the first capture is one. OSError when it cannot be had."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        bpf.attach_reject_all(sock)
        sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        set_common(sock, mark)
        bind(sock)
        group.join(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def described(sock: socket.socket, netns: Netns | None) -> Sender:
    """A sender that is open in this namespace."""
    return Sender(sock.fileno(), alike(0, sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK), netns))
