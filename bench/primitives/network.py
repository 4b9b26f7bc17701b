"""The network that the programs run in: two namespaces of our own, gone at the end.

`source` is the mirrored device, a null device: egress taps see its frames, then they are dropped. The sinks are
`null` (the kernel segments GSO copies, as for a NIC without the offload), `offload` (a null device that says it
segments itself) and `pair` (one end of a veth pair; the other namespace's stack drops what comes out).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SINKS = ("null", "offload", "pair")
NEIGHBOUR = "02:00:00:00:00:02"  # the copies' next hop; no device has this address, so nothing answers


def run(*command: str) -> str:
    """Standard output of a command that must succeed."""
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


class Network:
    """Names of the namespaces, and what is done inside the first."""

    def __init__(self) -> None:
        self.name = f"bench-{os.getpid()}"
        self.far = f"{self.name}-far"

    def set_up(self) -> None:
        """Makes both namespaces and every device. IPv6 is off: no frame but ours."""
        for namespace in (self.name, self.far):
            run("ip", "netns", "add", namespace)
            run("ip", "netns", "exec", namespace, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        for device in ("source", "null", "offload"):
            run("ip", "-n", self.name, "link", "add", device, "type", "ifb")
        run("ip", "-n", self.name, "link", "add", "pair", "type", "veth", "peer", "name", "far", "netns", self.far)
        for device in ("source", *SINKS):
            run("ip", "-n", self.name, "link", "set", device, "up")
        run("ip", "-n", self.far, "link", "set", "far", "up")
        run("ip", "netns", "exec", self.name, "ethtool", "-K", "null", "tx-udp-segmentation", "off")

    def tear_down(self) -> None:
        """Removes both namespaces, and with them the devices."""
        for namespace in (self.name, self.far):
            subprocess.run(["ip", "netns", "delete", namespace], check=False, stderr=subprocess.DEVNULL)

    def route_to(self, sink: str) -> None:
        """UDP copies leave through this sink from now on."""
        for device in SINKS:
            run("ip", "-n", self.name, "address", "flush", "dev", device)
        run("ip", "-n", self.name, "address", "add", "10.77.0.1/24", "dev", sink)
        if sink == "pair":
            run("ip", "-n", self.name, "neighbour", "replace", "10.77.0.2", "lladdr", NEIGHBOUR, "dev", sink)

    def arrived(self, sink: str) -> int:
        """Packets the sink's driver was given so far. An ifb counts them as received and dropped."""
        stats = json.loads(run("ip", "-n", self.name, "-s", "-j", "link", "show", sink))[0]["stats64"]
        return int(stats["tx"]["packets"] if sink == "pair" else stats["rx"]["dropped"])

    def start(self, program: Path, *arguments: object) -> subprocess.Popen[str]:
        """Starts one of the programs in the first namespace."""
        command = ["nsenter", f"--net=/run/netns/{self.name}", str(program), *map(str, arguments)]
        return subprocess.Popen(command, text=True, stdout=subprocess.PIPE)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The JSON that a program prints at its end."""
    try:
        output, _ = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    if process.returncode != 0:
        message = f"{process.args!r} failed"
        raise RuntimeError(message)
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def wait_until_ready(process: subprocess.Popen[str]) -> None:
    """Returns when a program that captures has its filter in place."""
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        process.wait(timeout=5)
        message = f"{process.args!r} did not start"
        raise RuntimeError(message)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A network for the time of a with block."""
    made = Network()
    try:
        made.set_up()
        yield made
    finally:
        made.tear_down()
