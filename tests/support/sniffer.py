"""What arrives, as tcpdump and tshark tell it: real tools, so that no decoder of ours vouches for our own packets."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scapy.utils import RawPcapReader

from tests.support.send import send
from tests.support.topology import Host
from tests.support.wait import wait_for

# A frame of ours that ends a capture: IEEE 802 Local Experimental Ethertype 1 (RFC 9542, appendix B.2).
_END = bytes.fromhex("0200000000ee 0200000000ee 88b5") + b"mirrord tests: end of capture".ljust(46, b"\0")


class Recording:
    """A capture file, as tcpdump and tshark read it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def lines(self, expression: str = "") -> list[str]:
        """What was captured so far, a packet a line, as `tcpdump -nne` prints it (without the time)."""
        return tcpdump_lines(self.file, _but_the_end(expression))

    def frames(self, expression: str = "") -> list[bytes]:
        """The captured frames themselves."""
        chosen = self.file.with_suffix(".chosen.pcap")
        _tool(["tcpdump", "-r", str(self.file), "-w", str(chosen), _but_the_end(expression)])
        with RawPcapReader(str(chosen)) as reader:
            return [data for data, _ in reader]

    def tshark(self, *arguments: str, expression: str = "") -> str:
        """What tshark prints of the capture, the end marker left out."""
        ours = "!(eth.type == 0x88b5)"
        display = f"({expression}) && {ours}" if expression else ours
        return _tool(["tshark", "-n", "-r", str(self.file), "-Y", display, *arguments])

    def fields(self, *names: str, expression: str = "", decode: Sequence[str] = ()) -> list[list[str]]:
        """Fields by tshark, a row a packet; a field of several depths is comma-separated, outermost first."""
        chosen = [part for name in names for part in ("-e", name)]
        lines = self.tshark(*decode, "-T", "fields", *chosen, expression=expression).splitlines()
        return [line.split("\t") for line in lines]

    def packets(self, expression: str = "") -> list[Any]:
        """The whole dissection by tshark, a tree a packet."""
        return list(json.loads(self.tshark("-T", "json", "--no-duplicate-keys", expression=expression)))


class Sniffer(Recording):
    """tcpdump on a host's device, or on "any", into a file. Made: it listens already.

    Its buffer has a place of `snaplen` bytes for each packet, so a small one survives floods; super-frames need 65,600.
    """

    def __init__(self, host: Host, device: str, expression: str, file: Path, *, snaplen: int = 2048) -> None:
        super().__init__(file)
        self.host, self.device = host, device
        wanted = f"({expression}) or ether proto 0x88b5" if expression else ""
        self._process = host.spawn(
            "tcpdump", "-i", device, "-nn", "-s", str(snaplen), "-B", "65536", "--immediate-mode", "--nano", "-U",
            "-Z", "root", "-w", str(file), wanted,
        )  # fmt: skip
        wait_for(lambda: "listening on" in self._process.output(), f"tcpdump listens on {device}")

    def wait_lines(self, count: int, expression: str = "", seconds: float = 10.0) -> list[str]:
        """The lines, once there are at least `count` of them."""
        wait_for(lambda: len(self.lines(expression)) >= count, f"{count} packets: {expression or 'any'}", seconds)
        return self.lines(expression)

    def stop(self) -> Sniffer:
        """End the capture once all that arrived before this call is in the file; fail if tcpdump lost any of it."""
        send(self.host, "lo" if self.device == "any" else self.device, _END)
        wait_for(lambda: tcpdump_lines(self.file, "ether proto 0x88b5"), "the end marker in the capture")
        self._process.stop(signal.SIGINT)
        assert "\n0 packets dropped by kernel" in self._process.output(), self._process.output()
        return self


def tcpdump_lines(file: Path, expression: str = "") -> list[str]:
    """A capture file as `tcpdump -nne` prints it, without the time, a packet a line.

    tcpdump begins a new line for an encapsulated frame; here it follows on the same. A packet that is only half
    written yet is left out.
    """
    done = subprocess.run(
        ["tcpdump", "-nne", "-tt", "-r", str(file), expression],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0 or "truncated dump file" in done.stderr, done.stderr
    lines: list[str] = []
    for line in done.stdout.splitlines():
        if time := re.match(r"\d+\.\d+ ", line):
            lines.append(line[time.end() :])
        else:
            lines[-1] += " " + line
    return lines


def _but_the_end(expression: str) -> str:
    return f"({expression}) and not ether proto 0x88b5" if expression else "not ether proto 0x88b5"


def _tool(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
