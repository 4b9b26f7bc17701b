"""`mirrorctl explain`: the rule for each packet of a file, beside what tcpdump's filters say of the same file."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.utils import wrpcap

from tests.support.captures import fields
from tests.support.ctl import ctl

ETHER = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")  # both given: scapy would ask the network for one
HTTP = IP(src="10.0.0.1", dst="10.9.0.1") / TCP(sport=1000, dport=80)
FRAMES = [
    ETHER / Dot1Q(vlan=7) / HTTP,
    ETHER / Dot1Q(vlan=8) / HTTP,
    ETHER / HTTP,
    ETHER / IP(src="10.0.1.1", dst="10.9.0.1") / TCP(sport=1000, dport=80),
    ETHER / IP(src="10.0.0.1", dst="10.9.0.1") / TCP(sport=80, dport=1000),
    ETHER / IP(src="10.0.0.1", dst="10.9.0.1") / UDP(sport=53, dport=1500),
    ETHER / IP(src="10.0.0.1", dst="10.9.0.1", frag=185, proto=17) / (b"\x05\xdc" * 20),
    ETHER / IP(src="10.0.0.1", dst="10.9.0.1") / ICMP(),
    ETHER / IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=1, dport=999),
    ETHER / IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=1, dport=2000),
    ETHER / ARP(psrc="10.0.0.1", pdst="10.0.0.2"),
    ETHER / (b"\x00" * 46),
]
TAKES = {  # by each rule's priority: what tcpdump calls what it takes, if none before it does
    1: "vlan 7",
    2: "src net 10.0.0.0/24 and tcp dst port 80 or (vlan and src net 10.0.0.0/24 and tcp dst port 80)",
    3: "udp dst portrange 1000-2000",
    4: "icmp",
    5: "ip6",
    6: "arp",
}
CONFIG = """
[daemon]
include = []

[filters.f]
rules = [
  { priority = 6, action = "accept", ethertype = 0x0806 },
  { priority = 5, action = "accept", family = "ipv6" },
  { priority = 4, action = "reject", protocol = "icmp" },
  { priority = 3, action = "accept", protocol = "udp", destination_ports = "1000-2000" },
  { priority = 2, action = "accept", protocol = "tcp", source = "10.0.0.0/24", destination_ports = ["80", "443"] },
  { priority = 1, action = "reject", vlan = 7 },
]

[filters.ways]
rules = [
  { priority = 1, action = "accept", direction = "egress" },
  { priority = 2, action = "reject" },
]

[filters.details]
rules = [
  { priority = 1, action = "accept", length = "-41" },
  { priority = 2, action = "accept", source_mac = ["02:00:00:00:00:09", "02:00:00:00:00:0a"] },
  { priority = 3, action = "accept", dscp = [1, 46] },
  { priority = 4, action = "accept", protocol = "tcp", tcp_flags = ["syn,ack", "fin"] },
  { priority = 5, action = "accept", protocol = "udp", source_ports = 9 },
  { priority = 6, action = "accept", protocol = "icmp", icmp_type = [0, 3], icmp_code = 1 },
]

[filters.many]
rules = [
MANY]
""".replace(
    "MANY",
    "".join(
        f'  {{ priority = {n}, action = "accept", protocol = "tcp", destination_ports = {1000 + n} }},\n'
        for n in range(1, 31)
    ),
)


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "mirrord.toml").write_text(CONFIG)
    return str(tmp_path / "mirrord.toml")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """The frames as pcap; the first is of second 1, the next of second 2."""
    for second, frame in enumerate(FRAMES, 1):
        frame.time = second
    wrpcap(str(tmp_path / "plain.pcap"), FRAMES)
    return tmp_path / "plain.pcap"


def explained(*arguments: str) -> Any:
    return json.loads(ctl("/nowhere", "--json", "explain", *arguments))


def taken(file: Path, expression: str) -> set[int]:
    """The numbers of the packets that tcpdump's expression takes: each is of the second of its number."""
    command = ["tcpdump", "-nn", "-tt", "-r", str(file), expression]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
    return {int(line.partition(".")[0]) for line in lines}


@pytest.mark.parametrize("form", ["pcap", "nsecpcap", "pcapng", "big-endian"])
def test_the_rule_that_tcpdump_finds_takes_each_packet(plain: Path, config: str, form: str) -> None:
    file = plain.with_name("converted")
    if form == "big-endian":
        wrpcap(str(file), FRAMES, endianness=">")
    else:
        subprocess.run(["editcap", "-F", form, str(plain), str(file)], check=True, timeout=30)
    sets = {priority: taken(plain, expression) for priority, expression in TAKES.items()}
    expected = [next((p for p in sets if number in sets[p]), None) for number in range(1, len(FRAMES) + 1)]
    assert {None, *TAKES} == set(expected)  # each rule has its packets

    answer = explained("f", "--pcap", str(file), "--config", config)
    assert [one["rule"] for one in answer["packets"]] == expected
    assert [[each["rule"] for each in one["passed_over"]] for one in answer["packets"]] == [
        [p for p in TAKES if rule is None or p < rule] for rule in expected
    ]
    totals = answer["totals"]
    assert totals["rules"] == {str(p): expected.count(p) for p in TAKES}
    assert (totals["packets"], totals["unmatched"]) == (len(FRAMES), expected.count(None))
    assert totals["rejected"] == expected.count(1) + expected.count(4)


def test_the_field_that_does_not_match_is_named(plain: Path, config: str) -> None:
    lines = ctl("/nowhere", "explain", "f", "--pcap", str(plain), "--config", config).splitlines()
    line = "3 ingress rule 2 accepts tcp 10.0.0.1:1000 > 10.9.0.1:80; rule 1: vlan is no tag, not 7"
    assert " ".join(lines[2].split()) == line
    assert "rule 2: source is 10.0.1.1, not 10.0.0.0/24" in lines[3]
    assert "rule 2: destination_ports is 1000, not 80 or 443" in lines[4]
    assert "rule 3: destination_ports is a later fragment, not 1000-2000" in lines[6]
    assert "rule 4: protocol is udp, not icmp" in lines[8]
    assert "12 packets: 6 accepted, 2 rejected, 4 matched by no rule" in "\n".join(lines)
    lines = ctl("/nowhere", "explain", "many", "--pcap", str(plain), "--config", config).splitlines()
    assert lines[2].count("; rule ") == 10
    assert "; 20 rules before; rule 21: destination_ports is 80, not 1021;" in lines[2]


def test_what_is_asked_beside_addresses_and_ports_is_named(plain: Path, config: str, tmp_path: Path) -> None:
    def line(number: int, file: Path = plain) -> list[str]:
        lines = ctl("/nowhere", "explain", "details", "--pcap", str(file), "--config", config).splitlines()
        return lines[number - 1].split("; ")[1:]

    tcp, ping, arp = line(3), line(8), line(11)
    assert tcp[0] == "rule 1: length is 54, not -41"
    assert tcp[1] == "rule 2: source_mac is 02:00:00:00:00:01, not 02:00:00:00:00:09 or 02:00:00:00:00:0a"
    assert tcp[2] == "rule 3: dscp is 0, not 1 or 46"
    assert tcp[3] == "rule 4: tcp_flags is syn, not syn,ack or fin"
    assert ping[5] == "rule 6: icmp_type is 8, not 0 or 3"
    assert arp[2] == "rule 3: dscp is ethertype 0x0806, not 1 or 46"
    cut = tmp_path / "cut.pcap"
    subprocess.run(["editcap", "-F", "pcap", "-s", "34", str(plain), str(cut)], check=True, timeout=30)
    assert line(3, cut)[0] == "rule 1: length is 54, not -41"  # what it was before the file's maker cut it
    assert line(3, cut)[3] == "rule 4: tcp_flags is no TCP header, not syn,ack or fin"
    assert line(8, cut)[5] == "rule 6: icmp_type is no ICMP header, not 0 or 3"


def test_the_direction_is_the_files_or_the_one_given(plain: Path, config: str, tmp_path: Path) -> None:
    hexdump = "\n".join(f"{way}\n000000 {bytes(ETHER / HTTP).hex(' ')}\n" for way in "IO")
    ways = tmp_path / "ways.pcapng"
    subprocess.run(["text2pcap", "-q", "-D", "-", str(ways)], input=hexdump, text=True, check=True, timeout=30)
    assert fields(ways, "frame.packet_flags_direction") == [["0x00000001"], ["0x00000002"]]  # inbound, outbound
    answer = explained("ways", "--pcap", str(ways), "--config", config)
    assert [(one["direction"], one["rule"]) for one in answer["packets"]] == [("ingress", 2), ("egress", 1)]
    assert answer["packets"][0]["passed_over"][0]["field"] == "direction"

    for way, rule in (("ingress", 2), ("egress", 1)):
        answer = explained("ways", "--pcap", str(plain), "--config", config, "--direction", way)
        assert {one["rule"] for one in answer["packets"]} == {rule}
        assert answer["totals"]["undirected"] == len(FRAMES)


def test_a_file_that_cannot_be_read_is_told(plain: Path, config: str, tmp_path: Path) -> None:
    def error(file: Path) -> str:
        return ctl("/nowhere", "explain", "f", "--pcap", str(file), "--config", config, status=1)

    assert "none.pcap: No such file or directory" in error(tmp_path / "none.pcap")
    (tmp_path / "cut.pcap").write_bytes(plain.read_bytes()[:-1])
    assert "cut.pcap: after packet 11: the file ends" in error(tmp_path / "cut.pcap")
    assert "neither pcap nor pcapng" in error(Path(config))
    wrpcap(str(tmp_path / "any.pcap"), FRAMES, linktype=113)  # Linux cooked capture
    assert "neither Ethernet frames nor IP packets (link type 113)" in error(tmp_path / "any.pcap")
    said = ctl("/nowhere", "explain", "g", "--pcap", str(plain), "--config", config, status=2)
    assert "no such filter: g; did you mean" not in said
    said = ctl("/nowhere", "explain", "way", "--pcap", str(plain), "--config", config, status=2)
    assert "no such filter: way; did you mean 'ways'?" in said
