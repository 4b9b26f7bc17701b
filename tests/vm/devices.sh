# Run in the machine of tests/vm/machine: kinds of devices that the tests' own kernel lacks, a mirror of each, and what
# passes them. What comes of it is written beside the command, for the tests to look at.
#
# peer eth0 ---- eth0 [here] up0 ---- up0, gnv0 collector   every other device leads to the peer, too
set -eu
root=$1 # of the project
export PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1
cd /run/shared
at() { echo "$(cut -d ' ' -f 1 /proc/uptime) $*"; }
peer() { ip netns exec peer "$@"; }
until_so() { # what, command...
    what=$1
    shift
    for _ in $(seq 100); do
        "$@" >/dev/null 2>&1 && return 0
        kill -0 $daemon || break
        sleep 0.3
    done
    at "not in time: $what" >&2
    exit 1
}
at begins
modprobe -a veth bonding vrf ipvlan 8021q bridge wireguard ipip sit ip_gre ppp_async geneve
sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.default.router_solicitations=0
ip -batch - <<BATCH
link set lo up
netns add peer
netns add collector
netns add other
link add up0 mtu 1700 type veth peer name up0 mtu 1700 netns collector
address add 192.0.2.1/24 dev up0
link set up0 up
BATCH
ip -n collector -batch - <<BATCH
address add 192.0.2.2/24 dev up0
link set up0 up
link add gnv0 type geneve id 7 remote 192.0.2.1
link set gnv0 up
BATCH

# --- the mirror: it takes longest to start, so it comes first ---

"$root/.venv/bin/python" -m mirrord.control.daemon -c mirrord.toml >daemon.log 2>&1 &
daemon=$!
ip netns exec collector tcpdump -i up0 -U -s 0 -B 65536 -Z root -w copies.pcap "udp port 4789 or udp port 6081" 2>collector.log &
collector=$!
ip netns exec collector tcpdump -i gnv0 -U -s 0 -Z root -w inner.pcap icmp 2>inner.log &
inner=$!

# --- devices ---

umask 077
wg genkey >/tmp/ours
wg genkey >/tmp/theirs
ip -batch - <<BATCH
link add eth0 type veth peer name eth0 netns peer
address add 10.0.0.1/24 dev eth0
link set eth0 up
link add wg0 type wireguard
address add 10.1.0.1/24 dev wg0
link add ipip1 type ipip local 10.0.0.1 remote 10.0.0.2
address add 10.2.0.1/24 dev ipip1
link add gre1 type gre key 7 local 10.0.0.1 remote 10.0.0.2
address add 10.3.0.1/24 dev gre1
link add gre2 type gre key 9 local 10.0.0.1
link add sit1 type sit local 10.0.0.1 remote 10.0.0.2
address add 2001:db8:3::1/64 dev sit1
link set ipip1 up
link set gre1 up
link set gre2 up
link set sit1 up
link add bond0 type bond mode active-backup miimon 100
link add slave1 type veth peer name slave1 netns peer
link add slave2 type veth peer name slave2 netns peer
link set slave1 master bond0
link set slave2 master bond0
address add 10.6.0.1/24 dev bond0
link set bond0 up
link add parent type veth peer name parent netns peer
link set parent up
link add child link parent type ipvlan mode l3s
address add 10.7.0.1/24 dev child
link set child up
link add vrf0 type vrf table 8
link set vrf0 up
link add member type veth peer name member netns peer
link set member master vrf0
address add 10.8.0.1/24 dev member
link set member up
link add link eth0 name eth0.5 type vlan id 5
address add 10.9.0.1/24 dev eth0.5
link set eth0.5 up
link add br0 type bridge vlan_filtering 1 vlan_default_pvid 0
link add access type veth peer name eth0 netns other
link add trunk type veth peer name trunk netns peer
link set access master br0
link set trunk master br0
link set access up
link set trunk up
link set br0 up
BATCH
ip -n peer -batch - <<BATCH
link set lo up
address add 10.0.0.2/24 dev eth0
link set eth0 up
link add wg0 type wireguard
address add 10.1.0.2/24 dev wg0
link add ipip1 type ipip local 10.0.0.2 remote 10.0.0.1
address add 10.2.0.2/24 dev ipip1
link add gre1 type gre key 7 local 10.0.0.2 remote 10.0.0.1
address add 10.3.0.2/24 dev gre1
link add sit1 type sit local 10.0.0.2 remote 10.0.0.1
address add 2001:db8:3::2/64 dev sit1
link set ipip1 up
link set gre1 up
link set sit1 up
link add br6 type bridge
link set slave1 master br6
link set slave2 master br6
link set slave1 up
link set slave2 up
address add 10.6.0.2/24 dev br6
link set br6 up
address add 10.7.0.2/24 dev parent
link set parent up
address add 10.8.0.2/24 dev member
link set member up
link add link eth0 name eth0.5 type vlan id 5
address add 10.9.0.2/24 dev eth0.5
link set eth0.5 up
link add link trunk name trunk.10 type vlan id 10
address add 10.10.0.2/24 dev trunk.10
link set trunk up
link set trunk.10 up
BATCH
ip -n other -batch - <<BATCH
address add 10.10.0.1/24 dev eth0
link set eth0 up
BATCH
# The one port of br0 takes what has no tag as VLAN 10, the other has VLAN 10 tagged.
bridge vlan add dev access vid 10 pvid untagged
bridge vlan add dev trunk vid 10
wg set wg0 listen-port 51820 private-key /tmp/ours peer "$(wg pubkey </tmp/theirs)" \
    endpoint 10.0.0.2:51820 allowed-ips 10.1.0.0/24
peer wg set wg0 listen-port 51820 private-key /tmp/theirs peer "$(wg pubkey </tmp/ours)" \
    endpoint 10.0.0.1:51820 allowed-ips 10.1.0.0/24
ip link set wg0 up
ip -n peer link set wg0 up
pppd local noauth nodetach nodefaultroute 10.5.0.1:10.5.0.2 \
    pty "ip netns exec peer pppd local noauth notty nodetach nodefaultroute 10.5.0.2:10.5.0.1" >ppp.log 2>&1 &
ppp=$!
peer iperf3 -s -D
at "devices are there"
up() { curl -sSf --unix-socket /run/mirrord.sock http://localhost/v1/status >status.json && grep -q "$1" status.json; }
until_so "the mirror runs" up version
at "the mirror runs"
until_so "sessions are up" up '"ppp0", *"state": *"up"'
until_so "tcpdump listens" grep -q "listening on" collector.log
until_so "tcpdump listens behind geneve" grep -q "listening on" inner.log

# --- what passes them ---

for place in 10.1.0.2 10.2.0.2 10.3.0.2 2001:db8:3::2 10.5.0.2 10.6.0.2 10.7.0.2 10.9.0.2; do
    ping -c 3 -i 0.05 -W 5 $place >>pings || at "no answer from $place"
done
ping -c 3 -i 0.05 -W 5 -I vrf0 10.8.0.2 >>pings || at "no answer from 10.8.0.2"
ip netns exec other ping -c 3 -i 0.05 -W 5 10.10.0.2 >>pings || at "no answer from 10.10.0.2"
at pinged
iperf3 -c 10.1.0.2 -n 200K >>streams
iperf3 -c 10.1.0.2 -n 200K -R >>streams
iperf3 -c 10.6.0.2 -n 200K -R >>streams
at "streams sent"
for what in doctor sources; do curl -sS --unix-socket /run/mirrord.sock http://localhost/v1/$what >$what.json; done
curl -sS http://127.0.0.1:9817/metrics >metrics.txt
kill $daemon
wait $daemon
sleep 0.5 # for tcpdump to write the last copies
kill $collector $inner $ppp
wait $collector $inner || true
at ends
