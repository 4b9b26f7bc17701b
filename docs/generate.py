"""Writes what can be told from the code: the configuration reference, as a page and as mirrord.toml(5); mirrorctl(1).

`make docs` runs it; a test holds what is committed against it, so that the reference cannot drift from the models.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import click
from pydantic import TypeAdapter

from mirrord import model
from mirrord.cli.main import main as mirrorctl

HERE = Path(__file__).parent
VOCABULARY = HERE.parent / "mirrord" / "cli" / "vocabulary.py"

SPAN = (model.SpanDestination, model.RetaggedDestination)
TUNNEL = (model.TunnelDestination, model.TaggedDestination, model.RetaggedDestination)

TABLES: tuple[tuple[str, tuple[type[model.Model], ...]], ...] = (
    ("[daemon]", (model.Daemon,)),
    ("[flow_networks.NAME]", (model.FlowNetwork,)),
    ("[filters.NAME]", (model.Filter,)),
    ("A rule of a filter", (model.Rule,)),
    ("[mirrors.NAME]", (model.Mirror,)),
    ("[[mirrors.NAME.sessions]]", (model.Session,)),
    ("flow_limit = { ... }", (model.FlowLimit,)),
    ('source = { type = "device" }', (model.DeviceSource, model.CapturedSource)),
    ('source = { type = "bridge" }', (model.BridgeSource, model.CapturedSource)),
    ('source = { type = "vm" }', (model.VmSource, model.GuestSource, model.CapturedSource)),
    ('source = { type = "container" }', (model.ContainerSource, model.GuestSource, model.CapturedSource)),
    ('source = { type = "vxlan" }', (model.VxlanSource, model.TunnelSource)),
    ('source = { type = "geneve" }', (model.GeneveSource, model.TunnelSource)),
    ('source = { type = "gre" }', (model.GreSource, model.TunnelSource)),
    ('source = { type = "erspan" }', (model.ErspanSource, model.TunnelSource)),
    ('source = { type = "tzsp" }', (model.TzspSource, model.TunnelSource)),
    ('destination = { type = "device" }', (model.DeviceDestination, *SPAN)),
    ('destination = { type = "vm" }', (model.VmDestination, *SPAN)),
    ('destination = { type = "vxlan" }', (model.VxlanDestination, *TUNNEL)),
    ('destination = { type = "geneve" }', (model.GeneveDestination, *TUNNEL)),
    ('destination = { type = "gre" }', (model.GreDestination, *TUNNEL)),
    ('destination = { type = "erspan" }', (model.ErspanDestination, *TUNNEL)),
    ('destination = { type = "file" }', (model.FileDestination, model.TaggedDestination, model.RetaggedDestination)),
    (
        'destination = { type = "pcap" }',
        (model.PcapDestination, model.TaggedDestination, model.RetaggedDestination),
    ),
    ("tls = { ... }", (model.Tls,)),
)  # fmt: skip
"""Each table of a file, and the models that describe its keys."""

TYPES = {
    "Remotes": "IPv4 or IPv6 address, or a list",
    "Addresses": "address or range, with prefix length",
    "AnyAddress": "IPv4 or IPv6 address",
    "BufferSize": 'size such as "64MiB"',
    "Description": "one line of text",
    "Destination": "a table, see below",
    "Device": "device",
    "Dscps": "0 to 63, or a list",
    "Engine": "name of an engine, or path",
    "Devices": "device, glob or a list",
    "FlowLimit": "a table, see below",
    "Guest": "name or UUID",
    "GuestOrGlob": "name, id or glob",
    "Group": "name of a group",
    "Expires": "time, or how long",
    "IcmpNumbers": "0 to 255, or a list",
    "KeptLength": 'number of bytes, "headers" or "headers+64"',
    "Idle": 'time, as "60s", "5m"',
    "Label": "label",
    "Lengths": '"64", "64-1518", "1519-", "-63" or a list',
    "Listen": "address:port",
    "Liveness": '"auto", "icmp", "tcp:PORT" or "off"',
    "Macs": "MAC address or a list",
    "Name": "name",
    "NetworkList": "network or a list",
    "Netns": "name, process id or path",
    "Nic": "index or MAC address",
    "Nics": 'index, MAC address or "*"',
    "Networks": "network or a list",
    "OptionalSocket": "path",
    "Path": "path",
    "Pattern": "pattern of paths",
    "CpuShare": 'share of a core, as "50%", "150%"',
    "Percentage": 'a share such as "80%"',
    "Ports": '"80", "1000-2000" or a list',
    "PositiveSize": 'size such as "64KiB"',
    "Protocol": "name or number",
    "Rate": 'rate such as "200Mbit"',
    "RecorderSize": 'size such as "64MiB"',
    "RingSize": 'size such as "8MiB"',
    "Latency": 'time, as "500us", "1ms"',
    "Rule": "a list of tables, see below",
    "ServerName": "name of a host, or address",
    "Session": "a list of tables, see below",
    "Size": 'size such as "100MB"',
    "Socket": "path",
    "StreamListen": "address:port",
    "Source": "a device's name or a table, see below",
    "Connection": 'URI, or "proc:"',
    "ContainerOrGlob": "name, id, namespace/pod or glob",
    "Tls": "a table, see below",
    "TcpFlags": '"syn", "syn,!ack" or a list',
    "Window": 'time, as "500us", "1ms"',
    "VlanIds": "1 to 4094, or a list",
}
"""The words for each kind of value that is written as text. A new kind needs new words."""

NESTED = {"Tls": model.Tls}
"""Tables within a source's or destination's: the command line has their keys dotted."""

PREFACE = """\
The file is TOML, by default /etc/mirrord/mirrord.toml; `include` names others that add to it. Unknown keys are errors.
`mirrord --check -c FILE` tells every error with its file, its dotted path and what was expected.

Sizes are bytes: B, kB, MB, GB (powers of 1000), KiB, MiB, GiB (of 1024). Rates are bits a second in tc's units: bit,
Kbit, Mbit, Gbit; bps and its like are bytes. Numbers may be hexadecimal. A name has up to 63 letters (of any
script; TOML wants quotes around others than a to z), digits, `_`, `.` and `-`. Addresses are IPv4 or IPv6.
"""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table, in words."""

    name: str
    kind: str
    default: str
    meaning: str


def keys(described: type[model.Model], *parts: type[model.Model]) -> Iterator[Key]:
    """The keys of a model, those that it has of its own first."""
    texts = {name: text for part in (*parts, described) for name, text in _texts(part).items()}
    schema = described.model_json_schema()["properties"]
    for name in sorted(described.model_fields, key=lambda name: name not in _texts(described)):
        yield Key(name, _kind(schema[name], _alias(described, name)), _default(described, name), texts[name])


def _texts(described: type[model.Model]) -> dict[str, str]:
    """The text below each field of a class."""
    body = ast.parse(inspect.getsource(described)).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _alias(described: type[model.Model], name: str) -> str:
    """The name of the annotation's type: RingSize of `RingSize | None`."""
    owner = next(one for one in described.__mro__ if name in inspect.get_annotations(one))
    return re.sub(r"^tuple\[(\w+), \.\.\.\]", r"\1", str(inspect.get_annotations(owner)[name])).partition(" | ")[0]


def _kind(schema: dict[str, Any], alias: str) -> str:
    chosen = next((one for one in schema.get("anyOf", ()) if one.get("type") != "null"), schema)
    if alias in TYPES:
        return TYPES[alias]
    if "const" in chosen:
        return json.dumps(chosen["const"])
    if "enum" in chosen:
        return ", ".join(map(json.dumps, chosen["enum"]))
    if chosen.get("type") == "boolean":
        return "true, false"
    return f"{chosen['minimum']} to {chosen['maximum']}"


def _default(described: type[model.Model], name: str) -> str:
    field = described.model_fields[name]
    if field.is_required() or (name == "type" and field.default != "device"):  # base.kind_of
        return "required"
    if field.default_factory is not None or field.default is None:
        return ""
    metadata = [*field.metadata, None]  # Annotated wants at least one
    annotation: Any = Annotated[field.annotation, *metadata]
    shown = TypeAdapter(annotation).dump_python(field.default, mode="json")
    return hex(shown) if type(shown) is int and shown > 0xFFFFFFF else json.dumps(shown)


def page() -> str:
    """docs/configuration.md."""
    lines = ["# Configuration reference", ""]
    lines += ["<!-- Written by docs/generate.py from the models: change those. -->", ""]
    lines += [*PREFACE.splitlines(), ""]
    for title, (described, *parts) in TABLES:
        lines += [f"## `{title}`" if "[" in title or "{" in title else f"## {title}", ""]
        lines += ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
        for key in keys(described, *parts):
            default = f"`{key.default}`" if key.default not in ("", "required") else key.default
            lines.append(f"| `{key.name}` | {key.kind} | {default} | {key.meaning} |")
        lines.append("")
    return "\n".join(lines)


def manual() -> str:
    """mirrord.toml(5), in the macros of man(7)."""
    lines = ['.\\" Written by docs/generate.py from the models: change those.']
    lines += ['.TH MIRRORD.TOML 5 "" mirrord "File formats"', ".SH NAME", "mirrord.toml \\- configuration of mirrord"]
    lines += [".SH DESCRIPTION", *(_roff(line) or ".PP" for line in PREFACE.splitlines())]
    for title, (described, *parts) in TABLES:
        lines.append(f".SH {_roff(title.upper() if title[0].isalpha() and '{' not in title else title)}")
        for key in keys(described, *parts):
            default = {"": "", "required": ", required"}.get(key.default, f", default {key.default}")
            lines += [".TP", f".B {key.name}", f"{_roff(key.kind + default)}.", ".br", _roff(key.meaning)]
    lines += [".SH SEE ALSO", ".BR mirrord (8),", ".BR mirrorctl (1)", ""]
    return "\n".join(lines)


def commands() -> str:
    """mirrorctl(1): what each command's --help says."""
    lines = ['.\\" Written by docs/generate.py from the commands: change those.']
    lines += [
        '.TH MIRRORCTL 1 "" mirrord "User commands"',
        ".SH NAME",
        "mirrorctl \\- look at mirrord and change what it",
    ]
    lines += ["mirrors", ".SH SYNOPSIS", ".B mirrorctl", "[OPTIONS] COMMAND [ARGS]...", ".SH OPTIONS"]
    root = click.Context(mirrorctl, info_name="mirrorctl")
    lines += _options(root)
    lines.append(".SH COMMANDS")
    for context in _leaves(root):
        usage = " ".join(context.command.collect_usage_pieces(context))
        lines += [f".SS {_roff(context.command_path.removeprefix('mirrorctl ')).strip()} {_roff(usage)}"]
        for paragraph in inspect.cleandoc(context.command.help or "").split("\n\n"):
            as_it_is = paragraph.startswith("\b")  # click's mark
            words = [_roff(line) for line in paragraph.removeprefix("\b\n").splitlines()]
            lines += [".PP", ".nf", *words, ".fi"] if as_it_is else [".PP", *words]
        lines += _options(context)
    lines += [".SH EXIT STATUS", "0 done, 1 refused or failed, 2 bad usage, 3 the daemon cannot be reached."]
    lines += [".SH SEE ALSO", ".BR mirrord (8),", ".BR mirrord.toml (5)", ""]
    return "\n".join(lines)


def vocabulary() -> str:
    """mirrord/cli/vocabulary.py: for completion and --help, which cannot wait for the models to be imported."""
    tables: dict[str, dict[str, type[model.Model]]] = {
        "SESSION": {"": model.Session},
        "RULE": {"": model.Rule},
        "SOURCES": {},
        "DESTINATIONS": {},
        "TABLES": {"flow_limit": model.FlowLimit},
    }
    for title, (described, *_) in TABLES:
        if title.startswith(("source", "destination")):
            kind = json.loads(_kind(described.model_json_schema()["properties"]["type"], ""))
            tables["SOURCES" if title.startswith("source") else "DESTINATIONS"][kind] = described
    lines = ['"""The keys that the command line takes, each with the words that it takes, if only some.', ""]
    lines += ["Written by docs/generate.py from the models, which take too long to import: change those.", '"""', ""]
    lines += ["Keys = dict[str, tuple[str, ...]]", ""]
    lines.append(f"REQUIRED = {_tuple(name for name, one in model.Session.model_fields.items() if one.is_required())}")
    root = click.Context(mirrorctl, info_name="mirrorctl")
    lines += ["", "COMMANDS = {"]
    for name in mirrorctl.list_commands(root):
        command = mirrorctl.get_command(root, name)
        assert command is not None  # it was listed
        lines.append(f"    {json.dumps(name)}: {json.dumps(command.get_short_help_str(500))},")
    lines.append("}")
    lines += ["", "HELP = {"]
    for name, text in _texts(model.Session).items():
        brief = re.split(r"(?<=\.) ", text)[0].replace("`", "")
        lines.append(f"    {json.dumps(name)}: {json.dumps(brief)},")
    lines.append("}")
    for table, kinds in tables.items():
        lines += ["", f"{table}: {'Keys' if '' in kinds else 'dict[str, Keys]'} = {{"]
        for kind, one in kinds.items():
            indent = "    " if kind else ""
            lines += [f'    "{kind}": {{'] * bool(kind)
            lines += [f'{indent}    "{key}": {_tuple(words)},' for key, words in _words(one)]
            lines += ["    },"] * bool(kind)
        lines.append("}")
    return "\n".join([*lines, ""])


def _words(described: type[model.Model]) -> Iterator[tuple[str, list[str]]]:
    """Each key and the words that it takes; none where it takes others as well."""
    for name, schema in described.model_json_schema()["properties"].items():
        alias = _alias(described, name)
        if alias in NESTED:
            yield from ((f"{name}.{key}", words) for key, words in _words(NESTED[alias]))
            continue
        kind = "" if alias in TYPES else _kind(schema, alias)
        yield name, [word.strip('"') for word in kind.split(", ")] if kind == "true, false" or '"' in kind else []


def _tuple(words: Iterable[str]) -> str:
    listed = [json.dumps(word) for word in words]
    return f"({', '.join(listed)}{',' * (len(listed) == 1)})"


def _leaves(context: click.Context) -> Iterator[click.Context]:
    if not isinstance(context.command, click.Group):
        yield context
        return
    for name in context.command.list_commands(context):
        command = context.command.get_command(context, name)
        assert command is not None  # it was listed
        yield from _leaves(click.Context(command, info_name=name, parent=context))


def _options(context: click.Context) -> Iterator[str]:
    for one in context.command.params:
        record = one.get_help_record(context)
        if record is not None and isinstance(one, click.Option):
            yield from (".TP", f".B {_roff(record[0])}", _roff(record[1]))


def _roff(text: str) -> str:
    """A line of text as roff takes it."""
    plain = text.replace("\\", "\\e").replace("`", "").replace("-", "\\-")
    return f"\\&{plain}" if plain[:1] in ".'" else plain


PAGES = {
    HERE / "configuration.md": page,
    HERE / "man" / "mirrord.toml.5": manual,
    HERE / "man" / "mirrorctl.1": commands,
    VOCABULARY: vocabulary,
}
"""Each file that is written, and what makes its text."""


def main() -> None:
    before = VOCABULARY.read_text()
    for file, text in PAGES.items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text())
    if VOCABULARY.read_text() != before:  # the commands have their options' words from it: now with the new ones
        os.execv(sys.executable, [sys.executable, "-m", "docs.generate"])  # noqa: S606 (itself)


if __name__ == "__main__":
    main()
