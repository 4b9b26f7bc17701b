"""The process: its sockets, files and marks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from mirrord.model.base import Mark, Model
from mirrord.values.names import Group, OptionalSocket, Path, Pattern, Socket
from mirrord.values.ports import Endpoint, Listen
from mirrord.values.quantities import CpuShare, Latency, RingSize, Size
from mirrord.values.written import Between


class Daemon(Model):
    """The process: its sockets, files and marks."""

    socket: Socket = "/run/mirrord/mirrord.sock"
    """The control API: HTTP and JSON on a unix socket of mode 0660."""
    socket_group: Group = ""
    """The group that may read and change by `socket`; empty: the daemon's own."""
    read_only_socket: OptionalSocket = ""
    """A second socket that answers GET alone, and gives no packets; empty: none."""
    read_only_group: Group = ""
    """The group that may read by `read_only_socket`."""
    metrics: Listen = Endpoint("127.0.0.1", 9817)
    """Where Prometheus reads `/metrics`; empty turns it off."""
    state: Path = "/var/lib/mirrord/state.db"
    """SQLite: what was made at run time, and the audit log."""
    include: tuple[Pattern, ...] = ("/etc/mirrord/conf.d/*.toml",)
    """Files that add to this one. An object, or a key of [daemon], may be defined in one file only. The default holds
    for the default file alone: another one (`mirrord -c FILE`) includes what it says itself."""
    capture_directories: tuple[Path, ...] = ("/var/lib/mirrord/captures",)
    """File destinations may lie in these only."""
    mark: Mark = 0x10000000
    """SO_MARK of every copy. A frame that has it is never mirrored again."""
    mark_mask: Mark = 0x10000000
    """The bits of the mark that say so."""
    dataplane: Literal["auto", "native", "python"] = "auto"
    """Who moves the frames: the compiled core, the Python reference, or the first where it can be had."""
    ring_size: RingSize = 8 << 20
    """Memory of the capture ring of a busy source; a session may set its own."""
    nice: Annotated[int, Between(-20, 19)] = 0
    """Priority of the workers for the scheduler, as in nice(2); 0: the process's own."""
    latency: Latency = 1_000_000
    """How long a copy may wait for company at most, while frames come: "0", not at all, to "10ms", which costs less."""
    cpu_limit: CpuShare = 0
    """Share of a core that all workers together may take, as "50%", or "150%" for one and a half; "0": no bound. What
    does not fit is skipped, reason `paused`: the busiest sessions pause, and workers rest. Those who send are never
    waited for."""
    memory_limit: Size = 0
    """Bound on the memory of all rings, flow tables (`flow_limit`), tables of connections (`payload = "tls"`, 8 MiB
    each), of duplicates (2.5 MiB a destination) and recorders together, each counting as full; "0": none. What the
    configuration asks for beyond that is refused. Where more devices match than it names, a source has a shorter ring,
    down to 1 MiB, or does not run; a session without its table mirrors every flow whole, or has zeros for all payload;
    one without its recorder keeps no frames; and says so. The same holds, limit or not, of whatever alone would take
    more than a quarter of the memory that the host has available. Beside it there may be a TX ring, 0.5 to 4 MiB, for
    each busy way out, and the buffers of plain sockets."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe messages that are logged."""

    def _contradictions(self) -> Iterator[tuple[str, ...]]:
        if self.mark & ~self.mark_mask:
            why = f"{self.mark:#x} has bits outside mark_mask {self.mark_mask:#x}: no frame would match"
            yield "mark", why, "mark_mask"
        if self.read_only_group and not self.read_only_socket:
            yield "read_only_group", "there is no read_only_socket for it", "read_only_socket"
        if self.socket == self.read_only_socket:
            yield "read_only_socket", "must be another path than socket"
