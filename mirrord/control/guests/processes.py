"""VMs without libvirt, as their processes tell of them: a QEMU's command line, and the taps that it holds open.

The command line says what the VM is called and what NICs it has; which tap is behind a NIC the kernel says, in
/proc/ID/fdinfo of the descriptor (`iff:`). A tap's name in the command line alone is not believed: whoever may start a
process may write any name there.

There are no events of such VMs. But each that starts or ends makes, takes or leaves a tap, which the kernel announces;
a tap may come before the process that is to hold it, and so it is looked again some times, ever later.

proc_pid_fdinfo(5); drivers/net/tun.c (tun_chr_show_fdinfo); qemu(1), -name, -netdev, -nic, -device
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from mirrord.control.guests.follower import Follower, UnreachableError
from mirrord.control.guests.inventory import Guest, GuestNic

ADDRESS = "proc:"
"""The `connection` that stands for this host's processes."""

QEMU = re.compile(r"(qemu-system-\S+|qemu-kvm|kvm)")
DESCRIPTOR = re.compile(r"[0-9]{1,9}")
AGAIN_SECONDS = 0.1, 0.2, 0.3, 0.4, 1.0, 3.0, 5.0
"""How long after news of a tap, and of each other, it is looked again."""

DROP_IN = "the drop-in processes.conf gives the right"
PROCESSES = Path("/proc")
WITHOUT_TAP = {
    "user": "its frames end in QEMU itself (user networking)",
    "vhost-user": "its frames go to another process by shared memory (vhost-user), past the kernel",
    "vhost-vdpa": "it is a device of the host handed to the VM, which the host does not see the frames of",
    "socket": "its frames go through a socket of QEMU's",
    "stream": "its frames go through a socket of QEMU's",
    "dgram": "its frames go through a socket of QEMU's",
    "hubport": "it is a port of a hub within QEMU",
}


class Processes(Follower):
    """The VMs whose QEMUs run on this host, in the network namespace of this process."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._later = asyncio.Event()
        super().__init__("the processes of this host", changed)

    async def look(self) -> tuple[Guest, ...]:
        return await asyncio.to_thread(machines)

    def nudge(self) -> None:
        super().nudge()
        self._later.set()

    async def events(self) -> AsyncGenerator[None, None]:
        yield
        looked = len(AGAIN_SECONDS)  # how often since the last news
        while True:
            try:
                async with asyncio.timeout(AGAIN_SECONDS[looked] if looked < len(AGAIN_SECONDS) else None):
                    await self._later.wait()
                self._later.clear()
                looked = 0
            except TimeoutError:
                looked += 1
                yield


def machines(processes: Path = PROCESSES) -> tuple[Guest, ...]:
    """The VMs, by name. UnreachableError where other users' processes are hidden."""
    if not (processes / "1").exists():
        raise UnreachableError(f"those of other users are hidden (ProtectProc of the unit); {DROP_IN}")
    found = []
    for process in processes.iterdir():
        if process.name.isdecimal():
            try:
                words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
                if words and QEMU.fullmatch(words[0].rpartition("/")[2]):
                    found.append(_machine(process, words))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
    return tuple(sorted(found, key=lambda one: (one.name, one.id)))


def _machine(process: Path, words: list[str]) -> Guest:
    name, uuid, nics = told(words)
    try:
        taps, reason = _taps(process), "no tap that its process holds open is behind it"
        if (process / "ns" / "net").readlink() != (PROCESSES / "self" / "ns" / "net").readlink():
            taps, reason = {}, f"its process ({process.name}) is in another network namespace"
    except PermissionError:
        taps, reason = {}, f"which tap is behind it takes CAP_SYS_PTRACE to see; {DROP_IN}"
    devices = _devices(nics, taps)
    found = []
    for nic in nics:
        device = devices.get(nic.id, "")
        found.append(GuestNic("", nic.mac, device, "" if device else WITHOUT_TAP.get(nic.kind, reason)))
    return Guest(name or f"process {process.name}", uuid or process.name, runs=True, nics=tuple(found))


def _taps(process: Path) -> dict[int, str]:
    """The taps that a process holds open, by descriptor."""
    found = {}
    for descriptor in (process / "fdinfo").iterdir():
        try:
            for line in descriptor.read_text().splitlines():
                if line.startswith("iff:"):
                    found[int(descriptor.name)] = line.removeprefix("iff:").strip()
        except FileNotFoundError:
            continue  # it has been closed
    return found


def _devices(nics: list[Nic], taps: Mapping[int, str]) -> dict[str, str]:
    """The tap behind each NIC, by the NIC's id: by its descriptor, its name, else what is left over in order."""
    found = {nic.id: taps[nic.descriptor] for nic in nics if nic.descriptor in taps}
    found |= {nic.id: nic.tap for nic in nics if nic.tap in taps.values()}
    left = [tap for tap in dict.fromkeys(taps[number] for number in sorted(taps)) if tap not in found.values()]
    without = [nic.id for nic in nics if nic.kind in ("tap", "bridge") and nic.id not in found and not nic.tap]
    return found | dict(zip(without, left, strict=False))


# --- the command line ---


class Nic(NamedTuple):
    """A NIC as the command line tells of it. `descriptor` and `tap`: the tap's, as far as they are said; -1, ""."""

    id: str
    kind: str  # of the backend: tap, bridge, user, ...
    mac: str = ""
    descriptor: int = -1
    tap: str = ""


def told(words: list[str]) -> tuple[str, str, list[Nic]]:
    """The VM's name, its UUID, and its NICs in the order of the devices; "" for what is not said."""
    name = uuid = ""
    options = [(option, value, _keys(option, value)) for option, value in _options(words)]
    backends = {keys.get("id", ""): keys for option, _, keys in options if option == "netdev"}
    nics: list[Nic] = []
    for option, value, keys in options:
        if option == "name":
            name = keys.get("guest", "")
        elif option == "uuid":
            uuid = value
        elif option == "nic":
            nics.append(_nic(f"-nic {len(nics)}", keys, keys))
        elif option == "device" and keys.get("netdev") in backends:
            nics.append(_nic(keys["netdev"], keys, backends[keys["netdev"]]))
    return name, uuid, nics


def _options(words: list[str]) -> Iterator[tuple[str, str]]:
    """Options and their values: QEMU takes one dash and two."""
    for option, value in pairwise(words):
        if option.startswith("-"):
            yield option.lstrip("-"), value


FIRST = {"name": "guest", "netdev": "type", "nic": "type", "device": "driver"}
"""The key of what stands first without one."""


def _keys(option: str, value: str) -> dict[str, str]:
    """Of `word,key=value,...`, where a comma that belongs to a value is doubled, or of JSON."""
    if value.startswith("{"):
        try:
            return {key: str(one) for key, one in json.loads(value).items()}
        except (ValueError, RecursionError):  # any user may write anything there
            return {}
    found: dict[str, str] = {}
    for place, part in enumerate(value.replace(",,", "\0").split(",")):
        key, equals, one = part.replace("\0", ",").partition("=")
        if equals:
            found[key] = one
        elif not place:
            found[FIRST.get(option, "")] = key
    return found


def _nic(name: str, device: Mapping[str, str], backend: Mapping[str, str]) -> Nic:
    number = backend.get("fd") or backend.get("fds", "").partition(":")[0]
    return Nic(
        id=name,
        kind=backend.get("type", ""),
        mac=device.get("mac", "").lower(),
        descriptor=int(number) if DESCRIPTOR.fullmatch(number) else -1,
        tap=backend.get("ifname", ""),
    )
