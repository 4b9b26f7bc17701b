#!/bin/sh
# tcpdump 4.99.3 with libpcap 1.10.3 (Debian 12): the filter "inbound" misses the first packet of a capture.
# Five frames come in; "ether proto 0x88b6" records five of them, "inbound" four, without the first.
# Needs root, iproute2, python3, tcpdump. Exits 1 where that is not so (any more).
set -eu
near=finding-near-$$ far=finding-far-$$ folder=$(mktemp -d)
trap 'ip netns delete $near; ip netns delete $far; rm -r "$folder"' EXIT
ip netns add $near
ip netns add $far
for host in $near $far; do ip netns exec $host sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1; done
ip -n $far link add wire type veth peer name wire netns $near
ip -n $far link set wire up
ip -n $near link set wire up

# The last byte of each frame that tcpdump records with this filter.
recorded() {
	ip netns exec $near tcpdump -i wire -nn -U --immediate-mode -Z root -w "$folder/out" "$1" 2>"$folder/said" &
	process=$!
	until grep -q "listening on" "$folder/said"; do sleep 0.1; done
	ip netns exec $far python3 -c '
import socket
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind(("wire", 0))
for number in range(1, 6):
    out.send(bytes.fromhex("02000000000202000000000188b6") + bytes([number]) * 46)'
	sleep 1
	kill -INT $process
	wait $process || true
	tcpdump -r "$folder/out" -x 2>/dev/null | awk '/0x0000:/ { printf "%s ", substr($NF, 3) }'
}

tcpdump --version 2>&1 | head -2
all=$(recorded "ether proto 0x88b6")
inbound=$(recorded inbound)
echo "ether proto 0x88b6: $all"
echo "inbound: $inbound"
[ "$all" = "01 02 03 04 05 " ] && [ "$inbound" = "02 03 04 05 " ]
