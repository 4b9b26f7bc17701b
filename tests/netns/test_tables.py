"""Every table of mirrorctl on terminals of five widths, against what it says as JSON: nothing is cut but names."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

from tests.conftest import MakeDaemon
from tests.support.ctl import ctl
from tests.support.send import FRAME, send
from tests.support.swollen import swollen
from tests.support.terminal import Terminal
from tests.support.topology import Topology

NAME = "customer-0815-production-mirror-of-the-second-row-third-rack-no-"  # and two digits
MIRROR, SESSION, FILTER = (f"{NAME[:61]}{n}" for n in ("-1", "-2", "-3"))
CONFIG = f"""
[filters.{FILTER}]
description = "what the auditors asked for, all of it and nothing else"
rules = [
  {{ priority = 65535, action = "accept" }},
  {{ priority = 10, action = "reject", protocol = "udp", destination_ports = ["1000-65535", "53"],
     destination = ["2001:db8:1111:2222:3333:4444:5555:6666/128", "::/0"] }},
]

[mirrors.{MIRROR}]
description = "core business, and more of it than fits into any line of a terminal that a person would open"
[[mirrors.{MIRROR}.sessions]]
name = "{SESSION}"
source = "tap0"
filter = "{FILTER}"
destination = {{ type = "vxlan", remote = "2001:db8:1111:2222:3333:4444:5555:6666", vni = 16777215 }}
[[mirrors.{MIRROR}.sessions]]
name = "down"
source = "tap0"
destination = {{ type = "device", device = "a-device-of-15-" }}
"""
WIDTHS = (60, 80, 100, 120, 200)
COMMANDS = (
    ("status",),
    ("list",),
    ("show", MIRROR),
    ("top", "--once"),
    ("filter", "list"),
    ("filter", "show", FILTER),
    ("network", "list"),
    ("audit",),
    ("sources",),
    ("explain", FILTER, "--pcap", "FILE.pcap"),
    ("apply", "-f", "FILE.toml", "--dry-run"),
)  # fmt: skip
DRIVER = """
import json, sys
from mirrord.cli.main import main
for words in json.loads(sys.argv[1]):
    print("=" * 9)
    main(words, standalone_mode=False)
"""
Shown = list[tuple[str, str]]
"""Pairs of a column's title and what stands in it, or must be left out with it."""


@pytest.fixture
def dataplane() -> str:
    """One is enough: how frames go is not the question."""
    return "native"


@pytest.fixture
def socket(net: Topology, daemon: MakeDaemon, tmp_path: Path) -> Iterator[Path]:
    host, guest = net.host("host"), net.host("guest")
    net.link(host, "tap0", guest, "eth0")
    net.link(host, "a-device-of-15-", guest, "eth1")
    running = daemon(host, CONFIG, up=False)
    network = ("--device", "em02", "--addresses", "2001:db8:ffff:ffff:ffff:ffff:ffff:fff0/112")
    ctl(running.socket, "network", "create", NAME[:63], *network)
    ctl(running.socket, "network", "delete", "none", status=1)
    send(host, "tap0", FRAME, 7)
    running.settle(7)
    with swollen(running.socket, tmp_path / "swollen.sock") as path:
        yield path


def sessions(rows: Any, *extra: str) -> Shown:
    found = []
    for one in rows:
        dropped = sum(one["counters"]["dropped_frames"].values())
        found += [("SOURCE", one["source"]), ("STATE", one["state"]), ("DROPPED", str(dropped))]
        if "DESTINATION" in extra:
            found.append(("DESTINATION", one["destination"]))
        counter = "MIRRORED" if "MIRRORED" in extra else "CAPTURED"
        found.append((counter, str(one["counters"][f"{counter.lower()}_frames"])))
    return found


def expected(command: tuple[str, ...], answer: Any) -> Shown:
    """What the JSON has that no table may cut."""
    match command[:2]:
        case ("status",):
            return sessions(answer["sessions"], "DESTINATION", "MIRRORED")
        case ("top", _):
            return sessions(answer["sessions"])
        case ("show", _):
            rows = [row for one in answer["sessions"] for row in one["running"]]
            counters = [("VALUE", str(row["counters"]["sent_bytes"])) for row in rows]
            return sessions(rows, "DESTINATION", "MIRRORED") + counters
        case ("list",):
            rows = [row for one in answer for session in one["sessions"] for row in session["running"]]
            mirrored = sum(row["counters"]["mirrored_frames"] for row in rows)
            up = f"{sum(row['state'] == 'up' for row in rows)}/{len(rows)}"
            return [("MIRRORED", str(mirrored)), ("UP", up), ("SESSIONS", str(len(rows)))]
        case ("filter", "list"):
            return [("RULES", str(len(one["rules"]))) for one in answer]
        case ("filter", "show"):
            (network, _), (ports, _) = answer["rules"][1]["destination"], answer["rules"][1]["destination_ports"]
            match = [("MATCH", f"destination={network}"), ("MATCH", f"destination_ports={ports}")]
            return [("PRIORITY", str(one["priority"])) for one in answer["rules"]] + match
        case ("explain", _):
            totals = answer["totals"]["rules"]
            return [pair for rule, count in totals.items() for pair in (("RULE", rule), ("PACKETS", str(count)))]
        case ("apply", _):
            return [(key.upper(), one[key]) for one in answer["objects"] for key in ("operation", "kind")]
        case ("sources",):
            return [(key.upper(), one[key]) for one in answer for key in ("device", "kind", "state")]
        case ("network", _):
            return [(key.upper(), one[key]) for one in answer for key in ("device", "addresses")]
        case _:
            return [(key.upper(), one[key]) for one in answer for key in ("operation", "result", "kind", "message")]


def test_every_table_at_every_width_has_what_the_json_has(socket: Path, tmp_path: Path) -> None:
    wrpcap(str(tmp_path / "FILE.pcap"), [Ether(FRAME)] * 12)
    (tmp_path / "FILE.toml").write_text(f'[filters.{NAME[:61]}-4]\nrules = [{{ priority = 1, action = "accept" }}]\n')
    commands = [tuple(str(tmp_path / word) if word.startswith("FILE.") else word for word in one) for one in COMMANDS]
    answers = [json.loads(ctl(socket, "--json", *command)) for command in commands]
    assert answers[0]["sessions"][0]["counters"]["mirrored_frames"] > 10**11
    words = json.dumps([["--socket", str(socket), *command] for command in commands])
    left_out = []
    for width in WIDTHS:
        with Terminal([sys.executable, "-c", DRIVER, words], columns=width) as terminal:
            _, *shown = terminal.wait().split("=" * 9 + "\n")
        assert len(shown) == len(COMMANDS), shown
        for command, answer, text in zip(commands, answers, shown, strict=True):
            notes = [line for line in text.splitlines() if line.startswith("(no room for")]
            left_out.append(len(notes))
            table = text.replace(notes[0], "") if notes else text
            for title, whole in expected(command, answer):
                gone = any(f" {title}" in note for note in notes)
                there = all(word in table.replace(",", " ").split() for word in whole.replace(",", " ").split())
                assert there or gone, (width, command, title, whole, text)
            for line in table.splitlines():
                assert "BITS/S" not in line or len(line) <= width, (width, command, text)
            if width < 200 and command[0] in ("status", "top"):
                assert "…" in text, (width, command, text)
    per_width = [sum(left_out[n : n + len(COMMANDS)]) for n in range(0, len(left_out), len(COMMANDS))]
    assert all(fewer >= more for fewer, more in pairwise(per_width))  # the wider, the less is left out
    assert (per_width[0] > 0, per_width[-1]) == (True, 0)
