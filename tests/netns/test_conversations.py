"""The NICs of one session keep a conversation's order: no answer leaves before its question.

client (eth0) ---- p1 [host: br0] p2 ---- (eth0) server; [host] sensor ---- eth0 [sensor]
"""

from __future__ import annotations

import os
import socket
import threading

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.topology import Topology

CONNECTIONS = int(os.environ.get("MIRRORD_CONNECTIONS", "200"))
SERVER = ("10.0.0.2", 80)
LOST = "tcp.analysis.ack_lost_segment || tcp.analysis.lost_segment || tcp.analysis.out_of_order"
SESSION = """
[[mirrors.m.sessions]]
name = "all"
source = {source}
{more}
destination = {{ type = "device", device = "sensor" }}
"""
SOURCES = {
    "bridge": ('{ type = "bridge", bridge = "br0" }', ""),
    "ring": (
        '{ type = "bridge", bridge = "br0" }',
        'capture = "ring"\nring_size = "64MiB"',
    ),  # the Python plane is slow
    "list": ('{ type = "device", device = ["p1", "p2"] }', 'direction = "ingress"'),
    "workers": ('{ type = "device", device = "p?" }', 'direction = "ingress"\nworkers = 2\nring_size = "64MiB"'),
}


def answer(listener: socket.socket) -> None:
    """A word for a word, on each connection."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.send(connection.recv(16))
            connection.recv(1)  # until the client is done


@pytest.mark.parametrize("source", SOURCES)
def test_no_answer_before_its_question(net: Topology, sniff: MakeSniffer, daemon: MakeDaemon, source: str) -> None:
    host, client, server, sensor = (net.host(name) for name in ("host", "client", "server", "sensor"))
    host.add_bridge("br0")
    for number, guest in enumerate((client, server), start=1):
        net.link(guest, "eth0", host, f"p{number}", (f"10.0.0.{number}/24", ""))
        host.ip(f"link set dev p{number} master br0")
    net.link(host, "sensor", sensor, "eth0")
    received = sniff(sensor, "eth0", "tcp", snaplen=128)
    devices, more = SOURCES[source]
    mirrord = daemon(host, SESSION.format(source=devices, more=more))
    with server.open_socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(SERVER)
        listener.listen(64)
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        for _ in range(CONNECTIONS):
            with client.open_socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
                connection.connect(SERVER)
                connection.send(b"question")
                assert connection.recv(16) == b"question"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    received.wait_lines(2 * CONNECTIONS, "tcp[tcpflags] & tcp-syn != 0", 60)  # the Python plane is slow
    mirrord.stop()
    seen = received.stop()
    assert seen.tshark(expression=LOST) == ""
    begun: dict[str, list[tuple[str, str]]] = {}
    for stream, syn, ack in seen.fields("tcp.stream", "tcp.flags.syn", "tcp.flags.ack"):
        begun.setdefault(stream, []).append((syn, ack))
    assert len(begun) == CONNECTIONS
    no, yes = ("0", "1") if ("1", "0") in begun["0"] else ("False", "True")
    assert {tuple(flags[:3]) for flags in begun.values()} == {((yes, no), (yes, yes), (no, yes))}
