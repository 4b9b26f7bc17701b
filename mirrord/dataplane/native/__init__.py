"""The native core: the same way as the Python reference, at full speed, or the reason why it is not there."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from mirrord import __version__
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.filter.assembler import pack
from mirrord.dataplane.filter.bpf import compile_selection
from mirrord.dataplane.forward.encap import Field
from mirrord.dataplane.native import self_test
from mirrord.plans import OnMtuExceeded, Payload, Tunnel

if TYPE_CHECKING:
    from array import array

    from mirrord.dataplane.filter.rules import Selection
    from mirrord.plans import ForwardPlan

__all__ = ["Matcher", "NativeMember", "core", "foresee", "matcher", "missing"]


def mismatch(found: Any) -> str:
    """Why this core does not go with these modules; "" where it does."""
    version = getattr(found, "VERSION", "none")
    if version != __version__:
        return f"the compiled core is of version {version}, the rest of {__version__}: install mirrord again"
    for enumeration in (Slot, OnMtuExceeded, Payload, Field, Tunnel):
        numbers = {member.name: int(member) for member in enumeration}
        if getattr(found, "ENUMERATIONS", {}).get(enumeration.__name__) != numbers:
            return f"the compiled core numbers {enumeration.__name__} otherwise than the rest: install mirrord again"
    wrong = self_test.run(found)
    return f"the compiled core fails its self-test ({wrong}): install mirrord again" if wrong else ""


def _load() -> tuple[Any, str]:
    try:
        found = import_module("mirrord.dataplane._native")
    except ImportError as error:
        return None, f"the compiled core cannot be loaded: {error}"
    wrong = mismatch(found)
    return (None, wrong) if wrong else (found, "")


missing: str
"""Why `core` is None; "" where it is there. Nothing of a core that does not fit is used."""

if TYPE_CHECKING:
    from mirrord.dataplane import _native as core
else:
    core, missing = _load()


class Matcher(NamedTuple):
    """What the core runs where the plan wants an exact match: programs, packed, b"" for none."""

    program: bytes  # of the frame
    inside: bytes  # of the frame in a tunnel's packet
    counts: array[int] | None  # where the frames that each rule accepts are counted, by the rule's place


class NativeMember(NamedTuple):
    """Whom a tap gives frames that were captured from `since` on and before `until`, nanoseconds since 1970."""

    pipeline: core.Pipeline | None
    since: int
    until: int


def matcher(plan: ForwardPlan, counts: array[int] | None = None) -> Matcher | None:
    """The plan's exact selections as BPF, of any length; None where it has none."""
    inside = None if plan.inside is None else plan.inside.selection
    if plan.exact is None and inside is None:
        return None
    return Matcher(_program(plan.exact), _program(inside), counts)


def foresee(plan: ForwardPlan) -> None:
    """Make the program that only this plan's frames in tunnels take: it is kept till then, and may take long."""
    if plan.inside is not None:
        _program(plan.inside.selection)


def _program(selection: Selection | None) -> bytes:
    return b"" if selection is None else pack(compile_selection(selection, numbered=True))
