"""`payload = "tls"`: the handshake that OpenSSL says is shown, and not a byte of application data, however it is cut.

A byte of a copy's payload is either the original's, or zero; which of the two goes by its sequence number alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from mirrord.dataplane.forward import encap
from mirrord.dataplane.frame.headers import Tag
from mirrord.dataplane.frame.wire import Frame, Vnet
from mirrord.plans import ForwardPlan, Payload
from tests.support.planes import Result, Step, step
from tests.support.tls import (
    CLIENT,
    HEADERS,
    SECRET,
    SERVER,
    Piece,
    conversation,
    data_begin,
    frame,
    streams,
)

TLS = ForwardPlan(encap.bare(), payload=Payload.tls)
SMTP = (
    Piece(SERVER, b"220 mail.example ESMTP\r\n"),
    Piece(CLIENT, b"EHLO client.example\r\n"),
    Piece(SERVER, b"250-mail.example\r\n250 STARTTLS\r\n"),
    Piece(CLIENT, b"STARTTLS\r\n"),
    Piece(SERVER, b"220 go ahead\r\n"),
)
CLEAR = {end: sum(len(piece.data) for piece in SMTP if piece.sender == end) for end in (CLIENT, SERVER)}
ORIGINS = 0xFFFFFF00, 1000  # of the first byte; the client's numbers wrap in the handshake
CUTS = 1000


class Connection:
    """What two ends say, and what of it may be shown."""

    def __init__(self, version: str, *, starttls: bool = False) -> None:
        self.said = conversation(version, SECRET, SECRET * 40, before=SMTP if starttls else ())
        self.streams = streams(self.said)
        self.shown = tuple(data_begin(stream, CLEAR[end] if starttls else 0) for end, stream in enumerate(self.streams))

    def syns(self) -> Iterator[Frame]:
        for end in (CLIENT, SERVER):
            yield frame(end, ORIGINS[end] - 1, b"", syn=True)

    def segment(self, end: int, at: int, length: int) -> Frame:
        return frame(end, ORIGINS[end] + at, self.streams[end][at : at + length])

    def expected(self, end: int, at: int, length: int) -> bytes:
        """The payload of this segment's copy."""
        kept = self.streams[end][at : min(at + length, self.shown[end])]
        return kept.ljust(len(self.streams[end][at : at + length]), b"\0")


KINDS = [(version, starttls) for version in ("1.2", "1.3") for starttls in (False, True)]


@pytest.fixture(scope="module")
def connections() -> list[Connection]:
    return [Connection(version, starttls=starttls) for version, starttls in KINDS]


def payload(result: Result) -> bytes:
    return b"".join(copy[HEADERS:] for copy in result.copies)


def begun(connection: Connection, dataplane: str) -> Step:
    run = step(TLS, dataplane)
    for syn in connection.syns():
        assert run(syn).zeroed == 0
    return run


def cuts(connection: Connection, chance: random.Random, *, bytewise: bool = False) -> Iterator[tuple[int, int, int]]:
    """The whole conversation in segments of any length: (sender, offset, length). Most cuts are close to each other."""
    ats = [0, 0]
    for sender, data in connection.said:
        begin, ats[sender] = ats[sender], ats[sender] + len(data)
        places = set(range(1, len(data))) if bytewise else set()
        for _ in range(0 if bytewise else chance.randrange(4)):
            some = chance.randrange(len(data))
            places |= {min(some + step, len(data)) for step in (0, *(chance.randrange(1, 9) for _ in range(2)))}
        edges = sorted({0, *places, len(data)})
        for edge, following in pairwise(edges):
            yield sender, begin + edge, following - edge


def test_what_the_ends_say_is_what_it_is_meant_to_be(connections: list[Connection]) -> None:
    for (version, starttls), connection in zip(KINDS, connections, strict=True):
        for end, (stream, shown) in enumerate(zip(connection.streams, connection.shown, strict=True)):
            assert stream[shown : shown + 3] == b"\x17\x03\x03"
            assert SECRET not in stream
            if starttls:
                assert stream[CLEAR[end] : CLEAR[end] + 2] == b"\x16\x03"
            certificate = b"mirrored.example" in stream[:shown]
            assert certificate == (end == SERVER and version == "1.2")


def test_a_thousand_cuts(connections: list[Connection], dataplane: str) -> None:
    chance = random.Random(17)
    for n in range(CUTS):
        connection = connections[n % len(connections)]
        run = begun(connection, dataplane)
        sent: list[tuple[int, int, int]] = []
        for segment in cuts(connection, chance, bytewise=n < len(connections)):
            sent.append(segment)
            again = chance.random() < 0.05
            for one in (segment, chance.choice(sent)) if again else (segment,):
                result = run(connection.segment(*one))
                assert payload(result) == connection.expected(*one), (n, one)
                assert result.unfollowed == 0
                hidden = one[1] + one[2] > connection.shown[one[0]]
                assert result.zeroed == int(hidden)


def test_segments_that_come_in_another_order_show_no_more(connections: list[Connection], dataplane: str) -> None:
    chance = random.Random(17)
    for n in range(CUTS // 10):
        connection = connections[n % len(connections)]
        run = begun(connection, dataplane)
        segments = list(cuts(connection, chance))
        for _ in range(3):
            at = chance.randrange(len(segments))
            segments.insert(chance.randrange(len(segments)), segments.pop(at))
        for one in segments:
            sent, shown = connection.expected(*one), payload(run(connection.segment(*one)))
            assert shown in (sent, bytes(len(sent))), (n, one)


@pytest.mark.parametrize("lost", ["SYNs", "a segment"])
def test_what_was_not_seen_from_its_beginning_is_hidden(
    connections: list[Connection], lost: str, dataplane: str
) -> None:
    for connection in connections:
        run = begun(connection, dataplane) if lost == "a segment" else step(TLS, dataplane)
        segments = list(cuts(connection, random.Random(5)))
        for sender, at, length in segments:
            if lost == "a segment" and at == 0:
                continue
            result = run(connection.segment(sender, at, length))
            assert payload(result) == bytes(length)
            assert result.unfollowed == result.zeroed == 1


def test_what_was_missing_may_come_later(connections: list[Connection], dataplane: str) -> None:
    connection = connections[0]
    run = begun(connection, dataplane)
    assert payload(run(connection.segment(CLIENT, 100, 50))) == bytes(50)
    assert payload(run(connection.segment(CLIENT, 0, 100))) == connection.expected(CLIENT, 0, 100)
    assert payload(run(connection.segment(CLIENT, 100, 50))) == connection.expected(CLIENT, 100, 50)
    assert payload(run(connection.segment(CLIENT, 0, 5000))) == connection.expected(CLIENT, 0, 5000)


def test_a_super_frame_is_cut_at_the_byte(connections: list[Connection], dataplane: str) -> None:
    for connection in connections:
        run = begun(connection, dataplane)
        for end in (CLIENT, SERVER):
            whole = connection.segment(end, 0, 1 << 20)
            result = run(whole._replace(vnet=Vnet(0, 1, 54, 100, 0, 0)))
            assert payload(result) == connection.expected(end, 0, 1 << 20)
            length, shown = len(whole.data) - HEADERS, connection.shown[end]
            assert len(result.copies) == -(-length // 100)
            assert result.zeroed == len(result.copies) - shown // 100


def test_plain_tcp_is_kept(dataplane: str) -> None:
    run = step(TLS, dataplane)
    run(frame(CLIENT, 0, b"", syn=True))
    text = b"GET / HTTP/1.1\r\n\r\n\x16\x03\x01\x17\x03\x03" + bytes(range(256)) * 20
    for at in range(0, len(text), 7):
        result = run(frame(CLIENT, 1 + at, text[at : at + 7]))
        assert (payload(result), result.zeroed) == (text[at : at + 7], 0)


@pytest.mark.parametrize("first", [b"\x17\x03\x03\x00\x20" + SECRET * 2, b"\x16\x03\x01\x00\x02\x01\x00" + SECRET])
def test_what_nobody_understands_behind_records_is_hidden(first: bytes, dataplane: str) -> None:
    run = step(TLS, dataplane)
    run(frame(CLIENT, 0, b"", syn=True))
    result = run(frame(CLIENT, 1, first))
    assert SECRET[:4] not in payload(result)
    assert payload(run(frame(CLIENT, 1 + len(first), SECRET))) == bytes(len(SECRET))


def test_data_in_a_syn_count_from_the_number_behind_it(connections: list[Connection], dataplane: str) -> None:
    connection = connections[1]
    run, hello = step(TLS, dataplane), connection.streams[CLIENT]
    first = frame(CLIENT, 99, hello[:60], syn=True)  # RFC 7413
    assert payload(run(first)) == hello[:60]
    rest = run(frame(CLIENT, 160, hello[60:]))
    assert payload(rest) == hello[60 : connection.shown[CLIENT]].ljust(len(hello) - 60, b"\0")


def test_a_port_that_is_used_again_is_another_connection(connections: list[Connection], dataplane: str) -> None:
    one, other = connections[:2]
    run = begun(one, dataplane)
    for connection, origin in ((one, ORIGINS[CLIENT]), (other, 77_000_000)):
        run(frame(CLIENT, origin - 1, b"", syn=True))
        stream, shown = connection.streams[CLIENT], connection.shown[CLIENT]
        assert payload(run(frame(CLIENT, origin, stream))) == stream[:shown].ljust(len(stream), b"\0")
        run(frame(CLIENT, origin - 1, b"", syn=True))  # sent again
        assert payload(run(frame(CLIENT, origin, stream[:9]))) == stream[:9]


@pytest.mark.parametrize("tag", [Tag(0x8100, 5), Tag(0x88A8, 0)])
def test_networks_beside_each_other_may_use_the_same_addresses(
    connections: list[Connection], tag: Tag, dataplane: str
) -> None:
    connection = connections[0]
    run = begun(connection, dataplane)
    first = connection.segment(CLIENT, 0, 50)
    assert run(first).zeroed == 0
    elsewhere = run(first._replace(tag=tag))
    assert (elsewhere.zeroed, elsewhere.unfollowed) == (1, 1)
    assert run(connection.segment(CLIENT, 0, 50)).zeroed == 0


@pytest.mark.parametrize("length", [4, 5])
def test_the_checksum_of_a_packet_that_is_hidden_in_part_is_right(length: int, dataplane: str) -> None:
    run = step(TLS, dataplane)
    headers = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src="10.0.0.1", dst="10.0.0.2")
    run(_captured(headers / TCP(flags="S", seq=9)))
    hello = b"\x16\x03\x01\x00" + bytes([length]) + b"\x01\x00\x00\x01\x07"[:length]
    data = b"\x17\x03\x03\x00\x30" + SECRET * 2
    (copy,) = run(_captured(headers / TCP(flags="A", seq=10) / Raw(hello + data))).copies
    assert copy == bytes(headers / TCP(flags="A", seq=10) / Raw(hello + bytes(len(data))))


def _captured(packet: Packet) -> Frame:
    return Frame(bytes(packet), len(packet))


def test_what_is_far_behind_is_no_part_of_it(connections: list[Connection], dataplane: str) -> None:
    connection = connections[0]
    run = begun(connection, dataplane)
    run(connection.segment(CLIENT, 0, 40))
    for at in (1 << 31) + 50, 3 << 30, (1 << 32) - 30:
        result = run(frame(CLIENT, ORIGINS[CLIENT] + at, SECRET))
        assert (payload(result), result.unfollowed) == (bytes(len(SECRET)), 1), at


@pytest.mark.parametrize("gap", [False, True])
def test_numbers_that_come_again_show_nothing(connections: list[Connection], gap: bool, dataplane: str) -> None:
    connection = connections[0]
    run, stream = begun(connection, dataplane), connection.streams[CLIENT]
    run(connection.segment(CLIENT, 0, 40 if gap else len(stream)))
    for at in range(1 << 28, (1 << 32) + (1 << 29), 1 << 28):
        assert payload(run(frame(CLIENT, ORIGINS[CLIENT] + at, SECRET))) == bytes(len(SECRET))
    for at in (0, 1, 30):
        assert payload(run(frame(CLIENT, ORIGINS[CLIENT] + (1 << 32) + at, SECRET))) == bytes(len(SECRET))


def test_a_plain_stream_in_super_frames_is_kept(dataplane: str) -> None:
    run, whole, at = step(TLS, dataplane), bytes(1 << 20), 1
    run(frame(CLIENT, 0, b"", syn=True))
    for n in range(3):
        result = run(frame(CLIENT, at, whole)._replace(vnet=Vnet(0, 1, 54, 65535, 0, 0)))
        assert (result.reason, result.zeroed, result.unfollowed) == (None, 0, 0), n
        at += len(whole)


def test_padding_is_no_part_of_the_stream(connections: list[Connection], dataplane: str) -> None:
    connection = connections[0]
    run = begun(connection, dataplane)
    first = connection.segment(CLIENT, 0, 1)
    padded = first._replace(data=first.data.ljust(60, b"\xff"), length=60)
    assert run(padded).copies == [padded.data]
    rest = connection.segment(CLIENT, 1, 5000)
    assert payload(run(rest)) == connection.expected(CLIENT, 1, 5000)


@pytest.mark.parametrize("protocol", [17, 1, 132, 50])
def test_all_but_tcp_is_hidden(protocol: int, dataplane: str) -> None:
    """QUIC and DTLS are UDP; an ICMP error quotes what was said."""
    data = bytearray(frame(CLIENT, 5, SECRET * 3).data)
    data[23] = protocol
    result = step(TLS, dataplane)(Frame(bytes(data), len(data)))
    assert SECRET[-8:] not in payload(result)
    assert (result.zeroed, result.unfollowed) == (1, 0)


def test_a_fragment_of_tcp_is_hidden_and_a_gap(connections: list[Connection], dataplane: str) -> None:
    connection = connections[0]
    run = begun(connection, dataplane)
    data = bytearray(connection.segment(CLIENT, 0, 40).data)
    data[20:22] = b"\x20\x00"
    assert payload(run(Frame(bytes(data), len(data)))) == bytes(40)
    result = run(connection.segment(CLIENT, 40, 40))
    assert (payload(result), result.unfollowed) == (bytes(40), 1)


def test_the_connections_that_were_seen_last_are_followed(monkeypatch: pytest.MonkeyPatch, dataplane: str) -> None:
    most = 65536 if dataplane == "native" else 50
    monkeypatch.setattr("mirrord.dataplane.forward.connections.MOST", most)
    run = step(TLS, dataplane)

    def of(number: int, *, syn: bool = False) -> Frame:
        data = frame(CLIENT, 5 if syn else 6, b"" if syn else b"plain text", syn=syn).data
        return Frame(data[:26] + number.to_bytes(4, "big") + data[30:], len(data))

    for number in range(most):
        run(of(number, syn=True))
    assert payload(run(of(0))) == b"plain text"  # and so number 1 is the one that was seen longest ago
    run(of(most, syn=True))
    kept = [payload(run(of(number))) for number in (0, 1, 2, most)]
    assert kept == [b"plain text", bytes(10), b"plain text", b"plain text"]
