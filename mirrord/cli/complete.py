"""Shell completion: commands, options, the names that the daemon knows, devices, and the keys of `key=value,...`.

When the daemon does not answer, its names are not offered. Whoever presses TAB waits: nothing here imports the models.
"""

from __future__ import annotations

import json
import os
import socket
import string
from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, split_arg_string

from mirrord.cli.vocabulary import DESTINATIONS, RULE, SESSION, SOURCES, TABLES, Keys
from mirrord.client import AGENT_SOCKET, READ_ONLY_SOCKET, SOCKET

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
PATIENCE_SECONDS = 2.0
UNRESERVED = {*string.ascii_letters, *string.digits, *"-._~"}


def mirrors(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The mirrors' names."""
    return _starting(begun, _names(_ask(context, "mirrors")))


def sessions(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The names of the sessions of the mirror that the command line has named."""
    name = context.params.get("mirror")
    return _starting(begun, _names(_ask(context, "mirrors", str(name), "sessions"))) if name else []


def captured(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """Sessions as MIRROR/SESSION."""
    found = _ask(context, "mirrors").get("mirrors", ())
    return _starting(begun, [f"{mirror['name']}/{one['name']}" for mirror in found for one in mirror["sessions"]])


def filters(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The filters' names."""
    return _starting(begun, _names(_ask(context, "filters")))


def rules(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The priorities of the rules of the filter that the command line has named."""
    name = context.params.get("filter_")
    found = _ask(context, "filters", str(name)) if name else {}
    return _starting(begun, [str(rule["priority"]) for rule in found.get("rules", ())])


def flow_networks(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The flow networks' names."""
    return _starting(begun, _names(_ask(context, "flow_networks")))


def hosts(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The hosts of the cluster."""
    return _starting(begun, [one["host"] for one in _ask(context, "hosts").get("hosts", ())])


def devices(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    """The network devices of the namespace that mirrorctl runs in."""
    return _starting(begun, _devices())


def choices(key: str) -> Complete | None:
    """The words that a session's key takes, if it takes some words only."""
    words = SESSION[key]
    return (lambda _, __, begun: _starting(begun, words)) if words else None


def source(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """A device, or the keys of a source."""
    found = _pairs(context, begun, _of_type(begun, SOURCES, "device"))
    return found + ([] if "=" in begun else _starting(begun, _devices()))


def destination(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The keys of a destination."""
    return _pairs(context, begun, _of_type(begun, DESTINATIONS, ""))


def rule(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The keys of a rule."""
    return _pairs(context, begun, RULE)


def table(key: str) -> Complete:
    """The keys of a session's table."""
    return lambda context, _, begun: _pairs(context, begun, TABLES[key])


def session(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The keys of a session, dotted where one is a table."""
    keys = {key: words for key, words in SESSION.items() if key not in ("source", "destination", *TABLES)}
    keys |= {f"{table}.{key}": words for table, own in TABLES.items() for key, words in own.items()}
    for side, types in (("source", SOURCES), ("destination", DESTINATIONS)):
        own = ",".join(part.removeprefix(f"{side}.") for part in begun.split(",") if part.startswith(f"{side}."))
        keys |= {f"{side}.{key}": words for key, words in _of_type(own, types, "").items()}
    return _pairs(context, begun, keys)


# --- key=value,... ---


def _of_type(begun: str, types: dict[str, Keys], otherwise: str) -> Keys:
    """The keys of the type that the text names; of every type where it names none. `type` has all types' words."""
    named = next((part.removeprefix("type=") for part in begun.split(",") if part.startswith("type=")), otherwise)
    chosen = [types[named]] if named in types else types.values()
    return {"type": tuple(types)} | {key: words for keys in chosen for key, words in keys.items() if key != "type"}


def _pairs(context: click.Context, begun: str, keys: Keys) -> list[CompletionItem]:
    """How a text of `key=value,...` may go on."""
    before, comma, last = begun.rpartition(",")
    key, equals, value = last.partition("=")
    head = before + comma
    if not equals:
        given = {part.partition("=")[0] for part in before.split(",")}
        return _starting(begun, (f"{head}{name}=" for name in keys if name not in given or not keys[name]))
    words = keys.get(key, ()) or _there(context, key, before)
    return [CompletionItem(f"{head}{key}={word}") for word in words if word.startswith(value)]


def _there(context: click.Context, key: str, before: str) -> Iterable[str]:
    """What there is of a key's kind: devices, VMs and containers that the daemon knows. `before`: other keys."""
    side, dot, name = key.rpartition(".")
    if name in ("device", "bridge"):
        return _devices()
    if name not in ("vm", "container", "label", "nic"):
        return ()
    given = dict(part.removeprefix(side + dot).split("=", 1) for part in before.split(",") if "=" in part)
    kind = "container" if given.get("type") == "container" or name in ("container", "label") else "vm"
    guests = [
        guest
        for one in _ask(context, "sources", query="at_once=true").get("sources", ())
        if (guest := one["guest"]) and guest["type"] == kind
    ]
    if name == "nic":
        chosen = given.get("vm") or given.get("container")
        nics = [one for one in guests if not chosen or chosen in (one["name"], one["id"])]
        # of a VM, what lasts stands first
        names = [*(one["mac" if kind == "vm" else "nic_name"] for one in nics)]
        names += [str(one["nic"]) for one in nics] if kind == "vm" else []
    elif name == "label":
        names = [f"{label}={value}" for one in guests for label, value in one["labels"].items()]
    else:
        names = [one["name"] for one in guests]
    return dict.fromkeys(one for one in names if one and "," not in one)


def _devices() -> tuple[str, ...]:
    """Those of the network namespace that this process is in; /sys would have those of who mounted it."""
    return tuple(sorted(name for _, name in socket.if_nameindex()))


# --- the daemon's names ---


def _ask(context: click.Context, *resource: str, query: str = "") -> dict[str, Any]:
    """What the daemon says of a resource; nothing where it does not answer.

    In the words of HTTP/1.0 (RFC 1945), by hand: to import an HTTP library would be a third of what TAB takes.
    """
    given = context.find_root().params
    path = given["path"]
    address = "/".join(["/v1", *map(_quoted, resource)]) + f"?{query}" * bool(query)
    usual = [AGENT_SOCKET] if given.get("cluster") else [SOCKET, READ_ONLY_SOCKET]
    for each in [path] if path else usual:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(PATIENCE_SECONDS)
                connection.connect(each)
                connection.sendall(f"GET {address} HTTP/1.0\r\n\r\n".encode())
                head, _, body = b"".join(iter(lambda: connection.recv(1 << 16), b"")).partition(b"\r\n\r\n")
        except OSError:
            continue
        answer = json.loads(body) if head.split(None, 2)[1:2] == [b"200"] else {}
        return answer if isinstance(answer, dict) else {}
    return {}


def _quoted(text: str) -> str:
    """A part of a path (RFC 3986, section 2.1)."""
    return "".join(chr(one) if chr(one) in UNRESERVED else f"%{one:02X}" for one in text.encode())


def _names(answer: dict[str, Any]) -> list[str]:
    """Of the objects in a list, which is all that there is in the answer."""
    return [str(one["name"]) for listed in answer.values() if isinstance(listed, list) for one in listed]


def _starting(begun: str, names: Iterable[str]) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(begun)]


# --- bash ---

BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' line=${COMP_LINE:0:COMP_POINT} current=${COMP_WORDS[COMP_CWORD]} response one
    response=$(env COMP_WORDS="$line" COMP_CWORD=$COMP_CWORD %(complete_var)s=bash_complete "$1")
    # To bash a word also ends at = and :, and what is completed is what follows the last of them.
    [[ $current == [=:] ]] && current=
    local word=${line##*[[:space:]]}
    local head=${word%%"$current"}
    COMPREPLY=()
    for one in $response; do
        case $one in
        dir,*) compopt -o dirnames ;;
        file,*) compopt -o default ;;
        plain,*)
            one=${one#*,}
            [[ $one == *=* ]] && compopt -o nospace
            COMPREPLY+=("${one#"$head"}")
            ;;
        esac
    done
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Bash(BashComplete):
    """bash, which splits words at the signs that `key=value` and addresses have in them; the line as it is does not."""

    source_template = BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)
        begun = words.pop() if words and not line.endswith((" ", "\t")) else ""
        return words[1:], begun


add_completion_class(Bash)
