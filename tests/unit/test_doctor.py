"""What doctor says of a host that no test can make: an old kernel, no compiled core."""

from __future__ import annotations

from mirrord.control.configuration.config import Files, Loaded
from mirrord.control.host.view import View
from mirrord.control.planning.finding import WARNING
from mirrord.control.reporting import doctor, probes
from mirrord.control.reporting.metrics import Reload
from mirrord.control.reporting.probes import ControlSocket, Host
from mirrord.model import Config, Daemon

GOOD = ControlSocket(0o660, "root")


def found(host: Host, **daemon: str) -> list[tuple[str, str]]:
    """Code and problem of each finding."""
    config = Config(daemon=Daemon.model_validate(daemon))
    loaded = Loaded(config, [], Files(""), {})
    findings = doctor.findings(loaded, Reload(), View(), [], host)
    assert all(one.severity == WARNING and one.remedy for one in findings)
    return [(one.code, one.problem) for one in findings]


def test_each_lack_of_the_host_is_a_warning() -> None:
    assert found(Host(control_socket=GOOD)) == []
    ((code, problem),) = found(Host(control_socket=GOOD, native_missing="no such file"))
    assert (code, problem.endswith(": no such file")) == ("no_native_core", True)
    assert found(Host(control_socket=GOOD, native_missing="no such file"), dataplane="python") == []
    lacking = found(Host(control_socket=GOOD, lacking=frozenset(probes.FEATURES)))
    assert lacking == [("no_kernel_feature", f"the kernel lacks {name}") for name in probes.FEATURES]
    ((code, problem),) = found(Host(control_socket=GOOD), socket_group="mirrord")
    assert (code, problem.endswith("group root, not to mirrord")) == ("socket_rights", True)
    assert found(Host(control_socket=GOOD), socket_group="root") == []
