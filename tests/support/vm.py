"""A machine with Debian's own kernel, whose files are this one's, in QEMU under software emulation."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
MACHINE = ROOT / "build" / "vm"  # made by tests/vm/machine
SECONDS = 300.0
"""A bound for a machine that is busy otherwise; by itself it takes less than a minute."""


def run(script: Path, directory: Path) -> str:
    """Boot, run a shell script of the project in `directory`, which the machine has as /run/shared, and end.

    What the script printed; AssertionError where it failed.
    """
    _pack(directory / "modules.tar")
    (directory / "command").write_text(f"tar -xf /run/shared/modules.tar -C / && exec bash {script} {ROOT}\n")
    console, output, status = (directory / name for name in ("console", "output", "status"))
    subprocess.run(
        [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "512",
            "-nodefaults", "-no-reboot", "-display", "none", "-serial", f"file:{console}",
            "-kernel", str(MACHINE / "vmlinuz"), "-initrd", str(MACHINE / "initramfs"),
            "-append", "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on",
            "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
            "-virtfs", f"local,path={directory},mount_tag=shared,security_model=none",
        ],
        check=True, timeout=SECONDS,
    )  # fmt: skip
    said = output.read_text() if output.exists() else console.read_text()
    assert status.exists(), said
    assert status.read_text() == "0\n", said
    return said


def _pack(archive: Path) -> None:
    """What the daemon imports, for the machine's memory: to open each of these files takes it long."""
    told = subprocess.run(
        [sys.executable, "-c", _IMPORTED], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    with tarfile.open(archive, "w") as tar:
        for file in sorted(set(told.splitlines())):
            tar.add(file)


_IMPORTED = """
import mirrord.control.daemon, os, sys
for module in list(sys.modules.values()):
    for file in (getattr(module, "__file__", None), getattr(module, "__cached__", None)):
        if file and file.endswith((".py", ".pyc")) and os.path.exists(file):
            print(file)
"""
