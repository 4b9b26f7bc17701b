"""A command on a terminal of its own: what it prints there, and keys pressed."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.wait import wait_for

ROOT = Path(__file__).parents[2]
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """`with Terminal(command, columns=80) as terminal`: the command's end is waited for by `wait`."""

    def __init__(self, command: Sequence[str], *, columns: int = 160, lines: int = 40, **environment: str) -> None:
        self._screen, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))  # tty_ioctl(4)
        inherited = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            ["env", "--default-signal=INT", "setsid", "--ctty", *command],
            stdin=end, stdout=end, stderr=end, cwd=ROOT,
            env={**inherited, "TERM": "xterm", "LC_ALL": "C.UTF-8", **environment},
        )  # fmt: skip
        os.close(end)
        self._bytes = b""

    @property
    def text(self) -> str:
        """All that was printed so far, as it was."""
        while select.select([self._screen], [], [], 0)[0]:
            try:
                read = os.read(self._screen, 65536)
            except OSError:  # the other end is closed
                break
            if not read:
                break
            self._bytes += read
        return self._bytes.decode(errors="replace").replace("\r\n", "\n")

    @property
    def plain(self) -> str:
        """The same without colours."""
        return ESCAPE.sub("", self.text)

    def shows(self, text: str) -> bool:
        """Whether it has printed this by now."""
        return text in self.text

    def press(self, keys: bytes) -> None:
        os.write(self._screen, keys)

    def ended(self) -> int | None:
        """Its exit status; it can only end while what it prints is read."""
        assert isinstance(self.text, str)
        return self.process.poll()

    def wait(self) -> str:
        """What it has printed when it has ended, without colours."""
        wait_for(lambda: self.ended() is not None, "the end", 60)
        return self.plain

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._screen)
