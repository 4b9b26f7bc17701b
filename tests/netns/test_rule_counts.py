"""Counters of single rules: over sessions, and over reloads.

client eth0 ---- nic [source] span ---- eth0 [collector]
"""

from __future__ import annotations

from tests.conftest import MakeDaemon
from tests.support.metrics import Metrics
from tests.support.send import send, udp_frame
from tests.support.topology import Topology
from tests.support.wait import wait_for

RULES = """
[filters.dns]
rules = [
  { priority = 10, action = "reject", protocol = "udp", destination_ports = "7" },
  { priority = 20, action = "accept", protocol = "udp", destination_ports = "53" },
  { priority = 30, action = "accept", protocol = "udp", destination = "10.0.0.0/8" },
]
"""
SESSION = """
[[mirrors.m.sessions]]
name = "{name}"
source = "nic"
direction = "ingress"
filter = "dns"
destination = {{ type = "device", device = "{device}" }}
count_rules = {count}
{more}
"""
OTHERS = RULES.replace('priority = 30, action = "accept"', 'priority = 31, action = "accept"')


def counted(metrics: Metrics) -> dict[str, float]:
    series = metrics.select("mirrord_rule_matched_frames_total", filter="dns")
    return {dict(key[1])["rule"]: metrics[key] for key in series}


def test_rules_are_counted(net: Topology, daemon: MakeDaemon) -> None:
    client, source, collector = net.host("client"), net.host("source"), net.host("collector")
    net.link(client, "eth0", source, "nic")
    net.link(source, "span", collector, "eth0")
    net.link(source, "other", collector, "eth1")
    net.link(source, "third", collector, "eth2")
    sessions = SESSION.format(name="a", device="span", count="true", more="")
    sessions += SESSION.format(name="b", device="other", count="true", more="sampling_rate = 2000000000")
    sessions += SESSION.format(name="c", device="third", count="false", more="")
    mirrord = daemon(source, RULES + sessions)
    ports = [7, 53, 53, 80, 81, 82]
    for port in ports:
        send(client, "eth0", udp_frame(("02:00:00:00:00:01", "10.0.0.1", 1), ("02:00:00:00:00:02", "10.0.0.2", port)))
    metrics = mirrord.settle(3 * 5)
    assert counted(metrics) == {"20": 4, "30": 6}, "accept rules, of two sessions, what was sampled out too"

    text = mirrord.file.read_text()
    mirrord.file.write_text(text.replace(RULES, OTHERS))
    mirrord.reload()
    wait_for(lambda: mirrord.metrics().select("mirrord_rule_matched_frames_total", rule="31"), "the new rule")
    send(client, "eth0", udp_frame(("02:00:00:00:00:01", "10.0.0.1", 1), ("02:00:00:00:00:02", "10.0.0.2", 53)))
    send(client, "eth0", udp_frame(("02:00:00:00:00:01", "10.0.0.1", 1), ("02:00:00:00:00:02", "10.0.0.2", 80)))
    assert counted(mirrord.settle(3 * 7)) == {"20": 6, "30": 6, "31": 2}
    one = SESSION.format(name="a", device="span", count="true", more="")
    mirrord.file.write_text(text.replace(RULES + sessions, OTHERS + one))
    mirrord.reload()
    wait_for(lambda: not mirrord.metrics().select("mirrord_session_up", session="b"), "one session")
    assert counted(mirrord.metrics())["20"] == 6, "a sum that only grows"
