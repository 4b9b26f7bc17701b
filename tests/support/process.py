"""A command that runs beside the test; what it prints goes to a file, so that nothing has to read along."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol


class Child(Protocol):
    """What is needed of a Popen."""

    pid: int

    @property
    def stdin(self) -> IO[str] | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


class Process:
    """A command that was started, or what `start` made of the file that its output goes to."""

    def __init__(
        self,
        command: Sequence[str] = (),
        *,
        directory: Path | None = None,
        start: Callable[[IO[Any]], Child] | None = None,
    ) -> None:
        self._output = tempfile.NamedTemporaryFile()  # noqa: SIM115 (closed by close)
        self._popen: Child = (
            start(self._output)
            if start
            else subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=self._output, stderr=subprocess.STDOUT, cwd=directory, text=True
            )
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def output(self) -> str:
        """What it has printed so far, errors included."""
        return Path(self._output.name).read_text(errors="replace")

    def write(self, text: str) -> None:
        """Text to its standard input."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(text)
        self._popen.stdin.flush()

    def end_input(self) -> None:
        """Tell it that nothing more comes."""
        assert self._popen.stdin is not None
        self._popen.stdin.close()

    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._popen.poll()

    def send_signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Its exit status; TimeoutExpired when it takes longer."""
        return self._popen.wait(seconds)

    def stop(self, number: int = signal.SIGTERM, seconds: float = 10.0) -> int:
        """Send it a signal; its exit status."""
        self.send_signal(number)
        return self.wait(seconds)

    def close(self) -> None:
        """Kill it if it still runs."""
        self._popen.kill()
        self._popen.wait()
        if self._popen.stdin:
            self._popen.stdin.close()
        self._output.close()
