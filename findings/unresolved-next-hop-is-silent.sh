#!/bin/sh
# UDP to a next hop that does not answer: nearly every send is a success, also with IP_RECVERR, and nothing leaves.
#
# With: Linux 6.18, iproute2 6.1.0 (Debian 12), Python 3.11. As root.
# Input: two network namespaces, and 600 UDP datagrams in six seconds to an address of the link that nobody has, longer
# than the three questions of ARP take. Once to a neighbour that the kernel finds itself, once to one that it was asked to
# keep resolved (NTF_EXT_MANAGED, `ip neighbour add ... managed`).
#
# Expected, by ip(7) on IP_RECVERR ("all errors are queued"): after three seconds the sends fail with EHOSTUNREACH.
# Seen: two errors of 600 sends each; the neighbour is INCOMPLETE again at once, holds back some of the datagrams and
# discards the rest; the errors are ICMP messages to oneself, and rate-limited as those are.
#
#   plain: 2 of 600 refused, 0 left
#   managed: 2 of 600 refused, 0 left
#
# So who counts what send(2) took has to look at the neighbour's state.
set -eu
a=finding-$$-a b=finding-$$-b
trap 'ip netns delete $a; ip netns delete $b' EXIT
ip netns add $a
ip netns add $b
uname -r
ip -V
python3 -V
ip -n $a link add eth0 type veth peer name eth0 netns $b
ip -n $a link set lo up
ip -n $a address add 10.0.0.1/24 dev eth0
ip -n $a link set eth0 up
ip -n $b link set eth0 up

send() { # to an address: how many are refused, and how many IPv4 packets leave
    ip netns exec $a python3 -c "
import socket, time
tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
tap.bind(('eth0', 3))  # ETH_P_ALL: also what leaves
tap.setblocking(False)
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
out.connect(('$1', 9))
refused = left = 0
for _ in range(600):
    try: out.send(bytes(100))
    except OSError: refused += 1
    time.sleep(0.01)
while True:
    try: left += tap.recvfrom(2000)[1][1] == 0x0800
    except BlockingIOError: break
print(refused, 'of 600 refused,', left, 'left')"
}

plain=$(send 10.0.0.8)
ip -n $a neighbour add 10.0.0.9 dev eth0 managed
managed=$(send 10.0.0.9)
echo "plain: $plain"
echo "managed: $managed"
for one in "$plain" "$managed"; do
    [ "${one%% *}" -lt 20 ]
    [ "${one#*, }" = "0 left" ]
done
