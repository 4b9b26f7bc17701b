"""WireGuard between two hosts, by wireguard-go, which needs no module of the kernel's."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

from tests.support.topology import Host
from tests.support.wait import wait_for

_NUMBERS = itertools.count()  # no name comes again: one that has just ended may have left its socket
_NAMES: dict[int, str] = {}  # of those that were connected last


def connect(hosts: tuple[Host, Host], ends: tuple[str, str], device: str, addresses: tuple[str, str]) -> None:
    """Give both a device, up, with these addresses (with a prefix length); `ends` are those that they reach each other
    by.
    """
    keys = [subprocess.run(["wg", "genkey"], capture_output=True, check=True, text=True).stdout for _ in hosts]
    for n, host in enumerate(hosts):
        name = f"wg{os.getpid()}-{next(_NUMBERS)}"  # its control socket has this name, for all network namespaces
        _NAMES[n] = name
        running = host.spawn("env", "WG_PROCESS_FOREGROUND=1", "wireguard-go", "-f", name)
        wait_for(Path(f"/run/wireguard/{name}.sock").exists, f"WireGuard runs: {running.output()}")
        public = subprocess.run(["wg", "pubkey"], input=keys[1 - n], capture_output=True, check=True, text=True).stdout
        own = ("listen-port", "51820", "private-key", "/dev/stdin")
        remote = ("endpoint", f"{ends[1 - n]}:51820", "allowed-ips", "0.0.0.0/0")
        host.run("wg", "set", name, *own, "peer", public.strip(), *remote, stdin=keys[n])
        host.ip(f"link set dev {name} name {device} up")
        host.ip(f"address add {addresses[n]} dev {device}")


def set_mark(number: int, mark: str) -> None:
    """What the nth host of those that were connected sends has this mark from now on."""
    subprocess.run(["wg", "set", _NAMES[number], "fwmark", mark], check=True)
