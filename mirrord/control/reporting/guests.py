"""What doctor has to say of the guests that sessions name. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from mirrord.control.guests.inventory import Inventory
from mirrord.control.planning.finding import WARNING, Finding
from mirrord.control.planning.guests import answers, matching
from mirrord.model import Config, Session, VmDestination, VmSource


def findings(config: Config, inventory: Inventory, *, mirror: str | None = None) -> list[Finding]:
    """Of every enabled mirror, or of the one named."""
    found = [
        one._replace(mirror=name, session=session.name)
        for name, each in config.mirrors.items()
        if each.enabled and mirror in (None, name)
        for session in each.sessions
        for one in _about(session, inventory)
    ]
    return list(dict.fromkeys(found))


def _about(session: Session, inventory: Inventory) -> Iterator[Finding]:
    for end in (session.source, session.destination):
        told = answers(end, inventory)
        problems = [answer.problem for answer in told if answer.problem]
        if problems and len(problems) == len(told):
            problem = f"guests are not followed, the last answer holds: {'; '.join(problems)}"
            yield Finding(WARNING, "guests_unknown", problem, "see to the manager and to the right to ask it")
        if isinstance(end, VmSource | VmDestination) and isinstance(end.nic, int):
            for guest in matching(end, told):
                yield from _by_index(guest.name, end.nic, [nic.mac for nic in guest.nics])


def _by_index(vm: str, index: int, macs: list[str]) -> Iterator[Finding]:
    if len(macs) > 1 and index < len(macs) and macs[index]:
        problem = f"NIC {index} of {vm} is named by its index, which moves when a NIC before it is unplugged"
        yield Finding(
            WARNING, "nic_by_index", problem, f'name it by its MAC address, which lasts: nic = "{macs[index]}"'
        )
