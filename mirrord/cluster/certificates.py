"""The certificate of this host for the store: loaded, and why it may not be taken, in words for people."""

from __future__ import annotations

import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from mirrord.cluster.errors import StoreError

CONSTRUCTED_0 = 0xA0  # X.690: a tag of the context, numbered 0
UTC_TIME = 0x17


def context(ca: str, certificate: str, key: str) -> ssl.SSLContext:
    """For TLS with the store. StoreError: a file cannot be used, which and why."""
    for name, path in (("ca", ca), ("certificate", certificate), ("key", key)):
        try:
            if path:
                Path(path).read_bytes()
        except OSError as error:
            raise StoreError("store_refused", f"{path}: {error.strerror}", name) from error
    try:
        made = ssl.create_default_context(cafile=ca or None)
    except ssl.SSLError as error:
        raise StoreError("store_refused", f"{ca}: it has no certificate that can be read", "ca") from error
    asked: list[str] = []

    def pass_phrase() -> str:
        asked.append(key)
        return ""

    try:
        if certificate:
            made.load_cert_chain(certificate, key or None, password=pass_phrase)
    except ssl.SSLError as error:
        if asked:
            why = f"{key}: the key has a pass phrase, and nobody is there to be asked for it: store it without one"
        elif error.reason == "KEY_VALUES_MISMATCH":
            why = f"{certificate} and {key} do not belong together: this is another certificate's key"
        else:
            why = f"{certificate} or {key} cannot be read as PEM ({error.reason or error})"
        raise StoreError("store_refused", why, "certificate") from error
    return made


def out_of_time(certificate: str) -> str:
    """What its dates are a reason for: "" if it is valid now, or cannot be read."""
    with suppress(OSError, ValueError, IndexError):
        first, last = _validity(ssl.PEM_cert_to_DER_cert(_first(Path(certificate).read_text())))
        now = datetime.now(UTC)
        if now > last:
            return f"{certificate} has expired, at {last:%Y-%m-%dT%H:%M:%SZ}"
        if now < first:
            return f"{certificate} is valid from {first:%Y-%m-%dT%H:%M:%SZ} on, and here it is {now:%Y-%m-%dT%H:%M:%SZ}"
    return ""


def _first(text: str) -> str:
    """The first certificate of a file, which is the host's own; those behind it have signed it."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    return text[text.index(begin) : text.index(end) + len(end)] + "\n"


def _validity(der: bytes) -> tuple[datetime, datetime]:
    """RFC 5280, 4.1: version, serial number, algorithm and issuer come before it."""
    _, inner, _ = _element(_element(der)[1])
    if inner[0] == CONSTRUCTED_0:
        inner = _element(inner)[2]
    for _ in ("serial number", "algorithm", "issuer"):
        inner = _element(inner)[2]
    both = _element(inner)[1]
    kind, first, rest = _element(both)
    other, last, _ = _element(rest)
    return _time(kind, first), _time(other, last)


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """The tag of the first element, what is in it, and what is behind it (X.690, 8.1)."""
    length, at = data[1], 2
    if length & 0x80:
        at += length & 0x7F
        length = int.from_bytes(data[2:at])
    return data[0], data[at : at + length], data[at + length :]


def _time(kind: int, value: bytes) -> datetime:
    text = value.decode("ascii")
    if kind == UTC_TIME:  # RFC 5280, 4.1.2.5.1: from 50 on it is the last century
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
