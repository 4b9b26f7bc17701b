"""Hosts and the links between them: network namespaces and veth pairs, gone at the end with everything in them.

Ethernet here is quiet: no IPv6 unless a host asks for it, so that what a test counts is what it sent.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.support.prepared import ROOT, interpreter
from tests.support.process import Process

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_serial = itertools.count(1)

T = TypeVar("T")


class Host:
    """A network namespace. Its loopback is up; its devices come from `Topology.link`."""

    def __init__(self, label: str, *, ipv6: bool = False) -> None:
        self.label = label
        self.name = f"mirrord-{os.getpid()}-{next(_serial)}-{label}"
        self._processes: list[Process] = []
        _run(["ip", "netns", "add", self.name])
        try:
            if not ipv6:
                self.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
            self.ip("link set lo up")
        except BaseException:
            self.close()
            raise

    def run(self, *command: str, stdin: str = "", seconds: float = 60.0, check: bool = True) -> str:
        """What the command prints, errors included; RuntimeError shows it, unless `check` is off."""
        return _run(["ip", "netns", "exec", self.name, *command], stdin=stdin, seconds=seconds, check=check)

    def spawn(self, *command: str, directory: Path | None = None) -> Process:
        """The command, started; it is killed when the host goes, at the latest."""
        return self._kept(Process(["ip", "netns", "exec", self.name, *command], directory=directory))

    def program(self, *command: str, directory: Path, under: Sequence[str] = (), **environment: str) -> Process:
        """`python -m COMMAND` of this tree, likewise; by a prepared interpreter, unless there are words `under` it."""
        environment = {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT), **environment}
        ready = interpreter()
        if under or ready is None:
            given = [f"{name}={value}" for name, value in environment.items()]
            return self.spawn(*under, "env", *given, sys.executable, "-m", *command, directory=directory)
        return self._kept(Process(start=lambda output: ready.start(self.name, command, environment, directory, output)))

    def _kept(self, process: Process) -> Process:
        self._processes.append(process)
        return process

    def ip(self, arguments: str) -> str:
        """Run `ip` here with these arguments, split at blanks."""
        return _run(["ip", "-n", self.name, *arguments.split()])

    def add_bridge(self, name: str, *ports: str) -> None:
        """A bridge, up, with these devices as its ports. One that snoops on multicast has IGMP reports of its own."""
        self.ip(f"link add name {name} type bridge mcast_snooping 0")
        self.ip(f"link set dev {name} up")
        for port in ports:
            self.ip(f"link set dev {port} master {name}")

    def mac(self, device: str) -> str:
        return str(self._link(device)["address"])

    def index(self, device: str) -> int:
        return int(self._link(device)["ifindex"])

    def counter(self, device: str, *path: str) -> int:
        """What the kernel counts of a device, by the keys of ip -s -j: "tx", "packets"."""
        value = self._link(device)["stats64"]
        for key in path:
            value = value[key]
        return int(value)

    def transmitted(self, device: str) -> int:
        """Packets that left by the device, those included that the other end of a veth had no room for."""
        return self.counter(device, "tx", "packets") + self.counter(device, "tx", "dropped")

    def open_socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket of this host, for this process."""
        return self.call(lambda: socket.socket(family, kind, protocol))

    def call(self, function: Callable[[], T]) -> T:
        """What the function returns, or raises, when called in this host: the sockets it opens stay here.

        By a thread that ends here: setns moves a thread.
        """
        with ThreadPoolExecutor(max_workers=1, initializer=self._enter) as thread:
            return thread.submit(function).result()

    def _enter(self) -> None:
        with Path("/run/netns", self.name).open("rb") as namespace:
            if _libc.setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns {self.name}")

    def _link(self, device: str) -> Any:
        return json.loads(self.ip(f"-s -j link show dev {device}"))[0]

    def close(self) -> None:
        for process in self._processes:
            process.close()
        for left in _run(["ip", "netns", "pids", self.name]).split():
            os.kill(int(left), 9)
        _run(["ip", "netns", "delete", self.name])


class Topology:
    """Makes hosts and links, and takes them away at the end: `with Topology() as net: a = net.host("a")`."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise PermissionError("network namespaces need root: run as root")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def host(self, label: str, *, ipv6: bool = False) -> Host:
        host = Host(label, ipv6=ipv6)
        self._stack.callback(host.close)
        return host

    def link(
        self,
        a: Host,
        a_device: str,
        b: Host,
        b_device: str,
        addresses: tuple[str, str] = ("", ""),
        mtu: int = 1500,
        macs: tuple[str, str] = ("", ""),
        offloads: bool = True,
    ) -> None:
        """A veth pair, both ends up. `addresses` have a prefix length; empty: none. `offloads` off: as a plain wire."""
        a.ip(f"link add name {a_device} mtu {mtu} type veth peer name {b_device} mtu {mtu} netns {b.name}")
        for host, device, address, mac in zip((a, b), (a_device, b_device), addresses, macs, strict=True):
            if mac:
                host.ip(f"link set dev {device} address {mac}")
            if not offloads:
                host.run("ethtool", "-K", device, "tx", "off", "tso", "off", "gso", "off", "gro", "off")
            if address:
                host.ip(f"address add {address} dev {device}")
            host.ip(f"link set dev {device} up")

    def lan(self, addresses: dict[Host, str], mtu: int = 1500, *, offloads: bool = True) -> Host:
        """A switch (returned) with the hosts' `eth0` plugged in; its ports are named as the hosts."""
        switch = self.host("switch")
        for host, address in addresses.items():
            self.link(host, "eth0", switch, host.label, (address, ""), mtu, offloads=offloads)
        switch.add_bridge("br0", *(host.label for host in addresses))
        return switch


def acquaint(a: Host, a_device: str, a_address: str, b: Host, b_device: str, b_address: str) -> None:
    """Tell both hosts each other's MAC address for good: no ARP in between what a test counts."""
    a.ip(f"neighbour replace {b_address} lladdr {b.mac(b_device)} dev {a_device}")
    b.ip(f"neighbour replace {a_address} lladdr {a.mac(a_device)} dev {b_device}")


def receive_vxlan(host: Host, vni: int = 0xFFFFFF, device: str = "vxlan0", local: str = "") -> None:
    """Give the host a kernel vxlan device on port 4789: the frames of `vni` come out of it.

    Over IPv6 it needs a `local` address. What has another VNI is dropped in silence, where a closed port would answer
    with ICMP errors.
    """
    host.ip(f"link add name {device} type vxlan id {vni} dstport 4789 nolearning {local and 'local'} {local}")
    host.ip(f"link set dev {device} up")


def _run(command: Sequence[str], *, stdin: str = "", seconds: float = 60.0, check: bool = True) -> str:
    done = subprocess.run(
        command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, check=False
    )
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}")
    return done.stdout
