"""Where application data begin in what one end of a TCP connection sends, read in order, in pieces of any size.

A TLS record has a header of five bytes: its type, the version, and how many bytes follow (RFC 8446 5.1; RFC 5246
6.2.1). What is encrypted in TLS 1.3 calls itself application data, the later messages of the handshake too. In older
versions the last messages of the handshake are encrypted as what they are.

A stream that begins with a record is TLS. One that does not is watched for a hello, by which TLS begins after
STARTTLS, a proxy's CONNECT and the like: a handshake record with the first bytes of a ClientHello or a ServerHello.
A stream of records in which something else comes ends there: what nobody understands counts as application data.
"""

from __future__ import annotations

import re

HEADER = 5
HANDSHAKE, APPLICATION_DATA = 22, 23
TYPES = range(20, 25)  # change cipher spec, alert, handshake, application data, heartbeat
MAJOR, MINORS = 3, range(5)  # of the version: 3.0 is SSL 3
MOST_HIGH = 0x48  # high byte of the length: 2^14 and 2,048 bytes at most (RFC 5246 6.2.3)

HELLO = re.compile(rb"\x16\x03[\x00-\x04](?:\x00[\x02-\xff]|[\x01-\x48].)[\x01\x02]\x00", re.DOTALL)
"""A handshake record's header, the type of a hello, and the high byte of its length (RFC 8446 4)."""

HELLO_LENGTH = 7


class Stream:
    """What one end has sent so far."""

    def __init__(self) -> None:
        self._records = False  # it is TLS
        self._plain = False  # it did not begin as such
        self._left = 0  # bytes of the record at hand
        self._begun = b""  # the beginning of a header; of a plain stream, its last bytes, which may begin a hello

    def read(self, data: bytes) -> int | None:
        """How long ago the application data have begun, in bytes from the end of `data`, before which all that was read
        before may lie, too. None: they have not. Not to be asked again when they have.
        """
        while data:
            if self._plain:
                data = self._search(data)
            elif self._left:
                skipped = min(self._left, len(data))
                self._left -= skipped
                data = data[skipped:]
            else:
                before = len(self._begun)
                header = self._begun + data[: HEADER - before]
                data = data[len(header) - before :]
                self._begun = b""
                sound = _may_be(header)
                if self._records and (not sound or header[0] == APPLICATION_DATA):
                    return len(header) + len(data)
                if not sound:
                    self._plain = True
                    data = header + data
                elif len(header) < HEADER:
                    self._begun = header
                elif header[0] == APPLICATION_DATA:
                    return len(header) + len(data)
                else:
                    self._records = True
                    self._left = int.from_bytes(header[3:], "big")
        return None

    def _search(self, data: bytes) -> bytes:
        """What follows the header of the hello's record; nothing where there is no hello yet."""
        window = self._begun + data
        found = HELLO.search(window)
        if found is None:
            self._begun = window[-(HELLO_LENGTH - 1) :]
            return b""
        self._begun, self._plain, self._records = b"", False, True
        behind = found.start() + HEADER
        self._left = int.from_bytes(window[behind - 2 : behind], "big")
        return window[behind:]


def _may_be(header: bytes) -> bool:
    """Whether these bytes, or so many of them as there are, may be a record's header."""
    return (
        header[0] in TYPES
        and (len(header) < 2 or header[1] == MAJOR)
        and (len(header) < 3 or header[2] in MINORS)
        and (len(header) < 4 or header[3] <= MOST_HIGH)
    )
