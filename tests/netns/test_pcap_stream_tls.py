"""Streams of packets over TLS: who gets them, and what is said where a certificate or a key is not what it should be.

client eth0 ---- nic [source]
"""

from __future__ import annotations

import socket
import ssl
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import MakeDaemon
from tests.support.captures import fields
from tests.support.certificates import Authority
from tests.support.send import send
from tests.support.streams import (
    FRAME,
    PORT,
    SHORT,
    Reader,
    client_and_source,
    configuration,
    running,
    up,
    why,
)
from tests.support.topology import Topology
from tests.support.wait import wait_for


def test_tls_lets_only_those_in_that_show_a_certificate(net: Topology, daemon: MakeDaemon, tmp_path: Path) -> None:
    client, source = client_and_source(net)
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "other")
    server, known, unknown = authority.issue("server"), authority.issue("known"), stranger.issue("unknown")
    tls = f'tls = {{ ca = "{authority.certificate}", certificate = "{server.certificate}", key = "{server.key}" }}'
    mirrord = daemon(source, configuration(f'listen = "10.0.0.2:{PORT}", allow = ["10.0.0.0/24"], {tls}'), up=False)
    openssl: list[str] = [
        "openssl",
        "s_client",
        "-quiet",
        "-connect",
        f"10.0.0.2:{PORT}",
        "-CAfile",
        str(authority.certificate),
    ]
    for credentials in ([], ["-cert", str(unknown.certificate), "-key", str(unknown.key)]):
        done = client.run(*openssl, *credentials, check=False)
        assert "alert" in done, done
    wait_for(lambda: mirrord.output().count("TLS: ") == 2, "it says so")
    assert why(mirrord).startswith("waiting: nobody")

    file = tmp_path / "tls.pcapng"
    command = " ".join([*openssl, "-cert", str(known.certificate), "-key", str(known.key), "-verify_return_error"])
    with running(client.spawn("sh", "-c", f"exec {command} >{file}")):
        wait_for(lambda: up(mirrord), "a client", 60)
        before = int(mirrord.metrics().total("mirrord_captured_frames_total"))
        send(client, "eth0", FRAME, 2000, 5000)
        wait_for(lambda: mirrord.metrics().total("mirrord_mirrored_frames_total") >= 2000, "they are mirrored")
        wait_for(lambda: mirrord.metrics().total("mirrord_queued_frames") == 0, "all is sent")
        wait_for(
            lambda: len([row for row in fields(file, "frame.len") if row == ["512"]]) == 2000, "whole, at the client"
        )
        metrics = mirrord.metrics()
    # The stream passes the source itself: its own segments and their answers are not mirrored again.
    assert metrics.total("mirrord_mirrored_frames_total") < 2000 + before + 20
    assert metrics.total("mirrord_skipped_frames_total", reason="own_copy") > 0
    assert "client gone" in mirrord.output()


@pytest.mark.parametrize("dataplane", ["native"])  # who listens is the same for both
def test_those_who_do_not_shake_hands_keep_nobody_out(net: Topology, daemon: MakeDaemon, tmp_path: Path) -> None:
    """Not who comes after them, nor a slow one of another address that came before."""
    client, source = client_and_source(net)
    client.ip("address add 10.0.0.3/24 dev eth0")
    authority = Authority(tmp_path)
    server, known = authority.issue("server", "IP:10.0.0.2"), authority.issue("known")
    tls = f'tls = {{ ca = "{authority.certificate}", certificate = "{server.certificate}", key = "{server.key}" }}'
    mirrord = daemon(source, configuration(f'listen = "10.0.0.2:{PORT}", format = "pcap", {tls}'), up=False)
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(known.certificate, known.key)

    def knock(address: str = "10.0.0.1") -> socket.socket:
        sock = client.open_socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.bind((address, 0))
        sock.settimeout(5)
        sock.connect(("10.0.0.2", PORT))
        return sock

    def enter(sock: socket.socket) -> Reader:
        secured = context.wrap_socket(sock, server_hostname="10.0.0.2")
        secured.settimeout(None)
        return Reader(secured)

    with ExitStack() as crowd:
        slow = knock("10.0.0.3")
        for _ in range(40):
            crowd.enter_context(knock())
        readers = [enter(knock()), enter(slow)]
        wait_for(lambda: mirrord.metrics().total("mirrord_stream_clients") == 2, "both are in")
        send(client, "eth0", SHORT, 3)
        wait_for(lambda: [one.packets[-3:] for one in readers] == [[SHORT] * 3] * 2, "their packets")
        wait_for(lambda: "it had not shaken hands when another one came" in mirrord.output(), "it says so")
    for reader in readers:
        reader.close()


@pytest.mark.parametrize("dataplane", ["native"])  # who listens is the same for both
def test_a_listener_says_what_it_lacks_and_serves_when_that_is_there(
    net: Topology, daemon: MakeDaemon, tmp_path: Path
) -> None:
    client, source = net.host("client"), net.host("source", ipv6=True)
    net.link(client, "eth0", source, "nic")
    authority = Authority(tmp_path)
    server, known = authority.issue("server", "IP:2001:db8::9"), authority.issue("known")
    key, certificate = Path(server.key), Path(server.certificate)
    right = {file: file.read_text() for file in (key, certificate)}
    key.unlink()
    tls = f'tls = {{ ca = "{authority.certificate}", certificate = "{certificate}", key = "{key}" }}'
    where = f"[2001:db8::9]:{PORT}"
    mirrord = daemon(source, configuration(f'listen = "{where}", format = "pcap", {tls}'), up=False)

    def says(text: str) -> None:
        wait_for(lambda: why(mirrord) == f"waiting: {text}", text)

    says(f"cannot listen on {where}: {key}: No such file or directory")
    key.write_text("nonsense")
    says(f"cannot listen on {where}: {key}: no private key in PEM, or with a pass phrase")
    key.write_text(Path(known.key).read_text())
    says(f"cannot listen on {where}: {key}: it is not the key of {certificate}")
    key.write_text(right[key])
    says(f"cannot listen on {where}: Cannot assign requested address")
    source.ip("address add 2001:db8::9/128 dev lo nodad")
    says(f"nobody is connected to {where}")

    def knock() -> socket.socket:
        sock = source.open_socket(socket.AF_INET6, socket.SOCK_STREAM)
        sock.connect(("2001:db8::9", PORT))
        return sock

    certificate.write_text("nonsense")
    knock().close()
    says(f"no client of {where} can be served: {certificate}: no certificate in PEM")
    certificate.write_text(right[certificate])
    knock().close()
    says(f"nobody is connected to {where}")

    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(known.certificate, known.key)

    def connected() -> Reader:
        reader = Reader(context.wrap_socket(knock(), server_hostname="2001:db8::9"))
        wait_for(lambda: up(mirrord), "a client", 60)
        return reader

    connected().close()
    says(f"nobody is connected to {where}")
    process = Path(f"/proc/{mirrord.pid}")
    before = [len(list((process / one).iterdir())) for one in ("fd", "task")]
    for n in range(100):
        sock = knock()
        if n % 4 == 0:
            context.wrap_socket(sock, server_hostname="2001:db8::9").close()
        sock.close()
    says(f"nobody is connected to {where}")
    wait_for(lambda: [len(list((process / one).iterdir())) for one in ("fd", "task")] <= before, "nothing is left")
    reader = connected()
    send(client, "eth0", SHORT, 3)
    wait_for(lambda: reader.packets[-3:] == [SHORT] * 3, "its packets")
    reader.close()


def test_a_collector_that_shows_another_name_gets_nothing(net: Topology, daemon: MakeDaemon, tmp_path: Path) -> None:
    client, source = client_and_source(net)
    authority = Authority(tmp_path)
    server, own = authority.issue("server", "DNS:sensor.example"), authority.issue("own")
    accept = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accept.load_cert_chain(server.certificate, server.key)
    accept.load_verify_locations(authority.certificate)
    accept.verify_mode = ssl.CERT_REQUIRED
    ca = tmp_path / "later.pem"
    pem = f'ca = "{ca}", certificate = "{own.certificate}", key = "{own.key}"'

    def tls(name: str) -> str:
        return configuration(
            f'remote = "127.0.0.1", port = {PORT}, format = "pcap", tls = {{ {pem}, server_name = "{name}" }}'
        )

    with source.open_socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", PORT))
        listener.listen()
        listener.settimeout(60)
        mirrord = daemon(source, tls("another.example"), up=False)
        lacking = f"waiting: cannot connect to 127.0.0.1:{PORT}: {ca}: No such file or directory"
        wait_for(lambda: why(mirrord) == lacking, "it says what it lacks, and bothers nobody")
        ca.write_bytes(authority.certificate.read_bytes())
        connection, _ = listener.accept()
        with pytest.raises(OSError, match="alert"):
            accept.wrap_socket(connection, server_side=True).recv(1)
        wait_for(lambda: "TLS: " in why(mirrord), "it says why")
        assert "not valid for 'another.example'" in why(mirrord)
        mirrord.file.write_text(mirrord.file.read_text().replace("another.example", "sensor.example"))
        mirrord.reload()
        while True:  # attempts of before the reload may wait here
            connection, _ = listener.accept()
            try:
                reader = Reader(accept.wrap_socket(connection, server_side=True))
                break
            except OSError:
                continue
    wait_for(lambda: up(mirrord), "a collector", 60)
    send(client, "eth0", SHORT, 3)
    wait_for(lambda: reader.packets == [SHORT] * 3, "its packets")
    reader.close()
