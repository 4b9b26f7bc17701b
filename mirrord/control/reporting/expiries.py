"""What doctor has to say of mirrors whose time is over. Pure."""

from __future__ import annotations

from mirrord import expiry
from mirrord.control.configuration.config import Loaded
from mirrord.control.planning.finding import WARNING, Finding
from mirrord.control.planning.in_force import expired
from mirrord.expiry import Now


def findings(loaded: Loaded, now: Now, *, mirror: str | None = None) -> list[Finding]:
    """Of every mirror, or of the one named."""
    found = []
    for name, value in expired(loaded, now):
        file = loaded.origin("mirrors", name)
        if file:
            remedy = f"take it out of {file}, or give it a later time there; then mirrorctl reload"
        else:
            remedy = f"mirrorctl delete {name}, or mirrorctl set {name} --expires 2h and mirrorctl enable {name}"
        problem = f"the mirror does not run: its time was over at {expiry.show(value)}"
        if mirror in (None, name):
            found.append(Finding(WARNING, "expired", problem, remedy, name))
    return found
