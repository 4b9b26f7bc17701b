"""etcd of Debian's etcd-server, in a host of a topology; it ends with the host, at the latest."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from mirrord.cluster.errors import StoreError
from mirrord.cluster.etcd import Access, Etcd
from tests.support.process import Process
from tests.support.topology import Host
from tests.support.wait import wait_for

T = TypeVar("T")

PORT = 2379


class Store:
    """One node. `arguments` go to etcd as they are; `access` is how to ask it, `peer` its name among several."""

    def __init__(
        self, host: Host, directory: Path, *arguments: str, address: str = "127.0.0.1", access: Access | None = None
    ) -> None:
        self.host, self.directory, self.address = host, directory, address
        self.access = access or Access((f"http://{address}:{PORT}",))
        self.url = self.access.endpoints[0]
        self._arguments = arguments
        directory.mkdir(exist_ok=True)
        self._process: Process | None = None

    def start(self, *, wait: bool = True) -> None:
        scheme = self.url.partition(":")[0]
        self._process = self.host.spawn(
            "env", "ETCD_UNSUPPORTED_ARCH=amd64", "etcd", "--data-dir", str(self.directory / "data"),
            "--listen-client-urls", f"{scheme}://{self.address}:{PORT}", "--advertise-client-urls", self.url,
            "--heartbeat-interval", "50", "--election-timeout", "500", "--logger", "zap",
            *(self._arguments or ("--listen-peer-urls", f"http://{self.address}:2380")),
        )  # fmt: skip
        if wait:
            wait_for(self.answers, "etcd answers", 30)

    def answers(self) -> bool:
        assert self._process is not None
        assert self._process.status() is None, self._process.output()[-2000:]
        return "is healthy" in self.ctl("endpoint", "health", check=False)

    def ctl(self, *arguments: str, check: bool = True) -> str:
        """What etcdctl prints."""
        words = []
        for option, value in (
            ("--cacert", self.access.ca),
            ("--cert", self.access.certificate),
            ("--key", self.access.key),
        ):
            words += [option, value] if value else []
        command = ("env", "ETCDCTL_API=3", "etcdctl", "--endpoints", self.url, *words, *arguments)
        return self.host.run(*command, check=check)

    def ask(self, what: Callable[[Etcd], Awaitable[T]], access: Access | None = None) -> T:
        """What a client in the host gets."""

        async def asked() -> T:
            etcd = Etcd(access or self.access)
            try:
                async with asyncio.timeout(30):
                    return await what(etcd)
            finally:
                await etcd.close()

        return self.host.call(lambda: asyncio.run(asked()))

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        assert self._process is not None
        self._process.stop(signal.SIGKILL)

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def fill(self) -> None:
        """Until it has no space: what is put there is of nobody."""

        async def filled(etcd: Etcd) -> None:
            while not await etcd.alarms():
                with suppress(StoreError):
                    await etcd.put("/fill", "x" * 100_000)

        self.ask(filled)

    def room(self) -> None:
        """Make room as its document has it: https://etcd.io/docs/v3.4/op-guide/maintenance/#space-quota."""
        revision = json.loads(self.ctl("get", "/fill", "-w", "json"))["header"]["revision"]
        for words in (("del", "/fill"), ("compact", str(revision)), ("defrag",), ("alarm", "disarm")):
            self.ctl(*words)

    def restore(self, snapshot: Path) -> None:
        """Have what a snapshot has; it is not running."""
        self.wipe()
        data = str(self.directory / "data")
        self.host.run("env", "ETCDCTL_API=3", "etcdctl", "snapshot", "restore", str(snapshot), "--data-dir", data)

    def wipe(self) -> None:
        """Forget everything; it is not running."""
        shutil.rmtree(self.directory / "data")
