"""Which files a session writes, told from its configuration. Pure."""

from __future__ import annotations

import os.path
from pathlib import PurePath

from mirrord.dataplane.transmit.file_names import STAMP
from mirrord.model import DeviceSource, Session, TunnelSource
from mirrord.values.names import GLOB


def has_one_file(session: Session) -> bool:
    """Whether its file has the destination's own name; else there is a file for each source device, see file_of."""
    source = session.source
    if isinstance(source, TunnelSource):
        return True
    return isinstance(source, DeviceSource) and len(source.device) == 1 and not GLOB.search(source.device[0])


def file_of(session: Session, path: str, device: str) -> PurePath:
    """The file of what a session captures on one of its devices; `path` is its destination's."""
    file = PurePath(os.path.normpath(path))
    return file if has_one_file(session) else file.with_stem(f"{file.stem}-{device}")


def device_in(path: str, file: str) -> str:
    """The device whose file this is, of a session that has a file for each of its devices; "" if it is none."""
    each, one = PurePath(path), PurePath(file)
    begin, end = f"{each.stem}-", each.suffix
    if one.parent != each.parent or not one.name.startswith(begin) or not one.name.endswith(end):
        return ""
    return one.name[len(begin) : len(one.name) - len(end)]


def unfinished(file: str) -> str:
    """The file that gets this name when it is finished; "" if none does."""
    one = PurePath(file)
    stem, _, stamp = one.stem.rpartition("-") if one.suffix else one.name.rpartition("-")
    return str(one.with_name(f"{stem}{one.suffix}")) if stem and STAMP.fullmatch(stamp) else ""
