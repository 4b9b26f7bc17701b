#!/bin/sh
# Linux 6.18: a packet socket's PACKET_AUXDATA tells a wrong length of a frame that was looked at before with MSG_PEEK.
# The same frame of 64 bytes is captured twice: read at once, tp_len is 64; peeked at first, it is another number.
# Needs root, iproute2, python3. Exits 1 where that is not so (any more).
set -eu
host=finding-$$
trap 'ip netns delete $host' EXIT
ip netns add $host
ip netns exec $host sysctl -qw net.ipv6.conf.all.disable_ipv6=1
ip -n $host link add near type veth peer name far
ip -n $host link set near up
ip -n $host link set far up
uname -r
ip netns exec $host python3 -c '
import socket, struct, sys
SOL_PACKET, PACKET_AUXDATA = 263, 8
def length(peek):
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B6))
    tap.bind(("near", 0x88B6))
    tap.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    out.bind(("far", 0))
    out.send(bytes.fromhex("02000000000202000000000188b6") + bytes(50))
    if peek:
        tap.recv(16, socket.MSG_PEEK)
    data, ancillary, _, _ = tap.recvmsg(2048, 256)
    assert len(data) == 64
    return struct.unpack_from("=II", ancillary[0][2])[1]
read, peeked = length(False), length(True)
print("tp_len of a frame of 64 bytes: read at once", read, "- peeked at before", peeked)
sys.exit(read != 64 or peeked == 64)'
