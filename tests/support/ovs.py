"""Open vSwitch on its userspace datapath: an independent peer for every tunnel, a switch with mirrors of its own."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.support.process import Process
from tests.support.topology import Host
from tests.support.wait import wait_for

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


class OpenVSwitch:
    """ovsdb-server and ovs-vswitchd in a host; they end with it, at the latest.

    The daemons run in the foreground, and all of their files are in `directory`.
    """

    def __init__(self, host: Host, directory: Path) -> None:
        self.host, self._directory = host, directory
        self._processes: list[Process] = []
        database = directory / "conf.db"
        host.run("ovsdb-tool", "create", str(database), SCHEMA)
        self._remote = f"unix:{directory / 'db.sock'}"
        self._spawn("ovsdb-server", str(database), f"--remote=p{self._remote}")
        wait_for((directory / "db.sock").is_socket, "ovsdb-server listens")
        host.run("ovs-vsctl", f"--db={self._remote}", "--no-wait", "init")
        self._spawn("ovs-vswitchd", self._remote)

    def vsctl(self, *arguments: str) -> str:
        """Run ovs-vsctl; it waits until ovs-vswitchd has done what was asked."""
        return self.host.run("ovs-vsctl", "--timeout=10", f"--db={self._remote}", *arguments).strip()

    def add_bridge(self, name: str, *ports: str, address: str = "") -> None:
        """A bridge of the userspace datapath with these of the host's devices; its own device is up."""
        self.vsctl("add-br", name, "--", "set", "bridge", name, "datapath_type=netdev")
        for port in ports:
            self.vsctl("add-port", name, port)
        if address:
            self.host.ip(f"address add {address} dev {name} nodad")
        self.host.ip(f"link set dev {name} up")

    def add_tunnel(self, bridge: str, name: str, kind: str, remote: str, **options: str | int) -> None:
        """A tunnel port: what `remote` sends comes out of the bridge."""
        words = [f'options:{key}="{value}"' for key, value in {"remote_ip": remote, **options}.items()]
        self.vsctl("add-port", bridge, name, "--", "set", "interface", name, f"type={kind}", *words)
        error = self.vsctl("get", "interface", name, "error")
        assert error == "[]", error

    def delete_port(self, bridge: str, name: str) -> None:
        self.vsctl("del-port", bridge, name)

    def appctl(self, *arguments: str) -> str:
        """Run ovs-appctl against ovs-vswitchd."""
        return self.host.run("ovs-appctl", "-t", f"{self._directory / 'ovs-vswitchd'}.ctl", *arguments)

    def close(self) -> None:
        """End both daemons, the one that uses the database first."""
        with ExitStack() as stack:
            for process in self._processes:
                stack.callback(process.close)
            for process in reversed(self._processes):
                process.stop()

    def _spawn(self, command: str, *arguments: str) -> None:
        name = self._directory / command
        process = self.host.spawn(
            "env", *(f"OVS_{kind}DIR={self._directory}" for kind in ("RUN", "LOG", "DB")),
            command, *arguments, f"--pidfile={name}.pid", f"--unixctl={name}.ctl",
        )  # fmt: skip
        self._processes.append(process)
