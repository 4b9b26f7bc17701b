"""`payload = "tls"` between openssl's own client and server: tshark dissects the handshakes in the copies, and what was
said then is in none.

client eth0 ---- nic [source] uplink ---- eth0 [collector] vxlan0

The servers are on the source. Lines of one byte a write, a file in records of 16 KB and so in super-frames, segments of
48 bytes, segments that are lost behind the taps and sent again, STARTTLS of SMTP, and a connection that was there
before the mirror.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.bridged import BARE, bridged, configuration, packets
from tests.support.process import Process
from tests.support.sniffer import Recording
from tests.support.source import session
from tests.support.tls import SECRET, certificate, data_begin
from tests.support.topology import Host, Topology, receive_vxlan
from tests.support.wait import wait_for

CLIENT, SERVER = "10.1.0.1", "10.1.0.2"
LINE = SECRET.decode().strip()
FILE = SECRET * 12_000
LINES_12, LINES_13, FILE_12, FILE_13, SMTP, EARLY = range(7001, 7007)
HELLOS = ["1", "2"]
HANDSHAKES = {
    LINES_12: [*HELLOS, "11", "12", "14", "16", "4"],  # RFC 5246 7.4; and a ticket, RFC 5077 3.3
    LINES_13: HELLOS,
    FILE_12: [*HELLOS, "11", "12", "14", "16", "4"],
    FILE_13: HELLOS,
    SMTP: HELLOS,
    EARLY: [],
}
DECODE = [part for port in HANDSHAKES for part in ("-d", f"tcp.port=={port},{'smtp' if port == SMTP else 'tls'}")]


class Segment(NamedTuple):
    """What tshark reads of one."""

    way: tuple[int, int]  # from port, to port
    number: int
    data: bytes
    syn: bool


def segments(recording: Recording) -> list[Segment]:
    names = "tcp.srcport", "tcp.dstport", "tcp.seq_raw", "tcp.payload", "tcp.flags.syn"
    rows = recording.fields(*names, expression=f"tcp.port in {{{LINES_12}..{EARLY}}}")
    return [
        Segment((int(row[0]), int(row[1])), int(row[2]), bytes.fromhex(row[3]), row[4] in ("1", "True")) for row in rows
    ]


def streams(said: list[Segment]) -> dict[tuple[int, int], tuple[int, bytes]]:
    """What each end sent, and the number of its first byte, as far as that was seen."""
    found: dict[tuple[int, int], tuple[int, bytearray]] = {}
    for one in said:
        begin, stream = found.setdefault(one.way, (one.number + one.syn & 0xFFFFFFFF, bytearray()))
        at = one.number + one.syn - begin & 0xFFFFFFFF
        assert at <= len(stream) or not one.data, one  # a FIN has a number, too
        stream[at : at + len(one.data)] = one.data
    return {way: (begin, bytes(stream)) for way, (begin, stream) in found.items()}


def shown(way: tuple[int, int], stream: bytes) -> int:
    """How many of its bytes are the handshake's, or in the clear."""
    port = min(way)
    if port == EARLY:
        return 0
    return data_begin(stream, stream.index(b"\x16\x03") if port == SMTP else 0)


def serve(source: Host, files: tuple[Path, Path], port: int, *more: str, directory: Path) -> None:
    key, chain = files
    server = source.spawn(
        "openssl", "s_server", "-accept", f"{SERVER}:{port}", "-key", str(key), "-cert", str(chain), "-quiet", *more,
        directory=directory,
    )  # fmt: skip
    wait_for(lambda: f"{SERVER}:{port} " in source.run("ss", "-ltn"), f"s_server listens: {server.output()}")


def call(client: Host, port: int, *more: str) -> Process:
    return client.spawn("openssl", "s_client", "-connect", f"{SERVER}:{port}", "-quiet", *more)


def say_a_line(connection: Process) -> None:
    """One byte after the other; the server answers it the other way round."""
    for letter in LINE:
        connection.write(letter)
    connection.write("\n")
    wait_for(lambda: LINE[::-1] in connection.output(), f"an answer: {connection.output()}")


def get_the_file(client: Host, port: int) -> None:
    connection = call(client, port)
    connection.write("GET /file HTTP/1.0\r\n\r\n")
    assert connection.wait(60) == 0
    assert FILE.decode() in connection.output()


def serve_mail(source: Host, files: tuple[Path, Path]) -> threading.Thread:
    """A mail server that does no more than STARTTLS, and greets once more behind it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[1], files[0])
    listener = source.open_socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((SERVER, SMTP))
    listener.listen()

    def work() -> None:
        with listener, listener.accept()[0] as plain:
            plain.sendall(b"220 mail.example ESMTP\r\n")
            plain.recv(1000)
            plain.sendall(b"250-mail.example\r\n250 STARTTLS\r\n")
            plain.recv(1000)
            plain.sendall(b"220 go ahead\r\n")
            with context.wrap_socket(plain, server_side=True) as hidden:
                hidden.recv(1000)
                hidden.sendall(b"250 " + SECRET + b"\r\n")
                hidden.recv(1000)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def mail(client: Host) -> None:
    connection = call(client, SMTP, "-starttls", "smtp", "-crlf")
    connection.write("NOOP\n")
    wait_for(lambda: LINE in connection.output(), f"an answer: {connection.output()}")
    connection.write("QUIT\n")
    connection.end_input()
    connection.wait(20)


def check_what_is_shown(seen: list[Segment], wanted: dict[tuple[int, int], tuple[int, bytes, int]]) -> None:
    """Copies have the bytes that were said, zeros behind so many of each stream: its first number, it, how many."""
    for one in seen:
        begin, stream, kept = wanted[one.way]
        at = one.number + one.syn - begin & 0xFFFFFFFF
        original = stream[at : at + len(one.data)]
        assert one.data == original[: max(kept - at, 0)].ljust(len(one.data), b"\0"), (one.way, at, kept)


def check_handshakes(copies: Recording, *ports: int) -> None:
    """Tshark dissects them as far as they are in the clear."""
    for port in ports:
        rows = copies.fields("tls.handshake.type", expression=f"tls.handshake && tcp.port == {port}", decode=DECODE)
        found = [kind for row in rows for kind in row[0].split(",") if kind]
        assert [kind for kind in found if kind in HANDSHAKES[port]] == HANDSHAKES[port], (port, found)


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host, Host]:
    client, source, collector = net.host("client"), net.host("source"), net.host("collector")
    net.link(client, "eth0", source, "nic", (f"{CLIENT}/24", f"{SERVER}/24"))
    net.link(source, "uplink", collector, "eth0", ("10.99.0.1/24", "10.99.0.2/24"), mtu=1600)
    receive_vxlan(collector, vni=1)
    for device in ("eth0", "vxlan0"):  # what arrives is to be seen as it was sent
        collector.run("ethtool", "-K", device, "gro", "off")
    return client, source, collector


def lose_some(client: Host, source: Host) -> None:
    """Of what the taps on `nic` see, either way, each seventh."""
    seventh = "--mode", "nth", "--every", "7", "--packet", "3"
    for host in (client, source):
        host.run("iptables", "-A", "INPUT", "-p", "tcp", "-m", "statistic", *seventh, "-j", "DROP")


def test_handshakes_are_shown_and_what_is_said_is_not(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon, sniff: MakeSniffer, tmp_path: Path
) -> None:
    client, source, collector = hosts
    files = certificate(tmp_path)
    (tmp_path / "file").write_bytes(FILE)
    for port, more in {
        LINES_12: ("-rev", "-tls1_2"),
        LINES_13: ("-rev", "-tls1_3"),
        FILE_12: ("-WWW", "-tls1_2"),
        FILE_13: ("-WWW", "-tls1_3"),
        EARLY: ("-rev",),
    }.items():
        serve(source, files, port, *more, directory=tmp_path)
    early = call(client, EARLY)
    say_a_line(early)

    copies, truth = sniff(collector, "vxlan0", snaplen=65600), sniff(source, "nic", snaplen=65600)
    mirrord = daemon(source, session('payload = "tls"\ncapture = "ring"\ngso = "on"'))
    early.write("\n")
    say_a_line(call(client, LINES_12))
    get_the_file(client, FILE_12)
    mailing = serve_mail(source, files)
    mail(client)
    mailing.join(20)
    for host, device, other in ((client, "eth0", SERVER), (source, "nic", CLIENT)):
        host.ip(f"route add {other} dev {device} advmss 48")
    say_a_line(call(client, LINES_13))
    for host, device, other in ((client, "eth0", SERVER), (source, "nic", CLIENT)):
        host.ip(f"route delete {other} dev {device} advmss 48")
    lose_some(client, source)
    get_the_file(client, FILE_13)
    metrics = mirrord.settle(1)
    mirrord.stop()

    said, seen = segments(truth.stop()), segments(copies.stop())
    wanted = {way: (begin, stream, shown(way, stream)) for way, (begin, stream) in streams(said).items()}
    assert {min(way) for way in wanted} == set(HANDSHAKES)
    check_what_is_shown(seen, wanted)
    for way, (_, stream, kept) in wanted.items():
        assert sum(len(one.data) for one in seen if one.way == way) >= len(stream) > kept, way
    check_handshakes(copies, *HANDSHAKES)
    wrong = "tcp.checksum.status == 0 && tcp.checksum != 0xffff"  # which the kernel writes for 0 (skb_checksum_help)
    assert not copies.tshark("-o", "tcp.check_checksum:TRUE", expression=wrong)
    again = f"tcp.analysis.retransmission && tcp.port == {FILE_13}"
    assert copies.tshark(expression=again)
    assert metrics.total("mirrord_segmented_frames_total") > 0
    assert metrics.total("mirrord_zeroed_frames_total") > 2 * len(FILE) / 1460
    assert metrics.total("mirrord_unfollowed_frames_total") > 0


def edges(said: list[Segment], begins: dict[tuple[int, int], int]) -> Counter[tuple[tuple[int, int], int]]:
    """By a byte's place in what an end sends: how many more times it is there than the one before. However it is cut
    into segments, that is the same.
    """
    found: Counter[tuple[tuple[int, int], int]] = Counter()
    for one in said:
        at = one.number + one.syn - begins[one.way] & 0xFFFFFFFF
        found[one.way, at] += 1
        found[one.way, at + len(one.data)] -= 1
    return Counter({edge: more for edge, more in found.items() if more})


def test_on_its_way_past_three_sources_it_is_copied_once_and_hidden(
    net: Topology, daemon: MakeDaemon, sniff: MakeSniffer, tmp_path: Path
) -> None:
    """`duplicates = "drop"`: what one source has shown is what the next one would have, super-frames among it."""
    guest, host, peer, collector = bridged(net)
    for device in ("eth0", "vxlan0"):
        collector.run("ethtool", "-K", device, "gro", "off")
    files = certificate(tmp_path)
    (tmp_path / "file").write_bytes(FILE)
    serve(peer, files, LINES_13, "-rev", "-tls1_3", directory=tmp_path)
    serve(peer, files, FILE_12, "-WWW", "-tls1_2", directory=tmp_path)
    wire, copies = sniff(peer, "eth0", snaplen=65600), sniff(collector, "vxlan0", snaplen=65600)
    mirrord = daemon(host, configuration(session='payload = "tls"\ngso = "on"'))
    say_a_line(call(guest, LINES_13))
    get_the_file(guest, FILE_12)
    which = f"( sport = :{FILE_12} or dport = :{FILE_12} )"
    left = "ss", "-Htan", "state", "connected", "exclude", "time-wait", which
    wait_for(lambda: not (guest.run(*left) + peer.run(*left)).strip(), "nothing more is sent")
    truth = wire.stop()
    metrics = mirrord.settle(3 * len(truth.frames("tcp")))
    mirrord.stop()

    copies.stop()
    said, seen = segments(truth), segments(copies)
    ends = streams(said)
    check_what_is_shown(seen, {way: (begin, stream, shown(way, stream)) for way, (begin, stream) in ends.items()})
    begins = {way: begin for way, (begin, _) in ends.items()}
    assert edges(seen, begins) == edges(said, begins)
    assert packets(copies.frames(BARE)) == packets(truth.frames(BARE))
    check_handshakes(copies, LINES_13, FILE_12)
    assert metrics.total("mirrord_dropped_frames_total") == 0
    assert metrics.total("mirrord_skipped_frames_total", reason="duplicate") == 2 * len(truth.frames("tcp"))
    assert metrics.total("mirrord_segmented_frames_total") > 0
    assert metrics.total("mirrord_unfollowed_frames_total") == 0
