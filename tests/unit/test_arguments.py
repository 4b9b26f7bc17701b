"""`key=value,...` as the command line has it."""

from __future__ import annotations

import pytest

from mirrord.cli.arguments import check, pairs
from mirrord.cli.tables import written

SYN = {"priority": "1", "action": "accept", "protocol": "tcp", "tcp_flags": "syn,!ack"}


def test_the_commas_of_tcp_flags_are_their_own() -> None:
    assert pairs("tcp_flags=syn,!ack,vlan=7") == {"tcp_flags": "syn,!ack", "vlan": "7"}
    assert pairs("tcp_flags=syn,!ack,tcp_flags=fin") == {"tcp_flags": ["syn,!ack", "fin"]}
    assert pairs("priority=1,action=accept,protocol=tcp,tcp_flags=syn,!ack") == SYN
    for wrong in ("vlan=7,syn", "tcp_flags=syn,", "tcp_flags=syn,vlan=7,!ack"):
        with pytest.raises(ValueError, match="expected key=value"):
            pairs(wrong)


def test_what_is_shown_of_a_rule_is_what_may_be_written() -> None:
    asked = SYN | {"length": ["64", "1519-"], "dscp": "46", "source_mac": "52:54:00:12:34:AB"}
    (rule,) = check("Filter", {"rules": [asked]})["rules"]
    shown = written(rule)
    assert shown.endswith("source_mac=52:54:00:12:34:ab,length=64,length=1519-,dscp=46,tcp_flags=syn,!ack")
    assert check("Filter", {"rules": [pairs(shown)]}) == {"rules": [rule]}
