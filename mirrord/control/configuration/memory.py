"""What a configuration asks for of rings, tables, recorders and queues, against daemon.memory_limit.

The same counts at run time (dataplane/memory.py), where a pattern or a bridge may turn out to have more devices than
are counted here, and a stream more clients than one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence

from mirrord.control.planning.overlap import end_of
from mirrord.errors import Problem
from mirrord.model import (
    BridgeSource,
    Daemon,
    DeviceSource,
    FileDestination,
    Mirror,
    Model,
    PcapDestination,
    Session,
    TunnelSource,
)
from mirrord.model.validation import join
from mirrord.plans import CONNECTIONS_BYTES, DUPLICATES_BYTES, FLOW_BYTES, LEAST_RING_BLOCKS, RING_BLOCK, queue_bytes
from mirrord.values.quantities import show_size

Asked = tuple[tuple[str, ...], str, int]
"""The key below the session, what it is for, and bytes."""


def beyond_memory(
    daemon: Daemon, sessions: Sequence[tuple[str, Session]], objects: Mapping[str, Model]
) -> Iterator[Problem]:
    """Each thing that a session asks for and that there is no room for, those before it counted. Sessions by their
    paths, as in `objects`, where their mirrors are, too. A pattern of devices counts as one, a bridge, too.
    """
    limit, taken = daemon.memory_limit, 0
    if not limit:
        return
    shared: set[Hashable] = set()
    for path, session in sessions:
        owner = path.rpartition(".sessions[")[0]
        mirror = objects.get(owner)
        once = owner if isinstance(mirror, Mirror) and mirror.duplicates == "drop" else ""
        for key, what, size in _asked(daemon, path, session, once, shared):
            taken += size
            if size and taken > limit:
                asked = f"its {what} takes {show_size(size)}, with all before it {show_size(taken)}"
                yield Problem(join(path, *key), f"{asked}: more than memory_limit, {show_size(limit)}")


def _asked(daemon: Daemon, path: str, session: Session, once: str, shared: set[Hashable]) -> Iterator[Asked]:
    """What a session takes beside what others before it do. `once`: its mirror, where that drops duplicates."""
    source = session.source
    several = len(source.device) if isinstance(source, DeviceSource) else 1
    each = several * session.workers
    if not isinstance(source, TunnelSource) and session.capture != "socket":
        size = session.ring_size if session.ring_size is not None else daemon.ring_size
        ring = _capture(path, session, size, once)
        if ring not in shared:
            shared.add(ring)
            yield ("ring_size",), "ring", max(-(-size // RING_BLOCK), LEAST_RING_BLOCKS) * RING_BLOCK * session.workers
    if session.flow_limit is not None:
        yield ("flow_limit", "flows"), "table of flows", session.flow_limit.flows * FLOW_BYTES * each
    if session.payload == "tls":
        yield ("payload",), "table of connections", CONNECTIONS_BYTES * each
    if session.recorder:
        yield ("recorder",), "recorder", session.recorder * several
    if isinstance(session.destination, PcapDestination):
        yield ("destination", "buffer"), "queue of a client", queue_bytes(session.destination.buffer) * several
    if once and not isinstance(session.destination, FileDestination):
        table = once, end_of(session.destination)
        if table not in shared:
            shared.add(table)
            yield ("destination",), "table of duplicates", DUPLICATES_BYTES


def _capture(path: str, session: Session, size: int, once: str) -> Hashable:
    """What sessions agree on that share a ring. One that writes to a disk has its own, as has one whose guest's device
    is not known yet.
    """
    source = session.source
    if isinstance(session.destination, FileDestination) or not isinstance(source, (DeviceSource, BridgeSource)):
        return path
    if isinstance(source, BridgeSource):
        place: Hashable = source.bridge
    else:
        place = source.device, source.netns, source.promiscuous
    return type(source), place, session.capture, size, session.workers, once
