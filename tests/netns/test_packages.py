"""What a person installs: the source archive, the wheel and the Debian package, each built as `make deb` builds it.

The package goes into a throw-away root as README tells, and through its life there: install, first mirrored frame,
upgrade, removal, purge. The root is this machine's own system, or with `--pristine` (`make pristine`) a minimal
Debian 12.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirrord import __version__
from tests.conftest import MakeSniffer
from tests.support.daemon import ROOT
from tests.support.root import Root
from tests.support.send import FRAME, send
from tests.support.topology import Topology, acquaint, receive_vxlan
from tests.support.unit import Unit
from tests.support.wait import wait_for

pytestmark = pytest.mark.timeout(300)  # it builds everything first

COPY = "116,66"  # 8 + 8 + 100, and 100 - 14 - 20
README = (ROOT / "README.md").read_text()
UNIT = "lib/systemd/system/mirrord.service"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the first that asks, where tests run in several processes; the others wait."""
    several = "PYTEST_XDIST_WORKER" in os.environ
    base = tmp_path_factory.getbasetemp()
    made = (base.parent if several else base) / "dist"  # as README has it
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            _build(made)
    return made


def _build(made: Path) -> None:
    made.mkdir()
    # The environment that runs the tests is ready; compressing the package takes long, and nothing is learnt from it.
    environment = {**os.environ, "DEB_COMPRESSION": "none", "MIRRORD_REQUIRE_NATIVE": "1"}
    command = ["make", "--assume-old=venv", "deb", f"DIST={made}"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def deb(dist: Path) -> Path:
    (made,) = dist.glob("*.deb")
    return made


@pytest.fixture
def root(dist: Path, request: pytest.FixtureRequest) -> Iterator[Root]:
    system: Path = request.config.getoption("--pristine") or Path("/")
    with Root(dist, system=system.resolve()) as made:
        yield made


def test_the_wheel_is_for_every_python_and_runs_in_an_environment_of_its_own(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    glibc = re.findall(r"glibc from (\d+)\.(\d+) on", README)[0]
    assert wheel.name.startswith(f"mirrord-{__version__}-cp311-abi3-manylinux_{'_'.join(glibc)}_")
    with tarfile.open(dist / f"mirrord-{__version__}.tar.gz") as archive:
        page = "mirrord/console/page/vendor/preact.js"
        for file in (
            page,
            "mirrord/dataplane/native/tap.h",
            "systemd/mirrord.service",
            "config/mirrord.toml",
            "LICENSE",
        ):
            assert f"mirrord-{__version__}/{file}" in archive.getnames()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(tmp_path / "bin/python")]  # as pipx, with a pip of its own
    subprocess.run([*pip, "install", "--quiet", "--no-compile", str(wheel)], check=True)
    for command in ("mirrord", "mirrorctl"):
        said = subprocess.run(
            [tmp_path / "bin" / command, "--version"], capture_output=True, text=True, check=True, cwd=tmp_path
        ).stdout
        assert said == f"{command}, version {__version__}\n"
    loaded = (
        "from mirrord.console import pages; pages.read()\n"
        "from mirrord.dataplane import native; print(native.missing or 'native')"
    )
    said = subprocess.run(
        [tmp_path / "bin/python", "-I", "-c", loaded], capture_output=True, text=True, check=True
    ).stdout
    assert said == "native\n"


def test_the_debian_package_has_what_its_documents_name(deb: Path, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "--extract", str(deb), str(tmp_path)], check=True)
    documents = tmp_path / "usr/share/doc/mirrord"
    pages = [documents / "README.md", *(documents / "docs").glob("*.md")]
    assert len(pages) > 6
    for page in pages:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), (page, link)
    share = tmp_path / "usr/share/mirrord"
    subprocess.run(["promtool", "check", "rules", str(share / "prometheus/mirrord.rules.yml")], check=True)
    for dashboard in ("mirrord.json", "mirrord-session.json"):
        assert json.loads((share / "grafana" / dashboard).read_text())["panels"]
    named = re.findall(r"`(/usr/share/mirrord/[^`]+)`", (documents / "README.md").read_text())
    assert "/usr/share/mirrord/examples/netns.conf" in named
    assert all((tmp_path / path.lstrip("/")).exists() for path in named)
    assert (share / "examples/vm-to-sensor.toml").exists()
    for command in ("mirrord", "mirrorctl", "mirrord-agent", "mirrord-extcap"):
        assert (tmp_path / "usr/bin" / command).exists(), command


def upgraded(deb: Path, directory: Path) -> Path:
    """The package once more, as a later version."""
    later = directory / "later.deb"
    unpacked = directory / "unpacked"
    subprocess.run(["dpkg-deb", "--raw-extract", str(deb), str(unpacked)], check=True)
    control = (unpacked / "DEBIAN/control").read_text()
    (unpacked / "DEBIAN/control").write_text(control.replace(f"Version: {__version__}", f"Version: {__version__}+1"))
    build = ["dpkg-deb", "-Znone", "--root-owner-group", "--build", str(unpacked), str(later)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(unpacked)
    return later


def told(section: str) -> list[str]:
    """The commands that README gives in a section, one by one."""
    text = README.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [re.sub(r"\s+#.*", "", line).strip() for line in text.splitlines() if line.startswith("    ")]


def test_the_debian_package_from_install_to_purge(
    deb: Path, dist: Path, root: Root, net: Topology, sniff: MakeSniffer
) -> None:
    host, collector = net.host("host"), net.host("collector")
    net.link(host, "eth0", net.host("client"), "eth0")
    net.link(host, "up0", collector, "eth0", ("192.0.2.1/24", "192.0.2.10/24"), mtu=1600)
    acquaint(host, "up0", "192.0.2.1", collector, "eth0", "192.0.2.10")
    receive_vxlan(collector)
    sniffer = sniff(collector, "eth0", "udp port 4789")
    _, install, configure, _, _, start, status = told("Install")
    (first,) = re.findall(r"^```toml\n(.*?)^```", README, re.DOTALL | re.MULTILINE)

    def in_a_shell(command: str) -> str:
        return root.run("sh", "-c", f"cd {dist.parent} && {command}")

    def mirrored() -> int:
        return sum(
            one["counters"]["mirrored_frames"]
            for one in json.loads(root.run("mirrorctl", "--json", "status"))["sessions"]
        )

    def audit() -> list[dict[str, object]]:
        return list(json.loads(root.run("mirrorctl", "--json", "audit")))

    (root / "var/lib/mirrord").mkdir()
    (root / "var/lib/mirrord/before").touch()  # as root's, who tried it from a checkout
    in_a_shell(install)
    user = int(root.run("id", "-u", "mirrord"))
    assert (root / "var/lib/mirrord/before").stat().st_uid == user
    assert root.run("systemd-analyze", "verify", "--man=no", *units(root)) == ""
    assert (root / "etc/systemd/system/multi-user.target.wants/mirrord.service").is_symlink()
    assert "complete" in (root / "usr/share/bash-completion/completions/mirrorctl").read_text()
    assert not (root / "etc/systemd/system/sockets.target.wants/mirrord.socket").exists()
    (root / str(dist.parent / "mirror.toml")).write_text(first)
    in_a_shell(configure)
    daemon = host.spawn(*root.enter, *start.removesuffix("&").split())
    wait_for(lambda: "] started " in daemon.output(), "the daemon started", 30)
    assert "eth0" in in_a_shell(status)
    send(host, "eth0", FRAME)
    wait_for(lambda: mirrored() == 1, "the first mirrored frame")

    root.run("mirrorctl", "create", "later", "--enable")
    root.run("mirrorctl", "session", "add", "later", "nic", "--source", "eth0",
             "--destination", "type=vxlan,remote=192.0.2.10,vni=2")  # fmt: skip
    done = audit()
    with (root / "etc/mirrord/mirrord.toml").open("a") as configuration:
        configuration.write("# the operator's\n")
    (root / "var/lib/mirrord/captures/kept.pcapng").write_bytes(b"kept")
    root.run("dpkg", "--install", str(upgraded(deb, dist)))
    assert root.run("dpkg-query", "--show", "--showformat=${Version}", "mirrord") == f"{__version__}+1"
    assert (root / "etc/mirrord/mirrord.toml").read_text().endswith("# the operator's\n")
    assert daemon.stop() == 0, daemon.output()

    unit = Unit(root / UNIT)  # systemd's part is taken by this test: the service goes on with what root's daemon left
    daemon = host.spawn(*root.enter, *unit.setpriv(user), *unit.settings["ExecStart"])
    wait_for(lambda: "] started " in daemon.output(), "the daemon started", 30)
    send(host, "eth0", FRAME)
    wait_for(lambda: mirrored() == 2, "a frame in both sessions")
    assert audit()[-len(done) :] == done
    (reload,) = unit.settings["ExecReload"]
    root.run(*unit.setpriv(user), *reload.split())
    (root / "etc/mirrord/conf.d/wrong.toml").write_text("colour = 1\n")
    with pytest.raises(AssertionError, match=r"exit status 1\n.*wrong.toml: colour: unknown key \(line 1\)"):
        root.run(*unit.setpriv(user), *reload.split())
    (root / "etc/mirrord/conf.d/wrong.toml").unlink()
    root.run(*unit.setpriv(user), *reload.split())
    assert sorted(sniffer.stop().fields("vxlan.vni", "udp.length")) == [["1", COPY], ["1", COPY], ["2", COPY]]

    root.run("dpkg", "--remove", "mirrord")
    assert daemon.wait(5) == 0, daemon.output()
    assert not (root / "usr/lib/mirrord").exists()
    assert (root / "var/lib/mirrord/captures/kept.pcapng").read_bytes() == b"kept"
    assert (root / "var/lib/mirrord/state.db").exists()
    assert (root / "etc/mirrord/conf.d/mirror.toml").read_text() == first
    root.run("dpkg", "--purge", "mirrord")
    assert left(root) == ""


def units(root: Root) -> list[str]:
    directory = root / "lib/systemd/system"
    return [f"/lib/systemd/system/{file.name}" for file in directory.glob("mirrord*")]


def left(root: Root) -> str:
    """Files whose path has our name in it; dpkg's log and its saved status are the host's own."""
    places = ["/etc", "/usr", "/var/lib", "/run/mirrord", "/lib/systemd"]
    return root.run("sh", "-c", f"find {' '.join(places)} -xdev -name '*mirrord*' 2>/dev/null || true")
