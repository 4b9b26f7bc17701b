"""Files to a configuration, or to every problem in them with its file, its dotted path and what was expected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mirrord.control.configuration.config import Loaded, load
from mirrord.control.configuration.refusals import Declared, refusals, unknown_names
from mirrord.errors import ConfigError
from mirrord.model import Config, DeviceSource, Filter, Mirror, Session, VxlanDestination
from mirrord.model.lines import line_of
from mirrord.model.validation import examine

ROOT = Path(__file__).parents[2]
ALONE = "[daemon]\ninclude = []\n"

# The annotated block of the design, section 2.
ANNOTATED = """
[daemon]
socket = "/run/mirrord/mirrord.sock"
socket_group = "mirrord"
read_only_socket = ""
read_only_group = ""
metrics = "127.0.0.1:9817"
state = "/var/lib/mirrord/state.db"
include = ["/etc/mirrord/conf.d/*.toml"]
capture_directories = ["/var/lib/mirrord/captures"]
mark = 0x10000000
mark_mask = 0x10000000
dataplane = "auto"
ring_size = "8MiB"
nice = 0
latency = "1ms"
log_level = "info"

[flow_networks.capture]
device = "em02"
addresses = "192.168.29.10-192.168.29.20/24"
gateway = "192.168.29.1"

[filters.web_in]
rules = [
  { priority = 1, direction = "ingress", action = "accept", protocol = "tcp",
    source = "192.168.0.161/32", destination = "192.168.0.230/32", destination_ports = "1234" },
]

[mirrors.core]
description = "core business on VM-2"
flow_network = "capture"
enabled = true
overlap = "all"

[[mirrors.core.sessions]]
name = "vm2"
priority = 1
direction = "both"
source = { type = "device", device = "tap-vm2", perspective = "guest" }
filter = "web_in"
destination = { type = "vxlan", remote = "192.168.0.164", vni = 1 }
snaplen = 0
sampling_rate = 1
rate_limit = "0"
on_mtu_exceeded = "truncate"
count_rules = false
mirror_tunnels = false
capture = "auto"
ring_size = "8MiB"
workers = 1
transmit = "auto"
gso = "auto"
pause_above = ""
"""


def write(directory: Path, text: str, name: str = "mirrord.toml") -> str:
    path = directory / name
    path.write_text(text)
    return str(path)


def problems(path: str) -> list[tuple[str, str, str]]:
    """(file name, dotted path, expectation) of everything that is wrong."""
    with pytest.raises(ConfigError) as caught:
        load(path)
    return [(Path(one.file).name, one.path, one.expectation) for one in caught.value.problems]


def paths(path: str) -> set[str]:
    return {at for _, at, _ in problems(path)}


def sessions(*lines: str) -> str:
    """A mirror whose sessions have these lines."""
    return ALONE + "\n".join(f'[[mirrors.m.sessions]]\nname = "s{n}"\n{line}' for n, line in enumerate(lines))


def test_the_annotated_block_of_the_design(tmp_path: Path) -> None:
    path = write(tmp_path, ANNOTATED)
    config = load(path).config
    assert config.mirrors["core"].flow_network == "capture"
    session = config.mirrors["core"].sessions[0]
    assert isinstance(session.source, DeviceSource)
    assert isinstance(session.destination, VxlanDestination)
    assert (session.source.device, session.source.perspective) == (("tap-vm2",), "guest")
    assert (list(map(str, session.destination.remote)), session.destination.vni) == (["192.168.0.164"], 1)
    assert config.daemon.ring_size == session.ring_size == 8 * 1024 * 1024


@pytest.mark.parametrize("path", [ROOT / "config/mirrord.toml", *sorted((ROOT / "config/examples").glob("*.toml"))])
def test_what_is_shipped_loads_without_a_warning(path: Path) -> None:
    assert load(str(path)).warnings == []


def test_the_shipped_file_shows_every_key(tmp_path: Path) -> None:
    text = (ROOT / "config/mirrord.toml").read_text()
    settings = [line[1:] if line.startswith("#") and line[1:2] not in ("", " ") else line for line in text.splitlines()]
    uncommented = write(tmp_path, "\n".join(settings))
    load(uncommented)
    schema = Config.model_json_schema()
    known = {key for one in schema["$defs"].values() for key in one.get("properties", {})}
    absent = {key for key in known if not any(f"{key} = " in line or f"{key}.sessions]]" in line for line in settings)}
    assert absent == {"sessions"}  # written as [[mirrors.NAME.sessions]]


def test_every_problem_is_told_with_file_path_and_expectation(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    write(tmp_path / "conf.d", "[mirrors.broken\n", "10-syntax.toml")
    write(tmp_path / "conf.d", "[filters.web]\nrules = []\n[daemon]\nmark = 0\nnice = 1\n", "20-values.toml")
    path = write(
        tmp_path,
        """
        [daemon]
        include = ["conf.d/*.toml", "absent.toml"]
        nice = 20
        [filters.web]
        rules = [
          { priority = 1, action = "acept", source = "10.0.0.1/8" },
          { priority = 1, action = "accept", protocol = "icmp", destination_ports = "80" },
        ]
        [mirror.core]
        [mirrors."a b"]
        [mirrors.core]
        enabled = "perhaps"
        [[mirrors.core.sessions]]
        name = "one"
        snaplenn = 96
        source = { type = "vxlam", local = "192.0.2.1" }
        destination = { type = "vxlan", remote = "192.0.2.2", vni = 16777216 }
        [[mirrors.core.sessions]]
        name = "one"
        source = "eth0"
        destination = { type = "vxlan", remote = "192.0.2.2" }
        """,
    )
    told = problems(path)
    assert sorted((file, at) for file, at, _ in told) == sorted(
        [
            ("10-syntax.toml", ""),
            ("20-values.toml", "daemon.mark"),
            ("20-values.toml", "daemon.nice"),
            ("20-values.toml", "filters.web"),
            ("absent.toml", ""),
            ("mirrord.toml", "daemon.nice"),
            ("mirrord.toml", "filters.web.rules"),
            ("mirrord.toml", "filters.web.rules[0].action"),
            ("mirrord.toml", "filters.web.rules[0].source"),
            ("mirrord.toml", "filters.web.rules[1].destination_ports"),
            ("mirrord.toml", "mirror"),
            ("mirrord.toml", 'mirrors."a b"'),
            ("mirrord.toml", "mirrors.core.enabled"),
            ("mirrord.toml", "mirrors.core.sessions"),
            ("mirrord.toml", "mirrors.core.sessions[0].destination.vni"),
            ("mirrord.toml", "mirrors.core.sessions[0].snaplenn"),
            ("mirrord.toml", "mirrors.core.sessions[0].source.type"),
            ("mirrord.toml", "mirrors.core.sessions[1].destination.vni"),
        ]
    )
    why = {(file, at): text for file, at, text in told}
    assert "line 1" in why["10-syntax.toml", ""]
    assert "No such file" in why["absent.toml", ""]
    assert why["20-values.toml", "filters.web"] == f"already defined in {path}"
    assert "did you mean 'mirrors'?" in why["mirrord.toml", "mirror"]
    assert "did you mean 'snaplen'?" in why["mirrord.toml", "mirrors.core.sessions[0].snaplenn"]
    assert "did you mean 'vxlan'?" in why["mirrord.toml", "mirrors.core.sessions[0].source.type"]
    assert "0 to 16777215, not 16777216" in why["mirrord.toml", "mirrors.core.sessions[0].destination.vni"]
    assert "'accept' or 'reject', not 'acept'" in why["mirrord.toml", "filters.web.rules[0].action"]


def test_a_contradiction_is_told_beside_a_wrong_value_and_not_because_of_it(tmp_path: Path) -> None:
    text = """
        [daemon]
        include = []
        mark = 0x20000000
        mark_mask = "all"
        [filters.f]
        rules = [
          { priority = 0, action = "accept", protocol = "icmp", source_ports = "80" },
          { priority = 2, action = "maybe", source = "192.0.2.1", destination = "2001:db8::1" },
          { priority = 3, action = "accept", protocol = "tpc", source_ports = "80" },
        ]
        [filters.g]
        rules = [{}]
        [filters.h]
        rules = [{ priority = 1, action = "accept" }, { priority = "1", action = "reject" }]
        [[mirrors.m.sessions]]
        name = ""
        source = { type = "bridge", bridge = "br0" }
        direction = "ingress"
        filter = 5
        count_rules = true
        destination = { type = "erspan", remote = "192.0.2.1", erspan_type = "II", ttl = 0, local = "::1" }
        [[mirrors.m.sessions]]
        name = "t"
        source = { type = "vxlan", local = "192.0.2.1", vni = -1, allow = "::/0" }
        destination = { type = "file", path = "a", keep = 2 }
        count_rules = true
    """
    told = [at for _, at, _ in problems(write(tmp_path, text))]
    assert sorted(told) == [
        "daemon.mark_mask",
        "filters.f.rules[0].priority",
        "filters.f.rules[0].source_ports",
        "filters.f.rules[1].action",
        "filters.f.rules[1].destination",
        "filters.f.rules[2].protocol",
        "filters.g.rules[0].action",
        "filters.g.rules[0].priority",
        "filters.h.rules",
        "mirrors.m.sessions[0].destination.local",
        "mirrors.m.sessions[0].destination.session_id",
        "mirrors.m.sessions[0].destination.ttl",
        "mirrors.m.sessions[0].direction",
        "mirrors.m.sessions[0].filter",
        "mirrors.m.sessions[0].name",
        "mirrors.m.sessions[1].count_rules",
        "mirrors.m.sessions[1].destination.keep",
        "mirrors.m.sessions[1].destination.path",
        "mirrors.m.sessions[1].source.allow",
        "mirrors.m.sessions[1].source.vni",
    ]


def test_an_inline_table_may_have_several_lines_as_in_toml_1_1(tmp_path: Path) -> None:
    text = (
        ALONE
        + """[filters.f]
        rules = [
          { priority = 1, action = "accept", # { in a comment, "
            source = [
              "192.0.2.0/24", '2001:db8::/32',
            ], vlan = 7,
          },
        ]
        [mirrors.m]
        description = "{ # no, table"
        """
    )
    path = write(tmp_path, text)
    config = load(path).config
    assert (config.filters["f"].rules[0].vlan, config.mirrors["m"].description) == (7, "{ # no, table")
    line = len(text.splitlines())
    assert f"line {line}, " in problems(write(tmp_path, text + "!"))[0][2]


def test_a_problem_is_one_line_whatever_a_key_is(tmp_path: Path) -> None:
    path = write(tmp_path, ALONE + '[filters."a\\nb"]\nrules = 1\n[filters.""]\n"\\u001b[2J" = 1\n')
    told = problems(path)
    assert {at for _, at, _ in told} == {
        'filters."a\\nb"',
        'filters."a\\nb".rules',
        'filters.""',
        'filters."".rules',
        'filters.""."\\u001b[2J"',
    }
    assert not any("\n" in part or "\x1b" in part for problem in told for part in problem)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("daemon = 1", "daemon"),
        ("mirrors.m = 1", "mirrors.m"),
        ("mirrors.m.sessions = 1", "mirrors.m.sessions"),
        ("mirrors.m.sessions = [1]", "mirrors.m.sessions[0]"),
        ("mirrors.m.sessions = [{name='a', source=1, destination=1}]", "mirrors.m.sessions[0].source"),
        (
            "mirrors.m.sessions = [{name=[], source='a', destination={type=[]}}]",
            "mirrors.m.sessions[0].destination.type",
        ),
        ("filters.f.rules = [{priority=[]}]", "filters.f.rules[0].priority"),
        ("[daemon]\ninclude = 1", "daemon.include"),
        ("[daemon]\ninclude = [1]", "daemon.include[0]"),
    ],
)
def test_what_is_of_another_kind_altogether(tmp_path: Path, text: str, at: str) -> None:
    assert at in paths(write(tmp_path, text))


def test_what_is_nested_without_end_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, "a = " + "[" * 5000 + "]" * 5000)
    assert problems(path) == [("mirrord.toml", "", "expected tables and lists that are not nested so deeply")]


WORDS = st.sampled_from(
    sorted({*Mirror.model_fields, *Session.model_fields, "type", "device", "remote", "vxlan", "gre"})
)
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=6)),
    max_leaves=30,
)


@given(ANYTHING)
def test_whatever_is_written_is_read_or_told(written: object) -> None:
    model, told = examine(Mirror, written, "mirrors.m")
    assert told or isinstance(model, Mirror)
    assert all(one.path.startswith("mirrors.m") and one.expectation for one in told)


@given(st.text(alphabet='a.[0]" (:\\', max_size=9))
def test_what_is_no_path_has_no_line(text: str) -> None:
    assert line_of({"other": 1}, text) == 0
    assert line_of({"a": 1}, f"a.{text}") in (0, 1)


def test_a_file_that_is_absent_or_not_text(tmp_path: Path) -> None:
    assert problems(str(tmp_path / "none.toml")) == [("none.toml", "", "cannot be read: No such file or directory")]
    (tmp_path / "bytes.toml").write_bytes(b"a = '\xff'")
    assert problems(str(tmp_path / "bytes.toml")) == [("bytes.toml", "", "expected UTF-8, not byte 0xff at 5")]


def test_drop_ins_add_up_and_are_remembered(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    path = write(tmp_path, '[daemon]\ninclude = ["conf.d/*.toml", "*.toml"]\nnice = 5\n')
    one = write(tmp_path / "conf.d", '[filters.f]\nrules = [{ priority = 1, action = "reject" }]\n', "1.toml")
    two = write(tmp_path / "conf.d", '[daemon]\nlog_level = "debug"\n[mirrors.m]\n', "2.toml")
    loaded = load(path)
    assert (loaded.config.daemon.nice, loaded.config.daemon.log_level) == (5, "debug")
    assert set(loaded.config.mirrors) == {"m"}
    assert loaded.files.origins["filters.f"] == one
    assert loaded.files.origins["mirrors.m"] == loaded.files.origins["daemon.log_level"] == two
    assert [(w.file, w.path) for w in loaded.warnings] == [(one, "filters.f")]  # only reject rules
    write(tmp_path / "conf.d", '[daemon]\ninclude = ["more.toml"]\n', "3.toml")
    assert problems(path) == [("3.toml", "daemon.include", "only the main file may include others")]


def test_a_broken_file_may_define_what_another_one_names(tmp_path: Path) -> None:
    write(tmp_path, "[filters.f\n", "f.toml")
    using = 'source = "a"\nfilter = "f"\ndestination = { type = "device", device = "b" }'
    path = write(tmp_path, sessions(using).replace("[]", '["f.toml"]'))
    assert [(file, at) for file, at, _ in problems(path)] == [("f.toml", "")]


VXLAN = 'destination = { type = "vxlan", remote = "192.0.2.2", vni = 1 }'
RELAY = 'source = { type = "%s", local = "%s" }\ndestination = { type = "%s", remote = "%s" }'
TO_FILE = """source = { type = "device", device = ["%s"] }
destination = { type = "file", path = "/var/lib/mirrord/captures/%s" }"""
SPAN = 'source = "%s"\ndestination = { type = "device", device = "%s" }'


@pytest.mark.parametrize(
    ("text", "at", "why"),
    [
        (
            '[filters.web_in]\nrules = [{ priority = 1, action = "accept" }]\n'
            + sessions(f'source = "a"\nfilter = "webin"\n{VXLAN}'),
            "mirrors.m.sessions[0].filter",
            "there is no filter 'webin'; did you mean 'web_in'?",
        ),
        (sessions(SPAN % ("eth0", "eth0")), "mirrors.m.sessions[0].destination.device", "'eth0' is also the source"),
        (
            sessions((SPAN % ("taps", "tap1")).replace('"taps"', '{ type = "device", device = ["tap*", "tap1"] }')),
            "mirrors.m.sessions[0].destination.device",
            "'tap1' is also the source",
        ),
        (
            sessions(SPAN % ("a", "b"), SPAN % ("b", "c"), SPAN % ("c", "a")),
            "mirrors.m.sessions[2].destination.device",
            "closes a cycle of copies with mirrors.m.sessions[1]",
        ),
        (
            sessions(RELAY % ("gre", "192.0.2.1", "gre", "192.0.2.1")),
            "mirrors.m.sessions[0].destination.remote",
            "192.0.2.1 is also the source",
        ),
        (
            sessions(
                RELAY % ("gre", "192.0.2.1", "gre", "192.0.2.2"), RELAY % ("gre", "192.0.2.2", "gre", "192.0.2.1")
            ),
            "mirrors.m.sessions[1].destination.remote",
            "closes a cycle of copies with mirrors.m.sessions[0]",
        ),
        (
            sessions(*[f'source = "{one}"\n{VXLAN.replace("vxlan", "geneve")}' for one in "ab"]),
            "mirrors.m.sessions[1].destination.vni",
            "mirrors.m.sessions[0] sends to the same remote, port and VNI; choose another",
        ),
        (
            sessions(f'source = "a"\n{VXLAN}', f'source = "b"\n{VXLAN}'),
            "mirrors.m.sessions[1].destination.vni",
            (
                "mirrors.m.sessions[0] sends to the same remote, port and VNI; "
                "set shared_vni = true in both if that is meant"
            ),
        ),
        (
            sessions('source = "a"\ndestination = { type = "file", path = "/var/lib/mirrord/captures2/x" }'),
            "mirrors.m.sessions[0].destination.path",
            (
                "expected a file in one of capture_directories (/var/lib/mirrord/captures), "
                "not '/var/lib/mirrord/captures2/x'"
            ),
        ),
        (
            sessions(*[TO_FILE % one for one in (("tap*", "a.pcapng"), ("b", "a-tap1.pcapng"))]),
            "mirrors.m.sessions[1].destination.path",
            "mirrors.m.sessions[0] writes the same file for its source tap1",
        ),
        (
            sessions(*[TO_FILE % one for one in (("b", "a-tap1"), ('c", "tap1', "a"))]),
            "mirrors.m.sessions[0].destination.path",
            "mirrors.m.sessions[1] writes the same file for its source tap1",
        ),
        (
            sessions(*[TO_FILE % one for one in (("b", "a.x"), ("c", "a-20310101T000000.000000000Z.x"))]),
            "mirrors.m.sessions[1].destination.path",
            "mirrors.m.sessions[0] may give a finished file of /var/lib/mirrord/captures/a.x this name",
        ),
        (
            sessions(
                'source = { type = "vxlan", local = "192.0.2.2" }\n' + VXLAN,
            ),
            "mirrors.m.sessions[0].destination.remote",
            "192.0.2.2 is also the source",
        ),
        (
            (
                '[flow_networks.n]\ndevice = "e"\naddresses = "192.0.2.9/24"\n[mirrors.b]\nflow_network = "n"\n'
                '[mirrors.c]\nflow_network = "n"\n'
            ),
            "mirrors.c.flow_network",
            "flow network 'n' is already used at mirrors.b.flow_network",
        ),
        (
            '[flow_networks.n]\ndevice = "e"\naddresses = "192.0.2.9/24"\n' + sessions(SPAN % ("a", "e")),
            "mirrors.m.sessions[0].destination.device",
            "'e' is set aside for copies by flow_networks.n",
        ),
        (
            (
                '[flow_networks.n]\ndevice = "e"\naddresses = "192.0.2.9/24"\n'
                '[flow_networks.o]\ndevice = "e"\naddresses = "192.0.3.9/24"\n'
            ),
            "flow_networks.o.device",
            "'e' is already set aside by flow_networks.n",
        ),
        (
            (
                '[flow_networks.n]\ndevice = "e"\naddresses = "192.0.2.9/24"\n[mirrors.b]\nflow_network = "n"\n'
                '[[mirrors.b.sessions]]\nname = "s"\nsource = "a"\n'
                'destination = { type = "vxlan", remote = "192.0.2.2", vni = 1, local = "192.0.2.7" }\n'
            ),
            "mirrors.b.sessions[0].destination.local",
            "flow network 'n' decides where copies leave",
        ),
        (
            sessions(
                'source = { type = "device", device = "a", netns = "n" }\n'
                'destination = { type = "device", device = "a", netns = "n" }'
            ),
            "mirrors.m.sessions[0].destination.device",
            "'a' in 'n' is also the source",
        ),
        (
            sessions(
                'source = { type = "device", device = ["a", "b"] }\n'
                'recorder = "1MiB"\ndestination = { type = "device", device = "c" }',
                'source = "d"\nrecorder = "1MiB"\ndestination = { type = "device", device = "c" }',
            ).replace("include = []", 'include = []\nmemory_limit = "18MiB"'),
            "mirrors.m.sessions[1].recorder",
            "its recorder takes 1MiB, with all before it 19MiB: more than memory_limit, 18MiB",
        ),
        (
            sessions(
                'source = "a"\npayload = "tls"\nworkers = 2\ndestination = { type = "device", device = "c" }'
            ).replace("include = []", 'include = []\nmemory_limit = "24MiB"'),
            "mirrors.m.sessions[0].payload",
            "its table of connections takes 16MiB, with all before it 32MiB: more than memory_limit, 24MiB",
        ),
        ("[mirrors.b]\nflow_network = 'n'\n", "mirrors.b.flow_network", "there is no flow network 'n'"),
    ],
)
def test_refused_between_objects(tmp_path: Path, text: str, at: str, why: str) -> None:
    assert ("mirrord.toml", at, why) in problems(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "at", "why"),
    [
        ("".join(f"[mirrors.m{n}]\n" for n in range(4097)), "mirrors", "expected at most 4096 mirrors, not 4097"),
        (
            sessions(f"source = {{ device = {json.dumps([f't{n}' for n in range(4097)])}, type = 'device' }}\n{VXLAN}"),
            "mirrors.m.sessions[0].source.device",
            "expected at most 4096 values, not 4097",
        ),
        (
            sessions(SPAN % ("a", "b")).replace('"b"', f'"b", netns = "/{"x" * 4095}"'),
            "mirrors.m.sessions[0].destination.netns",
            f"expected a path of at most 4095 bytes, not '/{'x' * 55}...",
        ),
    ],
    ids=["mirrors", "values", "path"],
)
def test_there_is_a_limit_to_everything(tmp_path: Path, text: str, at: str, why: str) -> None:
    assert ("mirrord.toml", at, why) in problems(write(tmp_path, text))


def test_there_is_a_limit_to_sessions_and_rules() -> None:
    session = {"source": "a", "destination": {"type": "device", "device": "b"}}
    with pytest.raises(ValidationError, match="sessions: expected at most 8192, not 8193"):
        Mirror.model_validate({"sessions": [{"name": f"s{n}", **session} for n in range(8193)]})
    with pytest.raises(ValidationError, match="rules: expected at most 10000, not 10001"):
        Filter.model_validate({"rules": [{"priority": n + 1, "action": "accept"} for n in range(10_001)]})


def test_a_refusal_is_told_beside_other_problems_of_the_same_session(tmp_path: Path) -> None:
    path = write(tmp_path, sessions(f'source = "a"\nfilter = "none"\nsnaplen = -1\n{VXLAN}', f'source = "b"\n{VXLAN}'))
    assert paths(path) == {
        "mirrors.m.sessions[0].filter",
        "mirrors.m.sessions[0].snaplen",
        "mirrors.m.sessions[1].destination.vni",
    }


@pytest.mark.parametrize(
    "text",
    [
        sessions(SPAN % ("a", "b"), SPAN % ("b", "c"), SPAN % ("a", "c")),
        sessions(SPAN % ("tap*", "tap1")),  # every other tap
        sessions(*(f'source = "{one}"\n{VXLAN.replace("1 }", "1, shared_vni = true }")}' for one in "abc")),
        sessions(f'source = "a"\n{VXLAN}', f'source = "b"\n{VXLAN.replace("1 }", "1, port = 4790 }")}'),
    ],
)
def test_accepted_between_objects(tmp_path: Path, text: str) -> None:
    assert isinstance(load(write(tmp_path, text)), Loaded)


def test_a_model_that_never_was_a_file_is_refused_alike() -> None:
    span = {"name": "s", "source": "a", "filter": "f", "destination": {"type": "device", "device": "a"}}
    config = Config.model_validate({"mirrors": {"x.y": {"flow_network": "n", "sessions": [span]}}})
    declared = Declared.of(config)
    assert [one.path for one in [*unknown_names(declared), *refusals(declared)]] == [
        'mirrors."x.y".flow_network',
        'mirrors."x.y".sessions[0].filter',
        'mirrors."x.y".sessions[0].destination.device',
    ]
