"""An interpreter that has loaded the daemon and the agent, and becomes one of them in a fork: a start takes 0.6 s of a
processor by itself, and nearly all of it is the loading.

What a test starts this way is the daemon all the same: a process of its own, a child of the test's, in its network
namespace. Only its first half second is missing; where that is what counts, the test starts it by a command.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any

MODULES = {"mirrord.control.daemon": "main", "mirrord.cluster.main": "main"}
"""The programs, and the function of each that `python -m` would call."""

LOADED_LATER = ("mirrord.control.http.server",)
"""What they load only when they run."""

ROOT = Path(__file__).parents[2]

_CLONE_NEWNS, _CLONE_NEWNET = 0x20000, 0x40000000  # linux/sched.h
_MS_REC, _MS_SLAVE = 0x4000, 0x80000  # linux/mount.h
_MNT_DETACH = 2
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)


class Child:
    """A process of ours that subprocess did not start, with what a Popen has."""

    stdin = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        with self._lock:
            if self._status is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self._status = os.waitstatus_to_exitcode(status) if pid else None
            return self._status

    def wait(self, timeout: float | None = None) -> int:
        if self.poll() is None:
            ended = os.pidfd_open(self.pid)
            try:
                poll = select.poll()
                poll.register(ended, select.POLLIN)
                poll.poll(None if timeout is None else timeout * 1000)
            finally:
                os.close(ended)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Prepared:
    """The interpreter; it runs from the first start on, until `close`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self, namespace: str, command: Sequence[str], environment: Mapping[str, str], directory: Path, output: IO[Any]
    ) -> Child:
        """`python -m COMMAND`, one of the programs, in a network namespace, as `ip netns exec` would start it."""
        request = {
            "namespace": namespace,
            "command": [*command],
            "environment": {**os.environ, **environment},
            "directory": str(directory),
        }
        with self._lock, _adopting():
            if self._process is None:
                self._process = self._load()
            socket.send_fds(self._socket, [json.dumps(request).encode()], [output.fileno()])
            answer = self._socket.recv(64)
            assert answer, f"the prepared interpreter ended with {self._process.wait()}"
            return Child(int(answer))

    def _load(self) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        with self._theirs as theirs:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.support.prepared", str(theirs.fileno())],
                cwd=ROOT, env={**environment, "PYTHONUNBUFFERED": "1"}, pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def close(self) -> None:
        self._socket.close()
        self._theirs.close()
        if self._process:
            self._process.wait()


_running: Prepared | None = None


def interpreter() -> Prepared | None:
    """The one that a test run has."""
    return _running


@contextmanager
def prepared() -> Iterator[None]:
    """Meanwhile there is one."""
    global _running  # noqa: PLW0603 (hosts are made everywhere, and the process has one interpreter for all)
    _running = Prepared()
    try:
        yield
    finally:
        _running.close()
        _running = None


@contextmanager
def _adopting() -> Iterator[None]:
    """Meanwhile orphans among our descendants become our children (PR_SET_CHILD_SUBREAPER)."""
    _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
    try:
        yield
    finally:
        _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0))


def _checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def serve(requests: socket.socket) -> None:
    """Start what is asked for, until nobody can ask any more. It returns in each process that was started, as that."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 1 << 20, 1)
        if not message:
            sys.exit()
        request = json.loads(message)
        if "COVERAGE_PROCESS_CONFIG" in request["environment"]:
            import_module("coverage")
        reader, writer = os.pipe()
        if not (between := os.fork()):
            if pid := os.fork():  # the process that asked is the parent of what was started, once this one has ended
                os.write(writer, str(pid).encode())
                os._exit(0)
            become(request, descriptors[0])
            return
        os.waitpid(between, 0)
        requests.send(os.read(reader, 64))
        for descriptor in (reader, writer, *descriptors):
            os.close(descriptor)


def become(request: dict[str, Any], output: int) -> None:
    """Make this process what a new one would be."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    enter(request["namespace"])
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    sys.argv = request["command"]
    if "COVERAGE_PROCESS_CONFIG" in os.environ:
        import_module("coverage").process_startup()


def enter(namespace: str) -> None:
    """A network namespace, and a /sys that shows it (ip-netns(8))."""
    with Path("/run/netns", namespace).open("rb") as file:
        _checked(_libc.setns(file.fileno(), _CLONE_NEWNET))
    _checked(_libc.unshare(_CLONE_NEWNS))
    _checked(_libc.mount(b"", b"/", b"none", _MS_SLAVE | _MS_REC, None))
    _libc.umount2(b"/sys", _MNT_DETACH)
    _checked(_libc.mount(namespace.encode(), b"/sys", b"sysfs", 0, None))


def main() -> None:
    programs = {module: getattr(import_module(module), function) for module, function in MODULES.items()}
    for module in LOADED_LATER:
        import_module(module)
    serve(socket.socket(fileno=int(sys.argv[1])))
    programs[sys.argv[0]]()


if __name__ == "__main__":
    main()
