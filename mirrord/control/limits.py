"""The process's resource limits, looked after before anything runs into them."""

from __future__ import annotations

import os
import resource
from concurrent.futures import ThreadPoolExecutor

from mirrord.errors import HostError


def raise_descriptors() -> None:
    """Allow as many descriptors as the host lets us have: a UDP destination alone has dozens."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def require_nice(nice: int) -> None:
    """HostError when the workers may not have this priority (setpriority(2)). Tried by a thread that ends here.

    0 asks for nothing: the workers have the process's own.
    """
    if not nice:
        return
    with ThreadPoolExecutor(max_workers=1) as thread:
        try:
            thread.submit(os.setpriority, os.PRIO_PROCESS, 0, nice).result()
        except PermissionError as error:
            message = f"{nice} is not allowed: needs CAP_SYS_NICE, or LimitNICE={nice} in the systemd unit"
            raise HostError("no_privilege", message, "daemon.nice") from error
