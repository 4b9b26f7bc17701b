"""`agent.toml`: how this host belongs to a cluster."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path as File
from typing import Annotated, Literal

from pydantic import Field

from mirrord.cluster.allocation import CONFLICT
from mirrord.cluster.etcd import Access
from mirrord.control.configuration.toml import parsed
from mirrord.errors import ConfigError, Problem, nearest
from mirrord.model import Model
from mirrord.model.lines import line_of, places
from mirrord.model.validation import examine
from mirrord.values.names import Description, Device, Group, Name, Path, Socket, parse_name
from mirrord.values.ports import Endpoint, Listen
from mirrord.values.written import TEXT_OR_LIST, Written, one_or_more, shown_by, unexpected

DEFAULT_PATH = "/etc/mirrord/agent.toml"


def _endpoint(value: object) -> str:
    text = value.rstrip("/") if isinstance(value, str) else ""
    match = re.fullmatch(r"https?://(?:[^\s/?#@:\[\]]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})", text)
    if match and 0 < int(match[1]) < 1 << 16:
        return text
    raise unexpected('the address of a client port of etcd, such as "https://192.0.2.1:2379"', value)


def _prefix(value: object) -> str:
    text = value.rstrip("/") if isinstance(value, str) else ""
    if text.startswith("/") and "//" not in text and text.isprintable():
        return text
    raise unexpected('a prefix of keys that begins with a slash, such as "/mirrord"', value)


def parse_host(value: object) -> str:
    """A host's name in the cluster."""
    name = parse_name(value)
    if name == CONFLICT:
        raise ValueError(f"{CONFLICT!r} stands for addresses that something else has: choose another name")
    return name


def _same(text: str) -> str:
    return text


def _host_name() -> str:
    return socket.gethostname().partition(".")[0]


class Cluster(Model):
    """A host in its cluster."""

    endpoints: Annotated[tuple[str, ...], Written(one_or_more(_endpoint), shown_by(_same), TEXT_OR_LIST)]
    """The client ports of etcd's nodes, one or all of them; another one is asked where one does not answer. `http:` is
    for tests: whoever reads along could take the cluster over."""
    prefix: Annotated[str, Written(_prefix, _same, {"type": "string"})] = "/mirrord"
    """What the keys of this cluster begin with: several may share an etcd."""
    ca: Path | None = None
    """The certificate of who signed etcd's; left out: those that the host trusts."""
    certificate: Path | None = None
    """This host's certificate, for client authentication, with names in its SAN alone: etcd's gateway refuses those
    with a CommonName."""
    key: Path | None = None
    """The certificate's key."""
    username: Description = ""
    """The user in etcd whose roles say what this host may write; empty: etcd's authentication is off."""
    password_file: Path | None = None
    """The file that has its password."""
    host: Name = Field(default_factory=_host_name)
    """What this host is called in the cluster, once only; left out: its host name, up to the first dot."""
    devices: dict[Name, Device] = Field(default_factory=dict)
    """This host's device for each flow network. Where one is missing, sessions that need it wait, and say so."""
    daemon: Socket = "/run/mirrord/mirrord.sock"
    """The daemon's socket."""
    socket: Socket = "/run/mirrord/agent.sock"
    """The API for the whole cluster: HTTP and JSON on a unix socket of mode 0660."""
    socket_group: Group = ""
    """The group that may use `socket`; empty: the agent's own."""
    metrics: Listen = Endpoint("127.0.0.1", 9819)
    """Where Prometheus reads the agent's `/metrics`; empty turns it off."""
    state: Path = "/var/lib/mirrord/cluster.json"
    """What is known of the cluster, for a start without etcd."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe messages that are logged."""

    def _contradictions(self) -> Iterator[tuple[str, ...]]:
        if (self.certificate is None) != (self.key is None):
            yield "key" if self.key is None else "certificate", "certificate and key go together"
        if bool(self.username) != (self.password_file is not None):
            lacking = "password_file" if self.username else "username"
            yield lacking, "username and password_file go together"
        try:
            parse_host(self.host)
        except ValueError as error:
            yield "host", str(error)
        if self.socket == self.daemon:
            yield "socket", "must be another path than the daemon's"

    @property
    def access(self) -> Access:
        """How the store is asked."""
        return Access(
            self.endpoints,
            self.ca or "",
            self.certificate or "",
            self.key or "",
            self.username,
            self.password_file or "",
        )


def load(path: str) -> Cluster:
    """Read agent.toml. ConfigError with every problem in it."""
    try:
        data = File(path).read_bytes()
        table = parsed(data)
    except OSError as error:
        raise ConfigError([Problem("", f"cannot be read: {error.strerror}", path)]) from error
    except ValueError as error:
        raise ConfigError([Problem("", str(error), path)]) from error
    lines = places(data.decode("utf-8-sig"))
    problems = [Problem(key, f"unknown key{nearest(key, ['cluster'])}", path) for key in table if key != "cluster"]
    if "cluster" not in table:
        problems.append(Problem("cluster", "expected a table [cluster]: without it a host stands alone", path))
        raise ConfigError(problems)
    settings, found = examine(Cluster, table["cluster"], "cluster")
    problems += [Problem(one.path, one.expectation, path, line_of(lines, one.path)) for one in found]
    if problems:
        raise ConfigError(problems)
    assert isinstance(settings, Cluster)  # it has no problems
    return settings
