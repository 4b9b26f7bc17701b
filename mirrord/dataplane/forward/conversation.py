"""The conversation that a frame is part of: what is kept or left out whole.

A conversation is a TCP connection; of everything else, what two addresses say to each other by a protocol. Fragments
tell, but for those of TCP: only the first has ports. Later ones follow it. In IPv6 a later fragment does not even tell
its protocol where options stand before that; it follows its first one, too.
"""

from __future__ import annotations

from mirrord.dataplane.forward.fragments import Fragments
from mirrord.dataplane.frame.headers import IPV6_AUTHENTICATION, IPV6_FRAGMENT, IPV6_OPTIONS, Headers, pair_hash
from mirrord.protocols import IPPROTO_TCP

_UNTOLD = {4: (IPPROTO_TCP,), 6: (IPPROTO_TCP, *IPV6_OPTIONS, IPV6_FRAGMENT, IPV6_AUTHENTICATION)}
"""By family, what a later fragment may say that it is a part of, while only the first one tells the conversation."""


class Conversations:
    """The hash of each frame's conversation, for frames in the order in which they come."""

    def __init__(self) -> None:
        self._firsts = Fragments()

    def hash(self, headers: Headers) -> tuple[int, bool]:
        """64 bits, the same for both directions; and whether it is but a guess, by the addresses and what was divided.

        That is so for a later fragment which does not tell itself, and whose first one was not seen lately.
        """
        if headers.divided is None:
            return pair_hash(headers, ported=headers.protocol == IPPROTO_TCP), False
        guess = pair_hash(headers, ported=False)
        if headers.transport is not None:
            told = pair_hash(headers._replace(divided=None), ported=headers.protocol == IPPROTO_TCP)
            if told != guess:
                self._firsts.remember(headers, told)
            return told, False
        if headers.divided not in _UNTOLD[headers.family]:
            return guess, False
        found = self._firsts.recall(headers)
        return (guess, True) if found is None else (found, False)
