"""Whose a file is that this process makes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def give_to_owner_of(directory: int | Path, descriptor: int) -> None:
    """Have a file that root has just made be its directory's owner's: the service, which runs as a user of its own, can
    go on with it.
    """
    if os.geteuid() == 0:
        place = os.stat(directory)  # noqa: PTH116 (which takes a descriptor, too)
        with suppress(PermissionError):  # of a root without CAP_CHOWN
            os.fchown(descriptor, place.st_uid, place.st_gid)
