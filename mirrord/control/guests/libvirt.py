"""VMs, as libvirt tells of them: which run, and the device behind each NIC.

By `virsh` (of Debian's libvirt-clients), on libvirt's read-only socket: the C library stays out of the process that has
the capabilities, one that hangs can be ended, and there is no binding to be had for every Python. A look takes two
processes of 25 ms each, at an event of any VM.

https://libvirt.org/manpages/virsh.html, https://libvirt.org/formatdomain.html#network-interfaces
"""

from __future__ import annotations

import asyncio
import shutil
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from mirrord.control.guests.follower import Follower, UnreachableError
from mirrord.control.guests.inventory import Guest, GuestNic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WITHOUT_DEVICE = {
    "hostdev": "it is a device of the host handed to the VM, which the host does not see the frames of",
    "vdpa": "it is a device of the host handed to the VM, which the host does not see the frames of",
    "vhostuser": "its frames go to another process by shared memory (vhost-user), past the kernel",
    "user": "its frames end in QEMU itself (user networking)",
}
"""Kinds of <interface> that have no device which a packet socket could read."""

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/nonexistent"}

LISTENS_SECONDS = 1.0
"""In this time `virsh event` has begun to listen; it takes 25 ms."""

MOVES = ("paused (migrating)", "paused (starting up)")
"""States, as of `virsh domstate --reason`, of a VM that arrives or leaves: it is on this host, and runs on another one,
or on none for a moment. One that is about to arrive is starting up first, as any other."""

SHORTER_LIVED = ("setpriv", "--pdeathsig", "KILL", "--ambient-caps=-all", "--inh-caps=-all")
"""virsh ends with the daemon, whatever ends that, and has none of its capabilities. util-linux, setpriv(1)."""


class Libvirt(Follower):
    """The VMs of one connection."""

    def __init__(self, uri: str, changed: Callable[[], None]) -> None:
        self._uri = uri
        super().__init__(f"libvirt at {uri}", changed)

    async def look(self) -> tuple[Guest, ...]:
        found = (await self._ask("list --all --uuid")).split()
        told = "\n".join(f"dumpxml {uuid}\ndomstate --reason {uuid}" for uuid in found)
        known = domains(await self._ask(told)) if found else ()
        return tuple(sorted((guest(*one) for one in known), key=lambda one: one.name))

    async def events(self) -> AsyncGenerator[None, None]:
        async with self._virsh("event", "--all", "--loop", "--timestamp", stdin=DEVNULL) as virsh:
            assert virsh.stdout is not None  # a pipe
            yield
            with suppress(TimeoutError):  # it does not say when it listens; what happened before is looked at after
                async with asyncio.timeout(LISTENS_SECONDS):
                    await virsh.stdout.readline()
            yield
            while await virsh.stdout.readline():
                yield
            raise UnreachableError(await _complaint(virsh))

    async def _ask(self, commands: str) -> str:
        """What virsh prints for these commands, one a line; a VM that is gone meanwhile is left out."""
        async with self._virsh(stdin=PIPE) as virsh:
            assert virsh.stdin is not None  # a pipe
            with suppress(RuntimeError, ConnectionError):  # it has ended already, and its complaint says why
                virsh.stdin.write(f"{commands}\n".encode())
                virsh.stdin.close()
            output, complaint = await virsh.communicate()
        text = output.decode(errors="replace")
        if "failed to connect" in complaint.decode(errors="replace"):
            raise UnreachableError(_reason(complaint))
        return "\n".join(line for line in text.splitlines() if not line.startswith("virsh "))

    @asynccontextmanager
    async def _virsh(self, *arguments: str, stdin: int) -> AsyncIterator[Process]:
        if shutil.which("virsh", path=ENVIRONMENT["PATH"]) is None:
            raise UnreachableError("virsh is not installed (on Debian: apt-get install libvirt-clients)")
        command = [*SHORTER_LIVED, "virsh", "--quiet", "--readonly", "--connect", self._uri, *arguments]
        virsh = await asyncio.create_subprocess_exec(
            *command, stdin=stdin, stdout=PIPE, stderr=PIPE, env=ENVIRONMENT, cwd="/"
        )
        try:
            yield virsh
        finally:
            with suppress(ProcessLookupError):
                virsh.kill()
            await virsh.wait()


async def _complaint(virsh: Process) -> str:
    assert virsh.stderr is not None  # a pipe
    return _reason(await virsh.stderr.read())


def _reason(complaint: bytes) -> str:
    """The last thing that virsh complains of: the others are what follows from it, in other words."""
    lines = complaint.decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else "the connection ended"


def domains(text: str) -> Iterator[tuple[str, str]]:
    """The documents in the output of several `dumpxml`, each with the state that follows it, "" where none does (the VM
    is gone since). What is inside of a document is indented.
    """
    document: list[str] = []
    state = ""
    inside = False
    for line in text.splitlines():
        if line.startswith(("<domain ", "<domain>")):
            if document:
                yield "\n".join(document), state
            document, state, inside = [], "", True
        if inside:
            document.append(line)
            inside = line != "</domain>"
        else:
            state = state or line.strip()
    if document and not inside:
        yield "\n".join(document), state


def guest(document: str, state: str = "") -> Guest:
    """A VM from its definition and its state. ValueError for a definition that is none."""
    try:
        domain = ET.fromstring(document)  # noqa: S314 (libvirt's own answer; expat bounds what entities may grow to)
    except ET.ParseError as error:
        raise ValueError(f"not a definition of a VM: {error}") from error
    return Guest(
        name=domain.findtext("name", ""),
        id=domain.findtext("uuid", ""),
        runs="id" in domain.attrib,
        nics=tuple(_nic(interface) for interface in domain.iterfind("devices/interface")),
        moves=state in MOVES,
    )


def _nic(interface: ET.Element) -> GuestNic:
    mac, target = interface.find("mac"), interface.find("target")
    kind = interface.get("type", "")
    device = "" if target is None or kind in WITHOUT_DEVICE else target.get("dev", "")
    return GuestNic("", "" if mac is None else mac.get("address", "").lower(), device, WITHOUT_DEVICE.get(kind, ""))
