"""Which mirrors are to run by the time that it is: the configuration without those whose time is over. Pure."""

from __future__ import annotations

from mirrord import expiry
from mirrord.control.configuration.config import Loaded
from mirrord.expiry import Now
from mirrord.model import Config


def over(config: Config, now: Now) -> frozenset[str]:
    """The mirrors that are enabled, and whose time is over."""
    return frozenset(name for name, one in config.mirrors.items() if one.enabled and expiry.left(one.expires, now) <= 0)


def is_expired(loaded: Loaded, name: str, now: Now) -> bool:
    """Whether its time is what keeps a mirror from running. One of a file that says `enabled = false` is off anyway."""
    one = loaded.config.mirrors[name]
    return expiry.left(one.expires, now) <= 0 and (one.enabled or not loaded.origin("mirrors", name))


def expired(loaded: Loaded, now: Now) -> list[tuple[str, expiry.Value]]:
    """Every such mirror, and when its time was over."""
    mirrors = loaded.config.mirrors.items()
    return [(name, one.expires) for name, one in mirrors if one.expires and is_expired(loaded, name, now)]


class InForce:
    """Gives the configuration with the mirrors disabled whose time is over, and which these are.

    The same object as long as nothing of it changes: what was worked out from it is kept by that.
    """

    def __init__(self) -> None:
        self._config: Config | None = None
        self._given: tuple[frozenset[str], Config]

    def __call__(self, config: Config, now: Now) -> tuple[frozenset[str], Config]:
        ended = over(config, now)
        if config is not self._config or ended != self._given[0]:
            self._config, self._given = config, (ended, _without(config, ended) if ended else config)
        return self._given


def _without(config: Config, ended: frozenset[str]) -> Config:
    mirrors = {
        name: one.model_copy(update={"enabled": False}) if name in ended else one
        for name, one in config.mirrors.items()
    }
    return config.model_copy(update={"mirrors": mirrors})
