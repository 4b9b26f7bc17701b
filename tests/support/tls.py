"""TLS conversations as OpenSSL has them, in pieces as its ends hand them to TCP; and TCP frames of any such pieces."""

from __future__ import annotations

import socket
import ssl
import struct
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from mirrord.dataplane.frame.wire import Frame

CLIENT, SERVER = 0, 1
PORTS = 40000, 443
HEADERS = 14 + 20 + 20
SECRET = b"the eagle lands at dawn "
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Piece(NamedTuple):
    """What an end hands to TCP at a time."""

    sender: int
    data: bytes


def certificate(directory: Path) -> tuple[Path, Path]:
    """A key and a certificate, made by openssl."""
    key, chain = directory / "key.pem", directory / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=mirrored.example",
         "-keyout", key, "-out", chain],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, chain


@cache
def _contexts(version: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    client, server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    with TemporaryDirectory() as directory:
        key, chain = certificate(Path(directory))
        server.load_cert_chain(chain, key)
    for context in (client, server):
        context.minimum_version = context.maximum_version = VERSIONS[version]
    return client, server


def conversation(version: str, *requests: bytes, before: tuple[Piece, ...] = ()) -> list[Piece]:
    """A handshake, then each request and the same as its answer, then the end; `before` is said in the clear."""
    contexts = _contexts(version)
    inputs, outputs = [ssl.MemoryBIO(), ssl.MemoryBIO()], [ssl.MemoryBIO(), ssl.MemoryBIO()]
    ends = [
        contexts[end].wrap_bio(
            inputs[end], outputs[end], server_side=end == SERVER, server_hostname="x.example" if end == CLIENT else None
        )
        for end in (CLIENT, SERVER)
    ]
    said = list(before)

    def carry(sender: int) -> None:
        if data := outputs[sender].read():
            said.append(Piece(sender, data))
            inputs[1 - sender].write(data)

    for _ in range(4):
        for end in (CLIENT, SERVER):
            with suppress(ssl.SSLWantReadError):
                ends[end].do_handshake()
            carry(end)
    for request in requests:
        for end in (CLIENT, SERVER):
            ends[end].write(request)
            carry(end)
    return said


def streams(said: list[Piece]) -> tuple[bytes, bytes]:
    """All that each end sent."""
    client, server = (b"".join(piece.data for piece in said if piece.sender == end) for end in (CLIENT, SERVER))
    return client, server


def data_begin(stream: bytes, at: int = 0) -> int:
    """Where the first record of application data is, in records from `at` on (RFC 8446 5.1)."""
    while stream[at] != 23:
        at += 5 + int.from_bytes(stream[at + 3 : at + 5], "big")
    return at


def frame(sender: int, number: int, data: bytes, *, syn: bool = False, **more: object) -> Frame:
    """A segment of that end's, in its Ethernet frame. No checksums."""
    addresses = socket.inet_aton("10.0.0.1"), socket.inet_aton("10.0.0.2")
    ethernet = bytes.fromhex("020000000002020000000001" if sender == CLIENT else "020000000001020000000002") + b"\x08\0"
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 40 + len(data) & 0xFFFF, 1, 0x4000, 64, 6, 0)
    ports = PORTS[sender], PORTS[1 - sender]
    flags = 0x5002 if syn and sender == CLIENT else 0x5012 if syn else 0x5010
    tcp = struct.pack("!HHIIHHHH", *ports, number & 0xFFFFFFFF, 7, flags, 512, 0, 0)
    whole = ethernet + ip + addresses[sender] + addresses[1 - sender] + tcp + data
    return Frame(whole, len(whole))._replace(**more)  # type: ignore[arg-type]
