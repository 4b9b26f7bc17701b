"""The API of a cluster, described as the daemon's is (OpenAPI 3.1): its paths, and the keys of its objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiohttp.web import AbstractResource

from mirrord import __version__
from mirrord.cluster.records import ClusterNetwork
from mirrord.control.http import openapi

ON_A_HOST = (
    *("DeviceSource", "BridgeSource", "ContainerSource", "DeviceDestination"),
    *("VxlanSource", "GeneveSource", "TzspSource", "GreSource", "ErspanSource"),
)
"""What is on a host for good: `host` names it. A VM is followed."""

HOST = {**openapi.TEXT, "description": "The host that it is on."}
VNI = {"type": "integer", "description": "Between the two halves, where it has two.", "readOnly": True}


def document(resources: Iterable[AbstractResource]) -> dict[str, Any]:
    """The description of these resources."""
    paths: dict[str, dict[str, Any]] = {}
    for one in resources:
        for route in one:
            if route.method != "HEAD":
                paths.setdefault(one.canonical, {})[route.method.lower()] = {"responses": {"default": _ANSWER}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "mirrord, a cluster", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": schemas()},
    }


_ANSWER = {"description": "As the daemon's own resource of this path."}


def schemas() -> dict[str, Any]:
    """Every object that goes in or out, by name."""
    found = openapi.schemas()
    for name in ON_A_HOST:
        found[name]["properties"]["host"] = HOST
    found["Session"]["properties"]["vni"] = VNI
    own = {name: found["FlowNetwork"]["properties"][name] for name in ("name", "origin", "warnings")}
    network = ClusterNetwork.model_json_schema()
    network["properties"]["vnis"]["default"] = str(ClusterNetwork.model_fields["vnis"].default)
    found["FlowNetwork"] = {**network, "properties": {**network["properties"], **own}}
    return found
