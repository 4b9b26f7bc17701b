"""`make demo`: a client, a source and a collector; the real daemon mirrors what the client sends to the source.

Nothing outside three network namespaces of its own (and a switch between them) is touched; all are gone at the end.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.huawei import CONFIGURATION, connect, lan
from tests.support.metrics import Metrics
from tests.support.sniffer import Sniffer
from tests.support.topology import Topology
from tests.support.wait import wait_for

PICTURE = """\
  client 192.168.0.161 ----+
  source 192.168.0.230 ----+---- one network; mirrord runs on the source
  collector 192.168.0.164 -+
"""

OWN = """\
On your own machine, save this as mirror.toml, with your NIC and your collector in it:

  [daemon]
  socket = "/run/mirrord-mine.sock"
  state = "/run/mirrord-mine.db"

  [mirrors.mine]
  enabled = true

  [[mirrors.mine.sessions]]
  name = "nic"
  direction = "both"
  source = { type = "device", device = "eth0" }
  destination = { type = "vxlan", remote = "192.0.2.10", vni = 1 }

then, as root:

  .venv/bin/mirrord -c mirror.toml --check
  .venv/bin/mirrord -c mirror.toml
  curl -s http://127.0.0.1:9817/metrics | grep ^mirrord_

and on the collector: tcpdump -nne udp port 4789
"""


def main() -> None:
    with Topology() as net, tempfile.TemporaryDirectory(prefix="mirrord-demo-") as temporary:
        heading("Three hosts (network namespaces)")
        print(PICTURE)
        client, source, collector = lan(net)

        heading("mirrord on the source, with this configuration")
        print(CONFIGURATION)
        directory = Path(temporary)
        copies = Sniffer(collector, "eth0", "udp port 4789", directory / "collector.pcap")
        daemon = Daemon(source, directory, CONFIGURATION)

        heading("The client talks to ports 1234 and 1235 of the source, and pings it")
        for port in (1234, 1235):
            caller, server = connect(client, source, port)
            for text in ("hello\n", "12345\n"):
                caller.write(text)
                wait_for(lambda text=text, server=server: server.output().endswith(text), "the text arrives")  # type: ignore[misc]
            print(f"$ nc 192.168.0.230 {port}\n{server.output()}")
            caller.stop()
            server.wait(10)
        print(client.run("ping", "-c", "1", "192.168.0.230"))

        metrics = wait_for(lambda: at_rest(daemon), "every captured frame is accounted for")
        status, said = daemon.stop()
        heading("The collector: tcpdump -i eth0 udp port 4789 -nne")
        print("\n".join(line.replace("vni 1 ", "vni 1\n    ") for line in copies.stop().lines()))
        print("\nOnly what the client sent to port 1234: no reply, no port 1235, no ping.")

        heading("The counters")
        for (name, labels), value in metrics.items():
            if value and name.endswith("_total") and name.startswith("mirrord_"):
                shown = ", ".join(f"{key}={value}" for key, value in sorted(labels))
                print(f"{name:40} {value:8.0f}   {shown}")
        print(f"\nCaptured and neither mirrored, skipped nor dropped: {metrics.unaccounted():.0f}")

        heading("Your own NIC")
        print(OWN)
        if status:
            sys.exit(f"mirrord ended with status {status}:\n{said}")


def at_rest(daemon: Daemon) -> Metrics | None:
    """The metrics, once something was captured and all of it is accounted for."""
    metrics = daemon.metrics()
    return metrics if metrics.total("mirrord_captured_frames_total") and metrics.unaccounted() == 0 else None


def heading(text: str) -> None:
    print(f"--- {text}\n", flush=True)


if __name__ == "__main__":
    main()
