"""A throw-away root: the files of the host or of another system, to be changed at will; the changes go with it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Self

from tests.support.process import Process
from tests.support.wait import wait_for

_MAKE = """
system=$1
shift
mount -t tmpfs -o mode=755 tmpfs "$0"
mkdir "$0/upper" "$0/work" "$0/root"
mount -t overlay overlay -o "lowerdir=$system,upperdir=$0/upper,workdir=$0/work" "$0/root"
for each in proc sys dev run/netns; do
    if [ -e "/$each" ]; then
        mkdir -p "$0/root/$each"
        mount --rbind "/$each" "$0/root/$each"
    fi
done
for each; do
    mkdir -p "$0/root$each"
    mount --bind "$each" "$0/root$each"
done
exec chroot "$0/root" sh -c 'echo made; exec sleep infinity'
"""


class Root:
    """`with Root() as root`: commands by `root.run(...)`, files by `root / "etc/passwd"`.

    It shares the host's processes, devices and network. `shared` directories are the host's own, not copies. `system`
    is the directory with the files to begin with.
    """

    def __init__(self, *shared: Path, system: Path = Path("/")) -> None:
        self._shared = shared
        self._system = system
        self._stack = ExitStack()
        self._pid = 0

    def __enter__(self) -> Self:
        place = mkdtemp(prefix="mirrord-root-")
        self._stack.callback(Path(place).rmdir)
        isolated = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", _MAKE, place]
        process = Process([*isolated, str(self._system), *map(str, self._shared)])
        self._stack.callback(process.close)
        wait_for(lambda: process.status() is not None or "made" in process.output(), "a root")
        assert process.status() is None, process.output()
        self._pid = process.pid
        assert not (self / "").samefile("/"), "the commands would run on the host itself"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def __truediv__(self, path: str) -> Path:
        return Path(f"/proc/{self._pid}/root", path.lstrip("/"))

    @property
    def enter(self) -> Sequence[str]:
        """The words before a command that is to run here."""
        return ("nsenter", f"--target={self._pid}", "--mount", "--root", "--wd", "--")

    def run(self, *command: str, seconds: float = 300.0) -> str:
        """What the command prints, errors included; AssertionError shows it when the command fails."""
        done = subprocess.run(
            [*self.enter, *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=seconds, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}"
        return done.stdout
