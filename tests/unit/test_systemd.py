"""The systemd files, as systemd's own tools read them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.daemon import ROOT

FILES = ROOT / "systemd"


def run(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout


def security(unit: Path) -> str:
    """What systemd judges; it fails above 2.0."""
    return run("systemd-analyze", "security", "--offline=yes", "--threshold=20", unit)


@pytest.mark.parametrize(
    ("drop_in", "costs"),
    [
        ("netns.conf", {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "RestrictNamespaces=~net", "ProtectProc="}),
        ("processes.conf", {"CAP_SYS_PTRACE", "ProtectProc="}),
        ("cni.conf", {"CAP_(DAC_*|FOWNER|IPC_OWNER)"}),
        ("podman.conf", {"SupplementaryGroups="}),
        ("docker.conf", {"SupplementaryGroups="}),
    ],
)
def test_the_unit_is_hardened_and_a_drop_in_costs_what_it_says(drop_in: str, costs: set[str], tmp_path: Path) -> None:
    security(FILES / "mirrord.service")
    (tmp_path / "mirrord.service.d").mkdir()
    shutil.copy(FILES / "mirrord.service", tmp_path)
    shutil.copy(FILES / drop_in, tmp_path / "mirrord.service.d")
    weaker = run("systemd-analyze", "security", "--offline=yes", tmp_path / "mirrord.service")
    lost = {line.split()[1] for line in weaker.splitlines() if line.startswith("✗")} - {
        line.split()[1] for line in security(FILES / "mirrord.service").splitlines() if line.startswith("✗")
    }
    assert {one.removeprefix("CapabilityBoundingSet=~") for one in lost} == costs


def test_the_agents_unit_is_hardened_and_has_no_capability() -> None:
    told = security(FILES / "mirrord-agent.service")
    having = [line for line in told.splitlines() if line.startswith("✗") and "CAP_" in line]
    assert not having


def test_the_user_and_its_directories_are_made(tmp_path: Path) -> None:
    shutil.copytree(FILES / "sysusers.d", tmp_path / "usr/lib/sysusers.d")
    shutil.copytree(FILES / "tmpfiles.d", tmp_path / "usr/lib/tmpfiles.d")
    (tmp_path / "etc").mkdir()
    run("systemd-sysusers", f"--root={tmp_path}")
    users = {line.split(":")[0]: line.split(":") for line in (tmp_path / "etc/passwd").read_text().splitlines()}
    groups = {line.split(":")[0] for line in (tmp_path / "etc/group").read_text().splitlines()}
    _, _, user, group, _, home, shell = users["mirrord"]
    assert 0 < int(user) < 1000
    assert (home, shell, groups) == ("/var/lib/mirrord", "/usr/sbin/nologin", {"mirrord", "mirrord-read-only"})
    run("systemd-tmpfiles", "--create", f"--root={tmp_path}")
    for path, mode in (("run/mirrord", 0o755), ("var/lib/mirrord", 0o750), ("var/lib/mirrord/captures", 0o750)):
        made = (tmp_path / path).stat()
        assert (made.st_mode & 0o777, made.st_uid, made.st_gid) == (mode, int(user), int(group))
