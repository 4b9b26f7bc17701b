"""A Debian that systemd boots as PID 1, in the network namespace of a host; its changes go with it.

systemd-nspawn(1). The tree is what debootstrap made, with systemd in it; it is not written to.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.process import Process
from tests.support.topology import Host
from tests.support.wait import wait_for

SYSTEMD_RUNS = Path("/run/systemd/system")  # sd_booted(3)
NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")


class Container:
    """Made: it has booted. `with Container(tree, host, dist) as container: container.run("systemctl", "status")`.

    `shared` is a directory that is in it, too, to be read.
    """

    def __init__(self, tree: Path, host: Host, shared: Path) -> None:
        where = [] if SYSTEMD_RUNS.exists() else ["--keep-unit"]  # nobody there to ask for a unit of its own
        self._process = Process([
            "systemd-nspawn", "--boot", "--register=no", *where, f"--directory={tree}", "--volatile=overlay",
            f"--network-namespace-path=/run/netns/{host.name}", "--capability=CAP_NET_ADMIN",
            f"--machine={host.name[-60:]}", f"--bind-ro={shared}", "--console=pipe", "--link-journal=no",
        ])  # fmt: skip
        try:
            self._leader = wait_for(self._init, "systemd in the container", 20)
            wait_for(lambda: self.run("systemctl", "is-system-running", check=False).strip() == "running", "boot", 60)
        except BaseException as error:
            self._process.close()
            error.add_note(self._process.output())
            raise

    def _init(self) -> int:
        """The process that is PID 1 in there, once it is systemd."""
        assert self._process.status() is None, self._process.output()
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return next((int(one) for one in children if Path(f"/proc/{one}/comm").read_text() == "systemd\n"), 0)

    def run(self, *command: str, check: bool = True, seconds: float = 60.0) -> str:
        """What a command in there prints; RuntimeError when it fails, unless `check` is off."""
        enter: Sequence[str] = ["nsenter", f"--target={self._leader}", *NAMESPACES, "--root", "--wd=/"]
        done = subprocess.run(
            [*enter, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=seconds, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}")
        return done.stdout

    def write(self, path: str, text: str) -> None:
        """A file in there."""
        self.run("mkdir", "-p", str(Path(path).parent))
        subprocess.run(
            ["nsenter", f"--target={self._leader}", *NAMESPACES, "--root", "--wd=/", "tee", path],
            input=text, stdout=subprocess.DEVNULL, text=True, timeout=60, check=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run("systemctl", "poweroff", "--no-wall", check=False)
        try:
            self._process.wait(30)
        finally:
            self._process.close()
