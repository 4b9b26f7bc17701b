"""The native core: the same way as the Python reference, at full speed, or the reason why it is not there."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mirrord import __version__
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.filter.assembler import pack
from mirrord.dataplane.filter.bpf import compile_selection

if TYPE_CHECKING:
    from array import array

    from mirrord.plans import ForwardPlan

__all__ = ["core", "matcher", "missing"]

core: Any = None
"""None where `missing` says why: nothing of a core that does not fit is used."""

missing = ""


def mismatch(found: Any) -> str:
    """Why this core does not go with these modules; "" where it does."""
    version = getattr(found, "VERSION", "none")
    if version != __version__:
        return f"the compiled core is of version {version}, the rest of {__version__}: install mirrord again"
    if tuple(slot.name for slot in Slot) != found.SLOTS:
        return "the compiled core counts other things than the rest: install mirrord again"
    return ""


try:
    core = import_module("mirrord.dataplane._native")
except ImportError as error:
    missing = f"the compiled core cannot be loaded: {error}"
else:
    missing = mismatch(core)
    if missing:
        core = None


def matcher(plan: ForwardPlan, matches: array[int] | None = None) -> tuple[bytes, array[int] | None] | None:
    """What the core runs where the plan wants an exact match: the selection as BPF, of any length.

    `matches`: where it counts the frames that each rule accepts, by the rule's place.
    """
    return None if plan.exact is None else (pack(compile_selection(plan.exact, numbered=True)), matches)
