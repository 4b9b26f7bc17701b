"""The connections of a stream that there are, those included whose handshake goes on: not too many at a time."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from mirrord.dataplane.transmit.queue import MOST_CLIENTS

if TYPE_CHECKING:
    from mirrord.dataplane.transmit.pcap_client import Client

MOST_AT_THE_DOOR = 2 * MOST_CLIENTS
"""Of those whose handshake goes on the oldest gives way to one that comes, of the address that has the most."""

ROOM_SECONDS = 1.0
"""How long those may take that are told to end."""


class Door:
    """On any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._there: dict[Client, str] = {}  # their addresses, in the order in which they came

    def enter(self, client: Client, address: str) -> None:
        """A connection is there, from this address."""
        with self._changed:
            self._there[client] = address

    def leave(self, client: Client) -> None:
        """It is over."""
        with self._changed:
            del self._there[client]
            self._changed.notify_all()

    def end_all(self) -> None:
        """Have all end soon."""
        with self._changed:
            for client in self._there:
                client.end()

    def wait_empty(self) -> None:
        """Until all have ended; a moment at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._there, ROOM_SECONDS)

    def make_room(self) -> bool:
        """Whether there is room for another one: if need be, one goes that has not shaken hands yet."""
        with self._changed:
            if len(self._there) < MOST_AT_THE_DOOR:
                return True
            waited_for = {client: address for client, address in self._there.items() if client.waited_for}
            crowds = Counter(waited_for.values())
            oldest = max(waited_for, key=lambda client: crowds[waited_for[client]], default=None)  # the first such one
            if oldest is None:
                return False
            oldest.end("it had not shaken hands when another one came")
            return self._changed.wait_for(lambda: len(self._there) < MOST_AT_THE_DOOR, ROOM_SECONDS)
