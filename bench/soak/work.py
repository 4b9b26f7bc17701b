"""What the soak does to a daemon: mixed traffic, mirrors and sessions that come and go, devices, live captures,
reloads.
"""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.soak.traffic import Traffic
from tests.support.api import Api
from tests.support.daemon import Daemon
from tests.support.topology import Host
from tests.support.uplink import REMOTE

DEVICES = ("tap1", "tap2", "tap3")


class Work:
    """Threads that go on until `stop`. `done` counts what they did, `wrong` has what went otherwise than it should."""

    def __init__(self, host: Host, mirrord: Daemon, traffic: Traffic, directory: Path) -> None:
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.resting = threading.Event()
        self._host, self._mirrord, self._traffic, self._directory = host, mirrord, traffic, directory
        self._over, self._chance = threading.Event(), random.Random(21)
        kinds: list[tuple[Callable[[], None], float]] = [
            (self._mirrors, 0.3), (self._devices, 2.0), (self._captures, 3.0), (self._reloads, 7.0), (self._send, 0.0),
        ]  # fmt: skip
        self._threads = [threading.Thread(target=self._go_on, args=kind, daemon=True) for kind in kinds]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _go_on(self, work: Callable[[], None], pause: float) -> None:
        while not self._over.is_set():
            if self.resting.is_set():
                time.sleep(0.1)
                continue
            try:
                work()
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                self.wrong.append(f"{work.__name__}: {type(error).__name__} {error}")
            time.sleep(pause * self._chance.uniform(0.5, 1.5))

    def _send(self) -> None:
        self._traffic.send_some()

    def _mirrors(self) -> None:
        api, name = Api(self._mirrord.socket), f"m{self._chance.randrange(6)}"
        if self._chance.random() < 0.4:
            status = api("DELETE", f"mirrors/{name}").status
            self._note("mirrors deleted", status, (204, 404))
        else:
            sessions = [self._session(n) for n in range(self._chance.randrange(1, 4))]
            status = api("PUT", f"mirrors/{name}", {"sessions": sessions}).status
            self._note("mirrors made or changed", status, (200, 201, 409, 422))
            self.done["sessions made or changed"] += len(sessions) if status < 300 else 0

    def _note(self, what: str, status: int, expected: tuple[int, ...]) -> None:
        self.done[what if status < 300 else f"{what}: refused"] += 1
        if status not in expected:
            self.wrong.append(f"{what}: status {status}")

    def _session(self, number: int) -> dict[str, Any]:
        chance = self._chance
        vni = chance.randrange(1 << 23)
        destination: dict[str, Any] = chance.choice(
            [
                {"type": "vxlan", "remote": REMOTE, "vni": vni},
                {"type": "geneve", "remote": REMOTE, "vni": vni},
                {"type": "gre", "remote": REMOTE, "key": vni},
                {"type": "erspan", "remote": REMOTE, "erspan_type": "II", "session_id": vni % 1024},
                {"type": "file", "path": f"{self._directory}/{vni}.pcapng", "rotate_size": "1MiB", "keep": 2},
            ]
        )
        more: dict[str, Any] = chance.choice(
            [
                {}, {"snaplen": 64}, {"sampling_rate": 4}, {"payload": "tls"}, {"recorder": "1MiB"}, {"workers": 2},
                {"flow_limit": {"packets": 5}}, {"rate_limit": "1Mbit"}, {"filter": "some", "count_rules": True},
            ]
        )  # fmt: skip
        source = chance.choice(["tap0", *DEVICES, {"type": "device", "device": "tap*"}])
        return {"name": f"s{number}", "source": source, "destination": destination, "ring_size": "1MiB"} | more

    def _devices(self) -> None:
        device, chance = self._chance.choice(DEVICES), self._chance.random()
        there = device in self._host.run("ls", "/sys/class/net").split()
        if not there:
            self._host.ip(f"link add {device} type veth peer name {device}p")
            self._host.ip(f"link set {device} up")
            self._host.ip(f"link set {device}p up")
        elif chance < 0.5:
            self._host.ip(f"link delete {device}")
        else:
            self._host.ip(f"link set {device} {'down' if chance < 0.75 else 'up'}")
        self.done["devices made, deleted, set up or down"] += 1

    def _captures(self) -> None:
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(10)
            one.connect(str(self._mirrord.socket))
            one.sendall(b"GET /v1/mirrors/core/sessions/a/capture?source=tap0 HTTP/1.1\r\nHost: d\r\n\r\n")
            status = one.recv(4096)
            end = time.monotonic() + 1
            while time.monotonic() < end and one.recv(65536):
                pass
        self._note("live captures", int(status.split()[1]), (200,))

    def _reloads(self) -> None:
        if self._chance.random() < 0.2:  # one that is refused
            text = self._mirrord.file.read_text()
            self._mirrord.file.write_text(text + "\nwrong = [")
            status = Api(self._mirrord.socket)("POST", "reload").status
            self._mirrord.file.write_text(text)
            self._note("reloads", status, (409, 422))
        self._note("reloads", Api(self._mirrord.socket)("POST", "reload").status, (200,))
