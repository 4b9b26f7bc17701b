"""sd_notify(3): what arrives at the manager's socket."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from mirrord.control.notify import notify, reloading, watchdog_seconds


@pytest.mark.parametrize("abstract", [False, True])
def test_lines_arrive_as_one_datagram(abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"mirrord-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if abstract else name)
        notify("READY=1", "STATUS=two sessions")
        assert manager.recv(100) == b"READY=1\nSTATUS=two sessions"


def test_a_reload_carries_the_monotonic_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        before = time.clock_gettime(time.CLOCK_MONOTONIC)
        reloading()
        announced, stamp = manager.recv(100).decode().split("\n")
    assert announced == "RELOADING=1"
    assert before <= int(stamp.removeprefix("MONOTONIC_USEC=")) / 1e6 + 1e-6 <= time.clock_gettime(time.CLOCK_MONOTONIC)


def test_without_a_manager_or_with_a_dead_one_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("READY=1")


def test_the_watchdog_is_for_the_process_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert watchdog_seconds() == 30.0
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_seconds() == 0.0
    monkeypatch.delenv("WATCHDOG_USEC")
    monkeypatch.delenv("WATCHDOG_PID")
    assert watchdog_seconds() == 0.0


def test_a_manager_that_does_not_listen_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its queue fills after net.unix.max_dgram_qlen messages."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        room = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
        for _ in range(room + 3):
            notify("WATCHDOG=1")
        manager.setblocking(False)
        assert manager.recv(100) == b"WATCHDOG=1"
