"""Names of VMs and containers, and of their NICs."""

from __future__ import annotations

import re
from typing import Annotated, Any

from mirrord.values.addresses import MAC
from mirrord.values.names import GLOB
from mirrord.values.written import TEXT, Between, Written, matching, same, unexpected

_GUEST = re.compile(r"[^\x00-\x1f\x7f/]{1,255}")
_CONTAINER = re.compile(r"[^\x00-\x1f\x7f/]{1,255}(/[^\x00-\x1f\x7f/]{1,255})?")


def _nic(value: object) -> int | str:
    """An index, a MAC address (in lower case from now on), or every NIC."""
    if isinstance(value, str) and (value == "*" or MAC.fullmatch(value)):
        return value.lower()
    try:
        return Between(0, 255).parse(value)
    except ValueError:
        raise unexpected('the index of a NIC, from 0 on, its MAC address, or "*"', value) from None


def _one_nic(value: object) -> int | str:
    if value == "*":
        raise unexpected("the index or the MAC address of one NIC", value)
    return _nic(value)


def _guest(value: object) -> str:
    if isinstance(value, str) and GLOB.search(value):
        raise unexpected("one name, not a pattern", value)
    return _guest_or_glob(value)


_guest_or_glob = matching(_GUEST, "a name or an id of at most 255 characters")
_NIC_SCHEMA: dict[str, Any] = {"anyOf": [{"type": "integer"}, TEXT]}
_LABEL = re.compile(r"[^\x00-\x1f\x7f=\s]{1,255}(=[^\x00-\x1f\x7f]{0,255})?")

Guest = Annotated[str, Written(_guest, same, TEXT)]
GuestOrGlob = Annotated[str, Written(_guest_or_glob, same, TEXT)]
Nic = Annotated[int | str, Written(_one_nic, same, _NIC_SCHEMA)]
Nics = Annotated[int | str, Written(_nic, same, _NIC_SCHEMA)]
Label = Annotated[str, Written(matching(_LABEL, 'a label: "app" or "app=web"'), same, TEXT)]
ContainerOrGlob = Annotated[
    str, Written(matching(_CONTAINER, "a name or an id of at most 255 characters, or namespace/pod"), same, TEXT)
]
_CONNECTION = re.compile(r"proc:|[a-z][a-z0-9+.-]*:[!-~]+")
Connection = Annotated[str, Written(matching(_CONNECTION, 'a URI of libvirt, or "proc:"'), same, TEXT)]
_ENGINE = re.compile(r"auto|podman|docker|/[^\0]{1,106}")
_engine = matching(_ENGINE, '"auto", "podman", "docker", or the path of a socket or directory')
Engine = Annotated[str, Written(_engine, same, TEXT)]
