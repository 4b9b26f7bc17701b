"""What people type wrong, in files, on the command line, to the API: what they are told, where it is, what to do.

Each row is the input, where the fault is, and the words that help.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mirrord.control.configuration import config
from mirrord.errors import ConfigError
from tests.conftest import MakeDaemon
from tests.support.api import Api
from tests.support.ctl import invoke
from tests.support.daemon import Daemon
from tests.support.topology import Topology

VXLAN = '{ type = "vxlan", remote = "192.0.2.1", vni = 1 }'


def session(more: str = "", source: str = '"eth0"', destination: str = VXLAN) -> str:
    """A file of one session; its source is on line 3, its destination on line 4, more on line 5."""
    return f'[[mirrors.m.sessions]]\nname = "s"\nsource = {source}\ndestination = {destination}\n{more}\n'


def vxlan(text: str) -> str:
    return session(destination=f'{{ type = "vxlan", {text} }}')


def to(text: str) -> str:
    return session(destination=f"{{ {text} }}")


def rule(text: str) -> str:
    return f'[filters.f]\nrules = [\n  {{ priority = 1, action = "accept", {text} }},\n]\n'


S, D, R, N = "mirrors.m.sessions[0]", "mirrors.m.sessions[0].destination", "filters.f.rules[0]", "flow_networks.n"
DEVICE = '[flow_networks.n]\ndevice = "em0"\n'
FILES: list[tuple[str | bytes, int, str, str]] = [
    # --- what was typed, its line, the path, the words
    ("[deamon]\n", 1, "deamon", "unknown key; did you mean 'daemon'?"),
    ("[mirror.m]\n", 1, "mirror", "unknown key; did you mean 'mirrors'?"),
    ('[[sessions]]\nname = "s"\n', 1, "sessions", "unknown key"),
    ("[daemon]\nsocket = 5\n", 2, "daemon.socket", "expected an absolute path"),
    ('[daemon]\nlog_level = "verbose"\n', 2, "daemon.log_level", "expected 'debug', 'info', 'warning' or 'error'"),
    ('[daemon]\nmetrics = ":9817"\n', 2, "daemon.metrics", 'such as "127.0.0.1:9817"'),
    ('[daemon]\nstate = "state.db"\n', 2, "daemon.state", "expected an absolute path"),
    ("[daemon]\nmark = 0x20000000\n", 2, "daemon.mark", "has bits outside mark_mask 0x10000000"),
    ('[daemon]\nread_only_group = "adm"\n', 2, "daemon.read_only_group", "there is no read_only_socket for it"),
    ('[daemon]\nring_size = "8 megabytes"\n', 2, "daemon.ring_size", 'a size such as "8MiB"'),
    ('[daemon]\ninclude = "conf.d"\n', 2, "daemon.include", "expected a list, not 'conf.d'"),
    ("mirrors = 5\n", 1, "mirrors", "expected a table, not 5"),
    ('[mirrors."a b"]\n', 1, 'mirrors."a b"', "expected a name: 1 to 63 letters"),
    ('[mirrors.m]\nenabled = "yes"\n', 2, "mirrors.m.enabled", "expected true or false"),
    ("[mirrors.m]\nenabled = 1\n", 2, "mirrors.m.enabled", "expected true or false, not 1"),
    ("[mirrors.m]\ndescription = 2024-01-01\n", 2, "mirrors.m.description", "1024 characters, not 2024-01-01"),
    ("[mirrors.m]\ndescription = true\n", 2, "mirrors.m.description", "not true"),
    ('[mirrors.m]\nflow_network = "capture"\n', 2, "mirrors.m.flow_network", "there is no flow network 'capture'"),
    ('[mirrors.m]\noverlap = "frist"\n', 2, "mirrors.m.overlap", "did you mean 'first'?"),
    (session("snaplen = -1"), 5, f"{S}.snaplen", "a whole number from 0 to"),
    (session('snaplen = "full"'), 5, f"{S}.snaplen", "a whole number from 0 to"),
    (session("sampling_rate = 0.1"), 5, f"{S}.sampling_rate", "a whole number from 1 to"),
    (session('rate_limit = "200 Mb/s"'), 5, f"{S}.rate_limit", 'a rate such as "200Mbit"'),
    (session('rate = "200Mbit"'), 5, f"{S}.rate", "did you mean 'rate_limit'?"),
    (session('direction = "rx"'), 5, f"{S}.direction", "did you mean 'ingress'?"),
    (session('on_mtu_exceeded = "trunc"'), 5, f"{S}.on_mtu_exceeded", "did you mean 'truncate'?"),
    (session('filter = "web"'), 5, f"{S}.filter", "there is no filter 'web'"),
    (session("count_rules = true"), 5, f"{S}.count_rules", "needs a filter"),
    (session('pause_above = "180%"'), 5, f"{S}.pause_above", 'a share such as "80%"'),
    (session("gso = true"), 5, f"{S}.gso", "expected 'auto', 'on' or 'off', not true; did you mean 'on'?"),
    (session(source='["eth0", "eth1"]'), 3, f"{S}.source", 'several devices: { type = "device", device = [...] }'),
    (session(source='{ type = "nic", device = "eth0" }'), 3, f"{S}.source.type", "did you mean 'device'?"),
    (session(source='{ type = "device", interface = "a" }'), 3, f"{S}.source.interface", "did you mean 'device'?"),
    (session(source='"a-name-that-is-too-long"'), 3, f"{S}.source.device", "at most 15 bytes"),
    (session(source='{ type = "device", device = "a", vlan = 5000 }'), 3, f"{S}.source.vlan", "from 1 to 4094"),
    (to('type = "VXLAN"'), 4, f"{D}.type", "did you mean 'vxlan'?"),
    (to('type = "file", path = "/var/lib/mirrord/captures/x/"'), 4, f"{D}.path", "x/ is a directory"),
    (to(f'type = "file", path = "/var/lib/mirrord/captures/{"x" * 213}"'), 4, f"{D}.path", "of at most 212 bytes"),
    (session('direction = "both"', '{ type = "vxlan", local = "0.0.0.0" }'), 5, f"{S}.direction", 'must be "ingress"'),
    (session('direction = "ingress"', '{ type = "bridge", bridge = "b" }'), 5, f"{S}.direction", 'must be "both"'),
    (session(destination='"192.0.2.1"'), 4, D, "expected a table whose type is one of device, "),
    (vxlan('remote = "192.0.2.1"'), 4, f"{D}.vni", "this key is required"),
    (vxlan('remote = "collector.example", vni = 1'), 4, f"{D}.remote", "names are not looked up"),
    (vxlan('remote = "192.0.2.1:4789", vni = 1'), 4, f"{D}.remote", "a port has a key of its own"),
    (vxlan('remote = "224.0.0.1", vni = 1'), 4, f"{D}.remote", "is a multicast group of the link itself"),
    (vxlan('remote = "ff02::1", vni = 1'), 4, f"{D}.remote", "is a multicast group of the link itself"),
    (vxlan('remote = "0.0.0.0", vni = 1'), 4, f"{D}.remote", "is not the address of a host"),
    (vxlan('remote = "192.0.2.1", vni = 16777216'), 4, f"{D}.vni", "from 0 to 16777215"),
    (vxlan('remote = "192.0.2.1", vni = 1, local = "::1"'), 4, f"{D}.local", "::1 is IPv6, but remote is IPv4"),
    (vxlan('ip = "192.0.2.1", vni = 1'), 4, f"{D}.ip", "did you mean 'remote' or 'local'?"),
    (to('type = "gre", remote = "192.0.2.1", vni = 1'), 4, f"{D}.vni", "did you mean 'key'?"),
    (to('type = "erspan", remote = "192.0.2.1", erspan_type = 2'), 4, f"{D}.erspan_type", "did you mean 'II'?"),
    (to('type = "erspan", remote = "192.0.2.1", erspan_type = "II"'), 4, f"{D}.session_id", "required by type II"),
    (to('type = "vlan", device = "eth1"'), 4, f"{D}.type", "did you mean 'device with vlan'?"),
    (to('type = "device", device = "tap*"'), 4, f"{D}.device", "the name of one device"),
    (to('type = "device", device = "eth0"'), 4, f"{D}.device", "'eth0' is also the source"),
    (to('type = "pcap", listen = "127.0.0.1"'), 4, f"{D}.listen", '"127.0.0.1:57012" or "[::1]:57012", not'),
    (to('type = "pcap", listen = ""'), 4, f"{D}.listen", 'port such as "127.0.0.1:57012"'),
    (to('type = "pcap", listen = "10.0.0.1:57012"'), 4, f"{D}.listen", "whoever connects gets the traffic"),
    (to('type = "pcap", port = 57012'), 4, f"{D}.remote", "either remote and port, or listen"),
    (to('type = "pcap", remote = "192.0.2.1"'), 4, f"{D}.port", "required with remote"),
    (to('type = "pcap", remote = "collector.example", port = 1'), 4, f"{D}.remote", "names are not looked up"),
    (to('type = "gre", remote = "192.0.2.1", liveness = "tcp"'), 4, f"{D}.liveness", '"tcp:PORT" or "off", not'),
    (to('type = "file", path = "/tmp/a.pcapng"'), 4, f"{D}.path", "one of capture_directories"),
    (to('type = "file", path = "/var/lib/mirrord/captures/a", keep = 3'), 4, f"{D}.keep", "needs rotate_size or"),
    (rule("port = 80"), 3, f"{R}.port", "did you mean 'destination_ports' or 'source_ports'?"),
    (rule('proto = "tcp"'), 3, f"{R}.proto", "did you mean 'protocol'?"),
    (rule('protocol = "http"'), 3, f"{R}.protocol", "expected a protocol: icmp, igmp"),
    (rule('protocol = "tcp", destination_ports = "80,443"'), 3, f"{R}.destination_ports", "several are a list"),
    (rule('protocol = "tcp", destination_ports = 70000'), 3, f"{R}.destination_ports", "at most 65535"),
    (rule("destination_ports = 80"), 3, f"{R}.destination_ports", "name tcp, udp or sctp"),
    (rule('source = "10.0.0.1/8"'), 3, f"{R}.source", "such as 10.0.0.0/8"),
    (rule('source = "10.0.0.0/8", destination = "::/0"'), 3, f"{R}.destination", "no frame can match"),
    (rule("family = 4"), 3, f"{R}.family", "did you mean 'ipv4'?"),
    ('[filters.f]\nrules = [{ priority = 1, action = "allow" }]\n', 2, f"{R}.action", "did you mean 'accept'?"),
    ('[filters.f]\nrules = [{ action = "accept" }]\n', 2, f"{R}.priority", "this key is required"),
    ("[filters.f]\nrules = []\n", 2, "filters.f.rules", "expected at least one rule"),
    (DEVICE, 1, f"{N}.addresses", "this key is required"),
    (DEVICE + 'addresses = "192.0.2.1"\n', 3, f"{N}.addresses", "with its prefix length"),
    (DEVICE + 'addresses = "192.0.2.20-192.0.2.10/24"\n', 3, f"{N}.addresses", "a range that ascends"),
    (DEVICE + 'addresses = "192.0.2.1/24"\ngateway = "198.51.100.1"\n', 4, f"{N}.gateway", "is not in 192.0.2.0/24"),
    ("[mirrors.m]\n[mirrors.m]\n", 0, "", "Cannot declare mirrors.m twice (at line 2"),
    ("[mirrors.m]\ndescription = core\n", 0, "", "text stands in quotes, a list in brackets (at line 2"),
    ("[mirrors.m]\n".encode("utf-16"), 0, "", "it looks like UTF-16: save it as UTF-8"),
    (b'[mirrors.m]\ndescription = "\xe9"\n', 0, "", "expected UTF-8, not byte 0xe9 at 27"),
]  # fmt: skip


@pytest.mark.parametrize(("typed", "line", "path", "words"), FILES)
def test_in_a_file(typed: str | bytes, line: int, path: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "mirrord.toml"
    file.write_bytes(typed if isinstance(typed, bytes) else typed.encode())
    with pytest.raises(ConfigError) as refused:
        config.load(str(file))
    found = [one for one in refused.value.problems if one.path == path]
    assert len(found) == 1, refused.value
    assert (words in found[0].expectation, found[0].line) == (True, line), found[0]
    assert str(found[0]).startswith(f"{file}: {path}: " if path else f"{file}: ")
    assert str(found[0]).endswith(f" (line {line})") or not line
    for shown in ("datetime", "None", "True", "tuple", "('"):  # Python is not what people write
        assert shown not in str(refused.value)


@pytest.mark.parametrize(
    ("typed", "path"),
    [
        (to('type = "pcap", listen = "127.0.0.1"'), f"{D}.listen"),
        (session(source='{ type = "container", label = 5 }'), f"{S}.source.label"),
        (session(source='{ type = "vxlan", flow_network = 5 }'), f"{S}.source.flow_network"),
    ],
)
def test_that_one_of_two_keys_is_wrong_is_not_that_the_other_is_missing(typed: str, path: str, tmp_path: Path) -> None:
    file = tmp_path / "mirrord.toml"
    file.write_text(typed)
    with pytest.raises(ConfigError) as refused:
        config.load(str(file))
    assert [one.path for one in refused.value.problems] == [path]


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "mirrord.toml"
    file.write_bytes(b"\xef\xbb\xbf[mirrors.m]\n")
    assert list(config.load(str(file)).config.mirrors) == ["m"]


def test_a_rate_in_bytes_is_doubted(tmp_path: Path) -> None:
    file = tmp_path / "mirrord.toml"
    file.write_text(session('rate_limit = "10Mbps"'))
    (told,) = config.load(str(file)).warnings
    assert str(told) == (
        f"{file}: {S}.rate_limit: 10Mbps is 80Mbit a second: bps counts bytes here, as in tc; 10Mbit counts bits"
        " (line 5)"
    )


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        (session('rate_limit = "200"'), f"{S}.rate_limit", "200bit is not one full frame a second; with a unit it is"),
        (
            to('type = "file", path = "/var/lib/mirrord/captures/x", rotate_size = 100'),
            f"{D}.rotate_size",
            "100B is less",
        ),
    ],
)
def test_a_bound_without_its_unit_is_doubted(text: str, path: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "mirrord.toml"
    file.write_text(text)
    (told,) = config.load(str(file)).warnings
    assert told.path == path
    assert words in told.expectation


FILE = """
[filters.fixed]
rules = [{ priority = 1, action = "accept" }]
[mirrors.fixed]
"""
ADD = "session", "add", "core"
VX = "--destination", "type=vxlan,remote=192.0.2.9,vni=7"
OPTIONS: list[tuple[Sequence[str], int, str]] = [
    (("crate", "x"), 2, "no such command: crate; did you mean 'create'?"),
    (("filter", "rul", "add"), 2, "no such command: rul; did you mean 'rule'?"),
    (("status", "nope"), 1, "no such mirror: nope"),
    (("status", "coer"), 1, "no such mirror: coer; did you mean 'core'?"),
    (("--jsn", "list"), 2, "--json"),
    (("create",), 2, "Missing argument 'MIRROR'"),
    (("create", "a b"), 2, "expected a name: 1 to 63 letters"),
    (("create", "core"), 1, "mirror 'core' exists already"),
    (("set", "core"), 2, "nothing to set: give --name"),
    (("set", "core", "--name", "fixed"), 1, "mirror 'fixed' exists already"),
    (("set", "core", "--overlap", "frist"), 2, "did you mean 'first'?"),
    (("delete", "fixed"), 1, "mirrord.toml: change it there, then reload"),
    ((*ADD, "s"), 2, "Missing option '--source'"),
    ((*ADD, "s", "--source", "eth0", "--destination", "vxlan"), 2, "expected key=value, not 'vxlan'"),
    ((*ADD, "s", "--source", "eth0", "--destination", "remote=192.0.2.9,vni=7"), 2, "destination.type: expected one"),
    ((*ADD, "s", "--source", "eth0", *VX, "--filter", "fixd"), 1, "no filter 'fixd'; did you mean 'fixed'?"),
    ((*ADD, "s", "--source", "type=devcie,device=a", *VX), 2, "did you mean 'device'?"),
    ((*ADD, "s", "--source", "eth0", *VX, "--snaplen", "1k"), 2, "snaplen: expected a whole number"),
    ((*ADD, "s", "--source", "eth0", *VX, "--direction", "in"), 2, "did you mean 'ingress'?"),
    ((*ADD, "nic", "--source", "eth0", *VX), 1, "session 'nic' exists already"),
    ((*ADD, "s", "--source", "eth0", "--destination", "type=vxlan,remote=192.0.2.9,vni=1"), 1,
     "mirrors.core.sessions[s].destination.vni: mirrors.core.sessions[nic] sends to the same remote, port and VNI"),
    (("session", "set", "core", "nic"), 2, "nothing to set: name a key"),
    (("session", "set", "core", "nix", "--snaplen", "9"), 1, "no such session: nix; did you mean 'nic'?"),
    (("session", "set", "core", "nic", "--unset", "source"), 2, "expected a key with a default, not 'source'"),
    (("session", "set", "core", "nic", "--destination", "vni=x"), 2, "destination.vni: expected a whole number"),
    (("session", "set", "core", "nic", "--destination", "vin=7"), 2, "unknown key; did you mean 'vni'?"),
    (("session", "set", "core", "nic", "--snaplen", "1k"), 2, "snaplen: expected a whole number"),
    (("session", "set", "core", "nic", "--source", "type=devcie"), 2, "did you mean 'device'?"),
    (("session", "set", "core", "nic", "--filter", "fixd"), 1, "no filter 'fixd'; did you mean 'fixed'?"),
    (("session", "set", "core", "nic", "--destination", "local=::1"), 1, "is IPv6, but remote is IPv4"),
    (("session", "set", "core", "nic", "--gso", "on", "--destination", "type=gre,remote=192.0.2.9"), 1, "not apply"),
    (("filter", "create", "f", "--rule", "priority=1,action=accept,protocol=tcp,destination_ports=80,443"), 2,
     "a list has its key before each value: destination_ports=80,destination_ports=443"),
    (("filter", "rule", "add", "mine", "priority=1,action=accept"), 2, "--replace puts this one in its place"),
    (("filter", "rule", "delete", "mine", "7"), 1, "filter mine has no rule of priority 7, but 1"),
    (("filter", "rule", "delete", "mine", "1"), 1, "filters.mine.rules: expected at least one rule"),
    (("filter", "delete", "mine"), 1, "is used at mirrors.core.sessions[nic].filter"),
    (("network", "create", "n", "--device", "em0", "--addresses", "192.0.2.1"), 2, "with its prefix length"),
    (("audit", "--since", "yesterday"), 2, "how long ago (90s, 15m, 1h, 2d, 1w)"),
    (("audit", "--limit", "0"), 2, "1<=x<=20000"),
    (("apply", "-f", "/nowhere.toml"), 1, "/nowhere.toml: No such file or directory"),
    (("explain", "mine", "--pcap", "/nowhere.pcap"), 1, "/nowhere.pcap: No such file or directory"),
    (("explain", "mine", "--pcap", "/etc/hostname"), 1, "this is neither pcap nor pcapng"),
    (("capture", "core/nix"), 1, "no such session: nix; did you mean 'nic'?"),
]  # fmt: skip

API: list[tuple[str, str, Any, int, str, str, str]] = [
    # --- method, resource, body, status, code, the path, the words
    ("PUT", "mirrors/x", {"sesions": []}, 422, "invalid_config", "mirrors.x.sesions", "did you mean 'sessions'?"),
    ("PUT", "mirrors/x", {"enabled": None}, 422, "invalid_config", "mirrors.x.enabled", "true or false, not null"),
    ("PATCH", "mirrors/core", {"name": 5}, 422, "invalid_config", "mirrors.core.name", "expected a name, not 5"),
    ("PATCH", "filters/mine", {"rules": {}}, 422, "invalid_config", "filters.mine.rules", "expected a list, not {}"),
    ("PATCH", "filters/mine", {"name": "other"}, 409, "in_use", "mirrors.core.sessions[nic].filter", "is used at"),
    ("POST", "apply", {"mirror": {}}, 422, "invalid_config", "mirror", "did you mean 'mirrors'?"),
    ("POST", "apply", {"filters": {"fixed": {}}}, 403, "read_only", "filters.fixed", "change it there, then reload"),
    ("PUT", "mirrors/x?dryrun=true", {}, 400, "bad_request", "", "dryrun: unknown in the query; did you"),
    ("POST", "mirrors/core/disable?dry-run=true", None, 400, "bad_request", "", "did you mean 'dry_run'?"),
    ("GET", "status?mirror=core", None, 400, "bad_request", "", "mirror: unknown in the query"),
    ("POST", "apply?prune=1", {}, 400, "bad_request", "", "prune: expected true or false, not '1'"),
    ("PUT", "flow_networks/n", {"device": "up0", "addresses": "192.0.2.1/24"}, 409, "refused",
     "flow_networks.n.device", "'up0' is already used at mirrors.core.sessions[out].destination.device"),
]  # fmt: skip


@pytest.fixture
def dataplane() -> str:
    """One is enough: nothing is sent."""
    return "native"


@pytest.fixture
def running(net: Topology, daemon: MakeDaemon) -> Daemon:
    made = daemon(net.host("host"), FILE, up=False)
    api = Api(made.socket)
    api("PUT", "filters/mine", {"rules": [{"priority": 1, "action": "accept"}]})
    vxlan = {"type": "vxlan", "remote": "192.0.2.9", "vni": 1}
    out = {"name": "out", "source": "tap0", "destination": {"type": "device", "device": "up0"}}
    sessions = [{"name": "nic", "source": "tap0", "filter": "mine", "destination": vxlan}, out]
    assert api("PUT", "mirrors/core", {"enabled": False, "sessions": sessions}).status == 201
    return made


def test_on_the_command_line_and_to_the_api(running: Daemon) -> None:
    for words, status, told in OPTIONS:
        done = invoke(running.socket, *words)
        assert (done.exit_code, told in done.stderr) == (status, True), (words, done.output)
        assert "Traceback" not in done.output
        as_json = invoke(running.socket, *words, "--json")
        assert (as_json.exit_code, as_json.stderr.startswith('{\n  "error": {')) == (status, True), as_json.output
    api = Api(running.socket)
    for method, resource, body, code_of_http, code, path, told in API:
        answer = api(method, resource, body)
        assert (answer.status, answer.code) == (code_of_http, code), answer
        assert (answer.body["error"]["path"], told in answer.message) == (path, True), answer


def test_there_are_enough_of_them() -> None:
    assert len(FILES) + len(OPTIONS) + len(API) >= 90
