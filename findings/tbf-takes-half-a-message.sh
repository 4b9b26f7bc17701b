#!/bin/sh
# A UDP message of many segments (UDP_SEGMENT) on a device with tbf: send(2) is a success though some of it is dropped.
#
# With: Linux 6.18, iproute2 6.1.0 (Debian 12), Python 3.11. As root.
# Input: two network namespaces, a link whose device leaves segmentation to the kernel, and a tbf of 20 kbit/s that has
# room for a few packets. 40 datagrams of 100 bytes by a socket with IP_RECVERR, one by one and in one message.
#
# Expected, by ip(7) on IP_RECVERR and as with a FIFO: what the queue drops is refused (ENOBUFS).
# Seen: so it is for datagrams that are sent one by one. A message longer than tbf's burst is cut in the queue
# (tbf_segment, net/sched/sch_tbf.c): it is a success as soon as one segment has found room.
#
#   one by one: 32 taken, 8 refused, 8 dropped by the queue
#   one message: 40 taken, 0 refused, 19 dropped by the queue
#
# So who counts what send(2) took counts too much there, unless copies leave one by one.
set -eu
a=finding-$$-a b=finding-$$-b
trap 'ip netns delete $a; ip netns delete $b' EXIT
ip netns add $a
ip netns add $b
uname -r
ip -V
python3 -V
ip -n $a link add eth0 type veth peer name eth0 netns $b
ip -n $a address add 10.0.0.1/24 dev eth0
ip -n $a link set eth0 up
ip -n $b link set eth0 up
ip -n $a neighbour add 10.0.0.2 lladdr 02:00:00:00:00:02 dev eth0
ip netns exec $a ethtool -K eth0 tx-udp-segmentation off

send() { # segments of a message: how many datagrams are taken and refused, and how many the queue drops
    ip netns exec $a tc qdisc replace dev eth0 root tbf rate 20kbit burst 1600 limit 3000
    ip netns exec $a python3 -c "
import socket
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
out.setsockopt(socket.IPPROTO_UDP, 103, 100)  # UDP_SEGMENT
out.connect(('10.0.0.2', 9))
taken = refused = 0
for _ in range(40 // $1):
    try: taken += out.send(bytes(100 * $1)) // 100
    except OSError: refused += $1
print(taken, 'taken,', refused, 'refused,', end=' ')"
    ip netns exec $a tc -s qdisc show dev eth0 | sed -n 's/.*dropped \([0-9]*\),.*/\1 dropped by the queue/p'
    ip netns exec $a tc qdisc delete dev eth0 root
}

single=$(send 1)
joined=$(send 40)
echo "one by one: $single"
echo "one message: $joined"
refused=${single#*, }
dropped=${joined##*, }
[ "${refused%% *}" -gt 0 ]
[ "${joined%%, *}" = "40 taken" ]
[ "${dropped%% *}" -gt 0 ]
