"""Real guests: VMs by libvirt and QEMU (software emulation), containers by Podman, in a host of a topology."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from uuid import uuid4

from tests.support.process import Process
from tests.support.topology import Host
from tests.support.wait import wait_for

ROOT = Path(__file__).parents[2]
MACHINE = ROOT / "build" / "guest"  # made by tests/guest

QEMU_CONF = """
stdio_handler = "file"
user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
remember_owner = 0
"""

SIZE = (96 << 20) + (64 << 10)
"""Of a VM's memory, in bytes: no multiple of 256 KiB, unlike libvirt's own. With one, QEMU before 9.0 does not copy all
that a VM under software emulation writes while it migrates (its commit 03bfc2188f06).
"""
MEMORY = f"-object memory-backend-ram,id=memory,size={SIZE} -machine memory-backend=memory -m size={SIZE >> 10}k"

DOMAIN = """
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name><memory unit='MiB'>96</memory><vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{machine}/vmlinuz</kernel><initrd>{machine}/initramfs</initrd>
    <cmdline>console=ttyS0 quiet address={address} {words}</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {nics}
    <serial type='file'><source path='{console}'/></serial>
  </devices>
  <qemu:commandline>
    {memory}
  </qemu:commandline>
</domain>
"""
NIC = "<interface type='bridge'><mac address='{mac}'/><source bridge='{bridge}'/><model type='virtio'/></interface>"


class Hypervisor:
    """libvirtd in a host, with files of its own; its VMs end with the host, at the latest.

    `uri` is its read-only socket's. Its directory's name is short, for what a socket's may have.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self._directory = Path(tempfile.mkdtemp(prefix="lv-"))
        for name in ("etc", "lib", "run", "sockets"):
            (self._directory / name).mkdir()
        (self._directory / "etc" / "qemu.conf").write_text(QEMU_CONF)
        sockets = self._directory / "sockets"
        (self._directory / "libvirtd.conf").write_text(
            f'unix_sock_dir = "{sockets}"\nauth_unix_ro = "none"\nauth_unix_rw = "none"\nhost_uuid = "{uuid4()}"\n'
        )
        self._write, self._socket = f"qemu+unix:///system?socket={sockets}/libvirt-sock", sockets / "libvirt-sock"
        self.uri = f"{self._write}-ro"
        if subprocess.run(["getent", "passwd", "libvirt-qemu"], check=False, capture_output=True).returncode:
            # of Debian's libvirt-daemon-system, which brings polkit and starts services; QEMU runs as root here
            host.run("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", "libvirt-qemu")
        self._daemon = self._start()

    @property
    def under(self) -> tuple[str, ...]:
        """Words before a command by which this is the libvirt that it finds at the usual place."""
        steps = f'mkdir -p /run/libvirt && mount --bind {self._directory}/sockets /run/libvirt && exec "$@"'
        return "unshare", "--mount", "sh", "-c", steps, "sh"

    def _start(self) -> Process:
        mounts = {"etc": "/etc/libvirt", "lib": "/var/lib/libvirt", "run": "/run/libvirt"}
        steps = [f"mkdir -p {there} && mount --bind {self._directory / here} {there}" for here, there in mounts.items()]
        steps.append(f"hostname {self.host.name}")  # who migrates wants to go to another host
        steps.append(f"exec libvirtd -f {self._directory}/libvirtd.conf -p {self._directory}/pid")
        daemon = self.host.spawn("unshare", "--mount", "--uts", "sh", "-c", " && ".join(steps))
        wait_for(lambda: self._socket.is_socket() or daemon.status(), "libvirtd listens", 30)
        assert daemon.status() is None, daemon.output()
        wait_for(lambda: "Id" in self.host.run("virsh", "-c", self._write, "list", check=False), "libvirtd answers", 30)
        return daemon

    def virsh(self, *arguments: str) -> str:
        """Run virsh with the right to change things."""
        return self.host.run("virsh", "--quiet", "--connect", self._write, *arguments).strip()

    def define(self, name: str, address: str, *macs: str, bridge: str = "br0", words: str = "") -> None:
        """A VM with these NICs, the first of which has the address (with its prefix length). Its command line has the
        words, too: see tests/guest.
        """
        nics = "".join(NIC.format(mac=mac, bridge=bridge) for mac in macs)
        console = self._directory / f"{name}.console"
        file = self._directory / f"{name}.xml"
        memory = "".join(f"<qemu:arg value='{word}'/>" for word in MEMORY.split())
        about = {"name": name, "machine": MACHINE, "address": address, "words": words, "console": console}
        file.write_text(DOMAIN.format(nics=nics, memory=memory, **about))
        self.virsh("define", str(file))

    def start(self, name: str) -> None:
        """Start it, and wait until it has booted."""
        console = self._directory / f"{name}.console"
        console.unlink(missing_ok=True)
        self.virsh("start", name)
        wait_for(lambda: console.exists() and b"READY" in console.read_bytes(), f"{name} has booted", 90)

    def plug(self, name: str, mac: str, bridge: str = "br0") -> None:
        """Give a running VM another NIC."""
        file = self._directory / "nic.xml"
        file.write_text(NIC.format(mac=mac, bridge=bridge))
        self.virsh("attach-device", name, str(file), "--live")

    def migrate(self, name: str, to: Hypervisor, rate: int = 0) -> None:
        """Have a running VM go on at another hypervisor; `rate` in MB/s, as fast as it goes without."""
        way = f"unix://{to._directory}/{name}.migration"
        limit = ("--bandwidth", str(rate)) if rate else ()
        self.virsh("migrate", "--live", "--unsafe", "--p2p", *limit, name, to._write, "--migrateuri", way)

    def device(self, name: str, mac: str) -> str:
        """The host's device behind a NIC, as libvirt lists it; "" for none."""
        rows = [line.split() for line in self.virsh("domiflist", name).splitlines()]
        return next((row[0] for row in rows if row[-1] == mac and row[0] != "-"), "")

    def stop_daemon(self) -> None:
        """End libvirtd; the VMs run on."""
        self._daemon.send_signal(15)
        self._daemon.wait(30)

    def start_daemon(self) -> None:
        self._daemon = self._start()

    def close(self) -> None:
        """End the VMs, libvirtd and their files."""
        for name in self.virsh("list", "--name").split():
            self.virsh("destroy", name)
        self.stop_daemon()
        shutil.rmtree(self._directory)


class Podman:
    """Podman in a host, with a store of its own, and its API on `socket`; its networks by netavark, or by CNI."""

    def __init__(self, host: Host, *, cni: bool = False) -> None:
        self.host = host
        self._directory = Path(tempfile.mkdtemp(prefix="pod-"))
        self.socket = self._directory / "podman.sock"
        root = self._directory / "rootfs"
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
            (root / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", root / "bin" / "busybox")
        self._root = root
        self._settings = self._directory / "containers.conf"
        words = ('network_backend = "cni"', 'cni_plugin_dirs = ["/usr/lib/cni"]') if cni else ()
        self._settings.write_text("\n".join(("[network]", *words)))
        self._service = self._spawn("system", "service", "--time", "0", f"unix://{self.socket}")
        wait_for(self.socket.is_socket, "Podman's API listens", 30)

    def _command(self, *arguments: str) -> list[str]:
        # not by `ip netns exec`, which mounts a /sys without the cgroups that runc looks for
        base = ["podman", "--root", f"{self._directory}/store", "--runroot", f"{self._directory}/run"]
        base += ["--network-config-dir", f"{self._directory}/networks"]
        return [
            "env", f"CONTAINERS_CONF={self._settings}", "nsenter", f"--net=/run/netns/{self.host.name}", *base,
            "--runtime", "runc", "--cgroup-manager", "cgroupfs", *arguments,
        ]  # fmt: skip

    def _spawn(self, *arguments: str) -> Process:
        return Process(self._command(*arguments))

    def podman(self, *arguments: str) -> str:
        done = subprocess.run(self._command(*arguments), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def run(self, name: str, *options: str, **labels: str) -> str:
        """A container that does nothing until it is told to; its address."""
        words = [word for key, value in labels.items() for word in ("--label", f"{key}={value}")]
        limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")  # no more than a test's own
        sleep = ("/bin/busybox", "sleep", "1000")
        self.podman("run", "--detach", "--name", name, *limits, *options, *words, "--rootfs", str(self._root), *sleep)
        return self.address(name)

    def id(self, name: str) -> str:
        """All of a container's id."""
        return self.podman("inspect", "--format", "{{.Id}}", name)

    def address(self, name: str) -> str:
        (told,) = json.loads(self.podman("inspect", name))
        networks = told["NetworkSettings"].get("Networks", {}).values()
        return str(next((one["IPAddress"] for one in networks if one["IPAddress"]), ""))

    def close(self) -> None:
        self.podman("rm", "--all", "--force", "--time", "0")
        self._service.close()
        wait_for(lambda: not self._users(), "what cleans up after containers is done", 30)
        for mount in ("store/overlay", "store"):
            wait_for(lambda: self._unmount(mount), f"{mount} is not used any more")  # noqa: B023 (called here)
        shutil.rmtree(self._directory)

    def _users(self) -> list[str]:
        """The processes that have the store on their command lines: Podman's, which mount it when they need it."""
        found = subprocess.run(["pgrep", "-f", str(self._directory)], capture_output=True, text=True, check=False)
        return found.stdout.split()

    def _unmount(self, mount: str) -> bool:
        path = self._directory / mount
        subprocess.run(["umount", "-q", path], check=False)
        return f" {path} " not in Path("/proc/mounts").read_text()  # it is bound to itself: its numbers do not tell
