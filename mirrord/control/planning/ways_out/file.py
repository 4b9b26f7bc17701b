"""Copies into files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import PurePath

from mirrord.control.planning.files import file_of
from mirrord.control.planning.ways_out.common import Asked, WayOut
from mirrord.dataplane.forward import encap
from mirrord.model import FileDestination, Session
from mirrord.plans import FilePlan


def describe(_session: Session, to: FileDestination) -> tuple[str, str]:
    """The destination in words, and how copies are handed to the kernel."""
    return f"file {to.path}", "file"


def way_out(asked: Asked, to: FileDestination) -> WayOut:
    """Blocks of a file; where the session may have more than one source device, a file for each of them."""
    config, session, source, forward = asked.config, asked.session, asked.source, asked.forward
    file = file_of(session, to.path, source.name)
    directories = [PurePath(os.path.normpath(one)) for one in config.daemon.capture_directories]
    directory = next(one for one in directories if one in file.parents)  # the loader refuses any other
    plan = FilePlan(
        directory=str(directory),
        name=str(file.relative_to(directory)),
        interface=source.name,
        comment=f"mirror {asked.mirror}, session {session.name}",
        snaplen=forward.snaplen,
        rotate_size=to.rotate_size,
        rotate_seconds=to.rotate_seconds,
        keep=to.keep,
        raw=source.raw,
    )
    template = encap.packet_block()
    forward = replace(forward, template=template, overhead=-len(template.header), strip_ethernet=source.raw)
    return WayOut(plan, forward)
