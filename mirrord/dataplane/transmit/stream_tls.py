"""TLS of a stream's connections, by Python's ssl. Its files are read for each connection: renewed ones are taken up."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import socket
    import ssl

    from mirrord.plans import StreamEnd, TlsPlan


class NotNow(NamedTuple):
    """What a connection raises that would wait: for room, or for news."""

    room: tuple[type[OSError], ...] = (BlockingIOError,)
    news: tuple[type[OSError], ...] = ()


def not_now(plan: StreamEnd) -> NotNow:
    """Of such a connection."""
    if plan.tls is None:
        return NotNow()
    import ssl  # noqa: PLC0415 (20 ms, for those who need it)

    return NotNow((BlockingIOError, ssl.SSLWantWriteError), (ssl.SSLWantReadError,))


def secured(sock: socket.socket, plan: StreamEnd) -> socket.socket:
    """The connection, which with TLS begins by a handshake: see `shake_hands`. OSError, ssl's errors among them."""
    if plan.tls is None:
        return sock
    if plan.listens:
        return _server(plan.tls).wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
    name = plan.tls.server_name or str(plan.address)
    return _client(plan.tls).wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)


def shake_hands(sock: socket.socket) -> None:
    """The handshake of one that was `secured`, as far as it gets; OSError, of NotNow what it would wait for."""
    if do_handshake := getattr(sock, "do_handshake", None):
        do_handshake()


def unusable(plan: StreamEnd) -> str:
    """Why this side's own files are of no use, whoever is at the other; "" where they are."""
    if plan.tls is None:
        return ""
    try:
        (_server if plan.listens else _client)(plan.tls)
    except OSError as error:
        return words(error)
    return ""


def words(error: OSError) -> str:
    """Why a connection failed, in a few words."""
    told = getattr(error, "verify_message", "") or (getattr(error, "reason", None) or "").replace("_", " ").lower()
    if told:
        return f"TLS: {told}"
    reason = error.strerror or (os.strerror(error.errno) if error.errno else "") or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def _server(tls: TlsPlan) -> ssl.SSLContext:
    """Who connects shows a certificate of this authority, if one is named."""
    import ssl  # noqa: PLC0415 (as above)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, tls)
    if tls.ca:
        context.verify_mode = ssl.CERT_REQUIRED
        _trust(context, tls.ca)
    return context


def _client(tls: TlsPlan) -> ssl.SSLContext:
    """Whom it connects to shows a certificate for its name or address, of this authority or one the host trusts."""
    import ssl  # noqa: PLC0415 (as above)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls.ca:
        _trust(context, tls.ca)
    else:
        context.load_default_certs()
    if tls.certificate:
        _load(context, tls)
    return context


def _load(context: ssl.SSLContext, tls: TlsPlan) -> None:
    import ssl  # noqa: PLC0415 (as above)

    _trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), tls.certificate)  # ssl would not tell which of the two is wrong
    _require_readable(tls.key)
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=lambda: "")  # nobody is there to be asked for one
    except OSError as error:
        another = getattr(error, "reason", None) == "KEY_VALUES_MISMATCH"
        why = f"it is not the key of {tls.certificate}" if another else "no private key in PEM, or with a pass phrase"
        raise OSError(errno.EINVAL, why, tls.key) from None


def _trust(context: ssl.SSLContext, file: str) -> None:
    _require_readable(file)
    try:
        context.load_verify_locations(file)
    except OSError:
        raise OSError(errno.EINVAL, "no certificate in PEM", file) from None


def _require_readable(file: str) -> None:
    with open(file, "rb") as opened:  # noqa: PTH123 (a name in the error, as of the other modules)
        opened.read(1)
