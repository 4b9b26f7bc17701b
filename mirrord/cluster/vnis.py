"""The VNIs between the halves of a cluster's sessions: which session has which, before and after a change. Pure.

A session that may go from one host to another has a VNI of its mirror's flow network, which it keeps for as long as it
is there and is called so. Each is a key of the store, which says whose it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mirrord.cluster import allocation, records
from mirrord.cluster.etcd import absent, put
from mirrord.cluster.keys import Keys
from mirrord.cluster.records import ClusterNetwork
from mirrord.cluster.validate import Objects
from mirrord.errors import Refused, some
from mirrord.model.validation import join

FREE = records.record({"session": ""})
"""Of a VNI that is held for a while after its session went."""


def with_vnis(keys: Keys, before: Objects, after: Objects, taken: Collection[str]) -> Objects:
    """The objects after a change with a VNI for each session that may need one; `taken` are the keys that are there.

    Refused: there is none left, or a flow network is to have fewer than its sessions have.
    """
    old = owners(keys, before)
    kept = {owner: key for key, owner in old.items()}
    used: set[str] = set()  # by mirrors that change; each flow network is one mirror's
    mirrors = {}
    for name, mirror in after["mirrors"].items():
        if before["mirrors"].get(name) is mirror and _same_network(before, after, name):
            mirrors[name] = mirror
            continue
        sessions = mirror.get("sessions")
        network = _network(after, mirror)
        if not isinstance(sessions, list) or not all(isinstance(one, dict) for one in sessions):
            mirrors[name] = mirror  # told by the validation
            continue
        found = []
        for session in sessions:
            plain = {key: value for key, value in session.items() if key != "vni"}
            model = records.examine_session(name, plain, "").model
            if model is None and session in _sessions(before, name):
                found.append(session)  # it cannot be read, and stays as it is
                used.add(f"{keys.vnis(mirror['flow_network'])}{session.get('vni')}" if network is not None else "")
                continue
            if network is not None and model is not None and model.travels:
                prefix = keys.vnis(mirror["flow_network"])
                said = f"{prefix}{session.get('vni')}"
                here = kept.get(f"{name}/{plain.get('name')}", "")
                key = next(
                    (one for one in (here, said) if one.startswith(prefix) and one in old and one not in used), ""
                )
                if not key and (free := _free(network, prefix, {*taken, *used, *old})) is not None:
                    key = f"{prefix}{free}"
                elif not key and session in _sessions(before, name):
                    found.append(session)  # somebody wrote it by hand: no reason to refuse a change of something else
                    continue
                elif not key:
                    why = f"all VNIs {network.vnis} are taken, or were a minute ago: widen the flow network's `vnis`"
                    raise Refused(why, f"flow_networks.{mirror['flow_network']}.vnis")
                used.add(key)
                plain["vni"] = int(key.removeprefix(prefix))
            found.append(plain)
        mirrors[name] = {**mirror, "sessions": found}
    made = {**after, "mirrors": mirrors}
    for name in after["flow_networks"]:
        _refuse_narrowed(keys, name, before, made)
    return made


def _refuse_narrowed(keys: Keys, name: str, before: Objects, after: Objects) -> None:
    """A session keeps its VNI. Whoever takes it out of a flow network's range expects that nobody uses it any more."""
    old, new = (_named(objects, name) for objects in (before, after))
    if old is None or new is None or new.vnis == old.vnis:
        return
    prefix = keys.vnis(name)
    used = {
        int(key.removeprefix(prefix)): owner for key, owner in owners(keys, after).items() if key.startswith(prefix)
    }
    gone = sorted(vni for vni in used if old.vnis.has(vni) and not new.vnis.has(vni))
    if gone:
        named = some([f"{used[vni]} ({vni})" for vni in gone])
        why = f"{new.vnis} leaves out the VNIs of sessions {named}: delete these first, or leave {gone[0]}"
        raise Refused(f"{why}{f' to {gone[-1]}' if gone[1:] else ''} in the range", join("flow_networks", name, "vnis"))


def changes(
    keys: Keys, before: Objects, after: Objects, lease: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The conditions and the operations by which the store follows: what is free now is held under the lease."""
    old, new = owners(keys, before), owners(keys, after)
    conditions = [absent(key) for key in new if key not in old]
    operations = [put(key, records.record({"session": owner})) for key, owner in new.items() if old.get(key) != owner]
    there = tuple(keys.vnis(network) for network in after["flow_networks"])
    operations += [put(key, FREE, lease) for key in old if key not in new and key.startswith(there)]
    return conditions, operations


def owners(keys: Keys, objects: Objects) -> dict[str, str]:
    """The sessions by the keys of their VNIs."""
    return {
        f"{keys.vnis(mirror['flow_network'])}{session['vni']}": f"{name}/{session['name']}"
        for name, mirror in objects["mirrors"].items()
        if mirror.get("flow_network") is not None
        for session in mirror.get("sessions", [])
        if "vni" in session
    }


def _network(objects: Objects, mirror: Mapping[str, Any]) -> ClusterNetwork | None:
    name = mirror.get("flow_network")
    return _named(objects, name) if isinstance(name, str) else None


def _named(objects: Objects, name: str) -> ClusterNetwork | None:
    said = objects["flow_networks"].get(name)
    model = None if said is None else records.examine_network(said, "").model
    return model if isinstance(model, ClusterNetwork) else None


def _sessions(objects: Objects, mirror: str) -> Sequence[Any]:
    found: Sequence[Any] = objects["mirrors"].get(mirror, {}).get("sessions", [])
    return found


def _same_network(before: Objects, after: Objects, mirror: str) -> bool:
    name = after["mirrors"][mirror].get("flow_network")
    return name is None or before["flow_networks"].get(name) is after["flow_networks"].get(name)


def _free(network: ClusterNetwork, prefix: str, taken: Collection[str]) -> int | None:
    ours = (key.removeprefix(prefix) for key in taken if key.startswith(prefix))
    free = allocation.free_vnis(network.vnis, {int(one) for one in ours if one.isdecimal()})
    return free[0] if free else None
