"""The vocabulary: what a configuration, a state database and the API may say. No I/O, nothing about the host.

Every model is frozen, refuses unknown keys and contradictions, and gives back the same vocabulary with
`model_dump(mode="json")`, which validates again to an equal model. What depends on more than one object (a name that
must exist, two users of one device) is in control/configuration/refusals.py.

The text below a field is what the configuration reference says of it.
"""

from mirrord.model.base import Contradiction, ContradictionError, Model, repeated
from mirrord.model.daemon import Daemon
from mirrord.model.destinations import (
    Destination,
    DeviceDestination,
    ErspanDestination,
    FileDestination,
    GeneveDestination,
    GreDestination,
    PcapDestination,
    RetaggedDestination,
    SpanDestination,
    TaggedDestination,
    Tls,
    TunnelDestination,
    VmDestination,
    VxlanDestination,
)
from mirrord.model.filters import Filter, Rule
from mirrord.model.flows import FlowLimit
from mirrord.model.mirrors import Config, FlowNetwork, Mirror, Session
from mirrord.model.sources import (
    BridgeSource,
    CapturedSource,
    ContainerSource,
    DeviceSource,
    ErspanSource,
    GeneveSource,
    GreSource,
    GuestSource,
    Source,
    TunnelSource,
    TzspSource,
    VmSource,
    VxlanSource,
)

__all__ = [
    "BridgeSource",
    "CapturedSource",
    "Config",
    "ContainerSource",
    "Contradiction",
    "ContradictionError",
    "Daemon",
    "Destination",
    "DeviceDestination",
    "DeviceSource",
    "ErspanDestination",
    "ErspanSource",
    "FileDestination",
    "Filter",
    "FlowLimit",
    "FlowNetwork",
    "GeneveDestination",
    "GeneveSource",
    "GreDestination",
    "GreSource",
    "GuestSource",
    "Mirror",
    "Model",
    "PcapDestination",
    "RetaggedDestination",
    "Rule",
    "Session",
    "Source",
    "SpanDestination",
    "TaggedDestination",
    "Tls",
    "TunnelDestination",
    "TunnelSource",
    "TzspSource",
    "VmDestination",
    "VmSource",
    "VxlanDestination",
    "VxlanSource",
    "repeated",
]
