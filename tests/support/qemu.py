"""A Debian 12 of its own in QEMU, under software emulation: its kernel, systemd, and NICs that a driver drives.

Whoever is outside is a host of a topology: each NIC's wire is a tap there. Commands are run by QEMU's guest agent, what
happens to hardware by QEMU's monitor (QMP). Its changes go with it.
"""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.topology import Host
from tests.support.wait import wait_for

BOOT_SECONDS = 300.0
"""A bound for a machine that is busy otherwise; by itself it takes less than a minute."""


class _Lines:
    """JSON texts, one a line, on a unix socket that QEMU listens on."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rb")

    def say(self, value: Mapping[str, Any]) -> None:
        self._socket.sendall(json.dumps(value).encode() + b"\n")

    def hear(self) -> Any:
        return json.loads(self._file.readline().lstrip(b"\xff"))

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class Machine:
    """Made: systemd has booted. `nics` are drivers of QEMU's: nic 0 is eth0, its wire is the tap `wire0` outside.

    `system` has a kernel, an initramfs and the image of a disk; `shared` is a directory that it can mount, by 9p.
    """

    def __init__(self, system: Path, outside: Host, nics: Sequence[str], shared: Path, directory: Path) -> None:
        self._directory = directory
        self._console = directory / "console"
        wires = [
            word
            for number, driver in enumerate(nics)
            for word in (
                "-netdev", f"tap,id=net{number},ifname=wire{number},script=no,downscript=no,vnet_hdr={_header(driver)}",
                "-device", f"{driver},netdev=net{number},id=nic{number},mac={mac(number)},romfile=",
            )
        ]  # fmt: skip
        self._qemu = outside.spawn(
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max", "-smp", "2",
            "-m", "1024", "-nodefaults", "-no-reboot", "-display", "none", "-serial", f"file:{self._console}",
            "-kernel", str(system / "vmlinuz"), "-initrd", str(system / "initrd"),
            "-append", "root=/dev/vda rw console=ttyS0 quiet net.ifnames=0 mitigations=off random.trust_cpu=on",
            "-drive", f"file={system / 'disk'},format=raw,if=virtio,snapshot=on",
            "-virtfs", f"local,path={shared},mount_tag=shared,security_model=none,readonly=on",
            "-device", "virtio-serial", "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
            "-chardev", f"socket,id=agent,path={directory / 'agent'},server=on,wait=off",
            "-qmp", f"unix:{directory / 'qmp'},server=on,wait=off", *wires,
        )  # fmt: skip
        self._links: list[_Lines] = []
        try:
            wait_for((directory / "qmp").exists, f"QEMU runs: {self._qemu.output()}", 30)
            self._monitor = self._connect("qmp")
            self._monitor.hear()  # its greeting
            self.monitor("qmp_capabilities")
            self._agent = self._connect("agent")
            self._wait_booted()
        except BaseException as error:
            self._qemu.close()
            console = self._console.read_text(errors="replace")[-3000:] if self._console.exists() else ""
            error.add_note(f"{self._qemu.output()}\n{console}")
            raise

    def _connect(self, name: str) -> _Lines:
        self._links.append(_Lines(self._directory / name))
        return self._links[-1]

    def _wait_booted(self) -> None:
        self._agent.say({"execute": "guest-sync-delimited", "arguments": {"id": 1}})  # answered once it runs
        self._agent._socket.settimeout(BOOT_SECONDS)
        assert self._agent.hear()["return"] == 1
        wait_for(lambda: self.run("systemctl", "is-system-running", check=False).strip() == "running", "boot", 120)

    def monitor(self, command: str, **arguments: Any) -> Any:
        """What QEMU answers to a command of its monitor."""
        self._monitor.say({"execute": command, "arguments": arguments})
        while "event" in (answer := self._monitor.hear()):
            pass
        assert "return" in answer, answer
        return answer["return"]

    def plug(self, number: int, *, up: bool) -> None:
        """Give a NIC its carrier, or take it."""
        self.monitor("set_link", name=f"nic{number}", up=up)

    def _ask(self, command: str, **arguments: Any) -> Any:
        self._agent.say({"execute": command, "arguments": arguments})
        answer = self._agent.hear()
        assert "return" in answer, answer
        return answer["return"]

    def run(self, *command: str, check: bool = True, seconds: float = 60.0) -> str:
        """What a command in there prints; RuntimeError when it fails, unless `check` is off."""
        asked = {"path": command[0], "arg": [*command[1:]], "capture-output": True}
        pid = self._ask("guest-exec", **asked)["pid"]
        last = time.monotonic() + seconds
        while not (done := self._ask("guest-exec-status", pid=pid))["exited"]:
            assert time.monotonic() < last, f"{' '.join(command)}: not within {seconds} s"
            time.sleep(0.05)
        said = "".join(base64.b64decode(done.get(key, "")).decode(errors="replace") for key in ("out-data", "err-data"))
        if check and done.get("exitcode") != 0:
            raise RuntimeError(f"{' '.join(command)}: exit status {done.get('exitcode')}\n{said}")
        return said

    def sh(self, script: str, *, check: bool = True, seconds: float = 60.0) -> str:
        """What a script of bash's prints; it ends at the first command that fails."""
        return self.run("/bin/bash", "-ec", script, check=check, seconds=seconds)

    def write(self, path: str, text: str) -> None:
        """A file in there."""
        encoded = base64.b64encode(text.encode()).decode()
        self.sh(f"mkdir -p $(dirname {path}); echo {encoded} | base64 -d >{path}")

    def close(self) -> None:
        for one in self._links:
            one.close()
        self._qemu.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def mac(number: int) -> str:
    return f"52:54:00:00:00:{number + 1:02x}"


def _header(driver: str) -> str:
    """Whether its wire carries super-frames and unfinished checksums: a virtio NIC does, others get what a wire has."""
    return "on" if driver.startswith("virtio") else "off"
