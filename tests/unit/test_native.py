"""A core that was built with other modules is not used, and it is said what to do."""

from __future__ import annotations

from types import SimpleNamespace

from mirrord import __version__
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.native import core, mismatch

SLOTS = tuple(slot.name for slot in Slot)


def test_a_core_tells_the_version_that_it_was_built_with() -> None:
    assert __version__ == core.VERSION
    assert mismatch(core) == ""


def test_a_core_of_another_version_is_refused() -> None:
    again = "install mirrord again"
    older = mismatch(SimpleNamespace(VERSION="0.0.9", SLOTS=SLOTS))
    assert older == f"the compiled core is of version 0.0.9, the rest of {__version__}: {again}"
    assert again in mismatch(SimpleNamespace(SLOTS=SLOTS))  # one that did not say
    assert again in mismatch(SimpleNamespace(VERSION=__version__, SLOTS=SLOTS[:-1]))
