#!/bin/sh
# `ip monitor link` names the network namespace of a veth's other end by what had this id before, if that is gone.
#
# With: Linux 6.18, iproute2 6.1.0 (Debian 12). As root.
# Input: a veth whose other end is in namespace A, which is deleted; then one whose other end is in a new namespace B, which
# the kernel gives the id that A had.
#
# Expected, by ip-link(8): the second one's `link-netns` is B, as `ip link show` has it.
# Seen: the monitor keeps the names of ids that it has looked up, and says A, which is not there any more.
#
#   monitor: two link-netns A
#   show: two link-netns B
#
# So who follows containers by a monitor takes two for one that kept its namespace.
set -eu
here=finding-$$ a=finding-$$-a b=finding-$$-b
seen=$(mktemp)
trap 'rm -f $seen; ip netns delete $here; ip netns delete $b' EXIT
uname -r
ip -V
ip netns add $here
ip netns add $a
ip -n $here link add zero type veth peer name zero netns $a
ip -n $here -oneline monitor link >"$seen" &
monitor=$!
shown() { # wait until the monitor has told of this device
    for _ in $(seq 100); do
        grep -q "^[0-9]*: $1@" "$seen" && return
        sleep 0.1
    done
    echo "the monitor tells nothing of $1"
    exit 1
}
for _ in $(seq 100); do # until it listens
    ip -n $here link set zero alias "$(date +%N)"
    [ -s "$seen" ] && break
    sleep 0.1
done
ip -n $here link add one type veth peer name one netns $a
shown one
ip netns delete $a
while ip -n $here link show one >/dev/null 2>&1; do sleep 0.1; done
ip netns add $b
ip -n $here link add two type veth peer name two netns $b
shown two
kill $monitor
told=$(sed -n 's/^[0-9]*: two@.*link-netns \([^ ]*\).*/\1/p' "$seen" | head -n 1)
is=$(ip -n $here -oneline link show two | sed -n 's/.*link-netns \([^ ]*\).*/\1/p')
echo "monitor: two link-netns ${told##*-}"
echo "show: two link-netns ${is##*-}"
[ "$told" = "$a" ] && [ "$is" = "$b" ]
