"""What the store holds, as models: JSON objects with a `version`, and otherwise mirrord.toml's words.

A record that has another version, an unknown key or a wrong value is left out by the host that cannot read it, and
told in that host's status; all others are as if it were not there. So hosts of different versions may be in a cluster
while they are upgraded: what only the newer ones understand runs on these alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import Annotated, Any, NamedTuple
from uuid import uuid4

from mirrord.errors import Problem
from mirrord.model import Filter, Mirror, Model, Session, VmDestination
from mirrord.model.destinations import DeviceDestination
from mirrord.model.validation import Examined, examine, join
from mirrord.strict_json import parsed
from mirrord.values.addresses import Addresses, AnyAddress
from mirrord.values.names import Description, parse_name
from mirrord.values.written import Written, unexpected

VERSION = 1

RECEIVING = ".in"
"""What the destination half of a session has behind the session's name."""

SessionKey = tuple[str, str]
"""Mirror and session."""

_TEXT: dict[str, Any] = {"type": "string"}


class Vnis(NamedTuple):
    """VNIs from `first` to `last`, inclusive."""

    first: int
    last: int

    def has(self, vni: int) -> bool:
        """Whether it is one of them."""
        return self.first <= vni <= self.last

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


def parse_vnis(value: object) -> Vnis:
    """A range such as "5000-5999"."""
    if isinstance(value, Vnis):
        return value
    match = re.fullmatch(r"([0-9]{1,8})-([0-9]{1,8})", value) if isinstance(value, str) else None
    if match and 0 <= int(match[1]) <= int(match[2]) < 1 << 24:
        return Vnis(int(match[1]), int(match[2]))
    raise unexpected('a range of VNIs that ascends, below 16777216, such as "5000-5999"', value)


class ClusterNetwork(Model):
    """A flow network of the cluster: each host's device for it is in that host's agent.toml."""

    description: Description = ""
    """For people."""
    addresses: Addresses
    """A range, with the link's prefix length: each host that needs one takes an address of its own."""
    gateway: AnyAddress | None = None
    """The next hop to collectors that are not on the link."""
    vnis: Annotated[Vnis, Written(parse_vnis, str, _TEXT)] = Vnis(5000, 5999)
    """From which each session between two hosts has its own."""

    def _contradictions(self) -> Iterator[tuple[str, ...]]:
        if self.gateway is None:
            return
        if self.gateway not in self.addresses.network:
            yield "gateway", f"{self.gateway} is not in {self.addresses.network}"
        elif int(self.addresses.first) <= int(self.gateway) <= int(self.addresses.last):
            yield "gateway", f"{self.gateway} is one of the addresses"


class ClusterSession(NamedTuple):
    """A session, the hosts that its ends are on where these are named, and the VNI between the two halves.

    `written` is the session as it was written, in the daemon's words.
    """

    mirror: str
    session: Session
    written: Mapping[str, Any]
    source_host: str | None = None
    destination_host: str | None = None
    vni: int | None = None

    @property
    def name(self) -> str:
        return self.session.name

    @property
    def key(self) -> SessionKey:
        return self.mirror, self.session.name

    @property
    def travels(self) -> bool:
        """Whether the copies may go to another host of the cluster: to a VM, or a device of a host that is named."""
        end = self.session.destination
        return isinstance(end, VmDestination) or (
            isinstance(end, DeviceDestination) and self.destination_host is not None
        )


class End(NamedTuple):
    """Where a destination is: at this address of a host; "": there no more. The last one written counts, by the store's
    `revision`: hosts' clocks may differ.

    `stale`: the host's lease has expired. It says nothing of the mirror: what was known last holds.
    """

    host: str
    address: str
    revision: int
    stale: bool = False
    vni: int | None = None  # a session that was renamed is known by it


# --- reading ---


def read(text: str, path: str) -> tuple[dict[str, Any], list[Problem]]:
    """What a record says without its version; {} and the problems of one that this agent cannot read."""
    try:
        written = parsed(text)
    except ValueError as error:
        return {}, [Problem(path, f"the record is not JSON: {error}")]
    if not isinstance(written, dict):
        return {}, [Problem(path, str(unexpected("an object", written)))]
    version = written.pop("version", None)
    if version != VERSION or isinstance(version, bool):
        why = f"the record has version {version!r}, and this agent reads version {VERSION}: upgrade it"
        return {}, [Problem(join(path, "version"), why)]
    return written, []


def record(written: Mapping[str, Any]) -> str:
    """A record of the store."""
    return json.dumps({"version": VERSION, **written}, separators=(",", ":"), ensure_ascii=False)


def guard(host: str) -> str:
    """The record of who has changed the configuration, of which no two are the same."""
    return record({"by": host, "change": uuid4().hex})


def examine_names(names: Iterable[str], path: str) -> list[Problem]:
    """What is wrong with the names in a record's key."""
    problems = []
    for name in names:
        try:
            parse_name(name)
        except ValueError as error:
            problems.append(Problem(path, str(error)))
    return problems


def examine_network(written: object, path: str) -> Examined:
    return examine(ClusterNetwork, written, path)


def examine_filter(written: object, path: str) -> Examined:
    return examine(Filter, written, path)


def examine_mirror(written: Mapping[str, Any], path: str) -> Examined:
    """A mirror without its sessions, each of which is a record of its own."""
    return examine(Mirror, {key: value for key, value in written.items() if key != "sessions"}, path)


def examine_session(mirror: str, written: object, path: str) -> Examined:
    """A session with the hosts of its ends."""
    if not isinstance(written, dict):
        return Examined(None, [Problem(path, str(unexpected("an object", written)))])
    plain, hosts, problems = dict(written), {}, list[Problem]()
    vni = plain.pop("vni", None)
    if not (vni is None or (isinstance(vni, int) and not isinstance(vni, bool) and 0 <= vni < 1 << 24)):
        problems.append(Problem(join(path, "vni"), str(unexpected("a VNI", vni))))
    for side in ("source", "destination"):
        end = plain.get(side)
        if isinstance(end, dict) and "host" in end:
            plain[side] = {key: value for key, value in end.items() if key != "host"}
            hosts[side], more = _host(end, join(path, side))
            problems += more
    model, more = examine(Session, plain, path)
    problems += more
    if str(plain.get("name", "")).endswith(RECEIVING) or len(str(plain.get("name", ""))) > 60:
        why = f"in a cluster a session's name has at most 60 letters, and does not end in {RECEIVING}"
        problems.append(Problem(join(path, "name"), why))
    if model is None or problems:
        return Examined(None, problems)
    return Examined(ClusterSession(mirror, model, plain, hosts.get("source"), hosts.get("destination"), vni), [])


def _host(end: Mapping[str, Any], path: str) -> tuple[str | None, list[Problem]]:
    kind = end.get("type", "device")
    if kind == "vm":
        why = "a VM is followed to whichever host it runs on: leave `host` out"
        return None, [Problem(join(path, "host"), why)]
    if path.endswith("destination") and kind != "device":
        return None, [Problem(join(path, "host"), f"a {kind} destination is reached from every host: leave `host` out")]
    try:
        return parse_name(end["host"]), []
    except ValueError as error:
        return None, [Problem(join(path, "host"), str(error))]


def read_end(host: str, text: str, revision: int) -> End | None:
    """None for a record that cannot be read: another end that can be holds then."""
    written, problems = read(text, f"ends.{host}")
    address, vni = written.get("address"), written.get("vni")
    if problems or not isinstance(address, str) or not _address(address) or not (vni is None or isinstance(vni, int)):
        return None
    return End(host, address, revision, vni=vni)


def _address(text: str) -> bool:
    """Whether it is one, or "" for none."""
    try:
        return not text or bool(ip_address(text))
    except ValueError:
        return False
