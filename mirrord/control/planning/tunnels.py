"""The tunnels of all sessions, whose packets are copies already: what the data plane is to know them by."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from mirrord import model
from mirrord.dataplane.forward.own_copies import NO_GUARDS, Guard, Guards, Word, by_erspan, by_gre, by_port, by_vni
from mirrord.protocols import ETH_P_ERSPAN, ETH_P_ERSPAN_III, ETH_P_TEB, IPPROTO_GRE, IPPROTO_TCP, IPPROTO_UDP


class Tunnels:
    """Gives the guards of one configuration after the other: a session that is there as before is not looked at."""

    def __init__(self) -> None:
        self._sessions: dict[int, model.Session] = {}  # by their identity: they never change
        self._users: dict[Guard, int] = {}  # how many sessions have it
        self._guards = NO_GUARDS

    def __call__(self, config: model.Config) -> Guards:
        """The tunnels of every configured destination and listener, of disabled mirrors too; the same object as long as
        none comes or goes.
        """
        before, now = self._sessions, {id(one): one for of in config.mirrors.values() for one in of.sessions}
        known = len(self._users)
        for one in [one for key, one in now.items() if key not in before]:
            for guard in set(_tunnels_of(one)):
                self._users[guard] = self._users.get(guard, 0) + 1
        changed = len(self._users) > known
        for one in [one for key, one in before.items() if key not in now]:
            for guard in set(_tunnels_of(one)):
                self._users[guard] -= 1
                if not self._users[guard]:
                    del self._users[guard]
                    changed = True
        self._sessions = now
        if changed:
            self._guards = Guards(self._users)
        return self._guards


def _tunnels_of(session: model.Session) -> Iterator[Guard]:
    to, source = session.destination, session.source
    match to:
        case model.VxlanDestination() | model.GeneveDestination():
            for remote in to.remote:
                for vni in _both(to.vni, to.vni_egress):
                    yield Guard(remote, IPPROTO_UDP, to.port, by_vni(vni))
        case model.GreDestination():
            for remote in to.remote:
                for key in _both(to.key, to.key_egress):
                    yield from (Guard(remote, IPPROTO_GRE, None, words) for words in by_gre(ETH_P_TEB, key))
        case model.PcapDestination():
            address, port = to.end
            yield from (Guard(ip_address(address), IPPROTO_TCP, None, words) for words in by_port(port))
        case model.ErspanDestination():
            protocol = ETH_P_ERSPAN_III if to.erspan_type == "III" else ETH_P_ERSPAN
            for remote in to.remote:
                for number in _both(None if to.erspan_type == "I" else to.session_id, to.session_id_egress):
                    yield Guard(remote, IPPROTO_GRE, None, by_erspan(protocol, number))
    match source:
        case model.TzspSource():
            yield Guard(source.local, IPPROTO_UDP, source.port, ())
        case model.VxlanSource() | model.GeneveSource():
            yield Guard(source.local, IPPROTO_UDP, source.port, by_vni(source.vni))
        case model.GreSource():
            taken = by_gre(ETH_P_TEB, source.key, any_key=source.key is None)
            yield from (Guard(source.local, IPPROTO_GRE, None, words) for words in taken)
        case model.ErspanSource():
            yield from (Guard(source.local, IPPROTO_GRE, None, words) for words in _erspan_taken(source.session_id))


def _both(number: int | None, egress: int | None) -> tuple[int | None, ...]:
    """The numbers that a session's copies have."""
    return (number,) if egress in (None, number) else (number, egress)


def _erspan_taken(session: int | None) -> Iterator[tuple[Word, ...]]:
    for protocol in (ETH_P_ERSPAN, ETH_P_ERSPAN_III):
        if session is None:
            yield from by_gre(protocol, None, any_key=True)
        else:
            yield by_erspan(protocol, session)
