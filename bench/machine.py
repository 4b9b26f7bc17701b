"""The machine that the figures were taken on, and the programs in C that take them."""

from __future__ import annotations

import compileall
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{HERE / 'traffic'}")


def build(folder: Path, programs: Mapping[str, tuple[str, ...]]) -> None:
    """Compiles each program from its sources, named from bench/ on; a warning is an error."""
    for program, files in programs.items():
        sources = [str(HERE / file) for file in (*files, "traffic/common.c")]
        subprocess.run(["cc", *FLAGS, "-o", str(folder / program), *sources], check=True)


def stolen() -> tuple[int, int]:
    """Ticks that the hypervisor gave to others, and all ticks, since the machine started."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[7], sum(ticks)


SERVICE = ("PATH", "HOME", "LANG", "USER", "LOGNAME", "SHELL")


def as_a_service() -> None:
    """Start what is measured from now on as an installed unit is started: with the environment that systemd gives
    (systemd.exec(5)), and compiled as pip and the package leave it.

    What a shell has besides would be measured, too: a bundle of certificates (SSL_CERT_FILE) is 1.8 MB of a process,
    modules that are compiled at each start (PYTHONDONTWRITEBYTECODE) 1.5 MB and half a second.
    """
    for name in os.environ.keys() - {*SERVICE}:
        del os.environ[name]
    compileall.compile_dir(HERE.parent / "mirrord", quiet=1)


def machine() -> dict[str, str]:
    """What the figures depend on. No names."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cores": str(os.cpu_count()),
        "processor": models[0].split(":")[1].strip() if models else platform.machine(),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "clock": Path("/sys/devices/system/clocksource/clocksource0/current_clocksource").read_text().strip(),
        "load_average_at_start": f"{os.getloadavg()[0]:.2f}",
    }
