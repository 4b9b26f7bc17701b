"""Shell completion: commands, options, the names that the daemon knows, devices, and the keys of `key=value,...`.

When the daemon does not answer, its names are not offered. Whoever presses TAB waits: nothing here imports the models.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, split_arg_string

from mirrord.cli.vocabulary import DESTINATIONS, RULE, SESSION, SOURCES, Keys
from mirrord.client import READ_ONLY_SOCKET, SOCKET, AnsweredError, Client, UnreachableError

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
PATIENCE_SECONDS = 2.0


def mirrors(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The mirrors' names."""
    return _starting(begun, _names(_ask(context, Client.mirrors)))


def sessions(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The names of the sessions of the mirror that the command line has named."""
    name = context.params.get("mirror")
    mirror = _ask(context, lambda client: client.mirror(str(name))) if name else None
    return _starting(begun, _names(mirror["sessions"] if mirror else []))


def captured(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """Sessions as MIRROR/SESSION."""
    mirrors = _ask(context, Client.mirrors) or ()
    return _starting(begun, [f"{mirror['name']}/{one['name']}" for mirror in mirrors for one in mirror["sessions"]])


def filters(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The filters' names."""
    return _starting(begun, _names(_ask(context, Client.filters)))


def rules(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The priorities of the rules of the filter that the command line has named."""
    name = context.params.get("filter_")
    found = _ask(context, lambda client: client.filter(str(name))) if name else None
    return _starting(begun, [str(rule["priority"]) for rule in found["rules"]] if found else [])


def flow_networks(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The flow networks' names."""
    return _starting(begun, _names(_ask(context, Client.flow_networks)))


def devices(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    """The network devices of the namespace that mirrorctl runs in."""
    return _starting(begun, _devices())


def choices(key: str) -> Complete | None:
    """The words that a session's key takes, if it takes some words only."""
    words = SESSION[key]
    return (lambda _, __, begun: _starting(begun, words)) if words else None


def source(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    """A device, or the keys of a source."""
    return _pairs(begun, _of_type(begun, SOURCES, "device")) + ([] if "=" in begun else _starting(begun, _devices()))


def destination(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    """The keys of a destination."""
    return _pairs(begun, _of_type(begun, DESTINATIONS, ""))


def rule(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    """The keys of a rule."""
    return _pairs(begun, RULE)


def session(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    """The keys of a session, dotted where one is a table."""
    keys = {key: words for key, words in SESSION.items() if key not in ("source", "destination")}
    for side, types in (("source", SOURCES), ("destination", DESTINATIONS)):
        own = ",".join(part.removeprefix(f"{side}.") for part in begun.split(",") if part.startswith(f"{side}."))
        keys |= {f"{side}.{key}": words for key, words in _of_type(own, types, "").items()}
    return _pairs(begun, keys)


# --- key=value,... ---


def _of_type(begun: str, types: dict[str, Keys], otherwise: str) -> Keys:
    """The keys of the type that the text names; of every type where it names none. `type` has all types' words."""
    named = next((part.removeprefix("type=") for part in begun.split(",") if part.startswith("type=")), otherwise)
    chosen = [types[named]] if named in types else types.values()
    return {"type": tuple(types)} | {key: words for keys in chosen for key, words in keys.items() if key != "type"}


def _pairs(begun: str, keys: Keys) -> list[CompletionItem]:
    """How a text of `key=value,...` may go on."""
    before, comma, last = begun.rpartition(",")
    key, equals, value = last.partition("=")
    head = before + comma
    if not equals:
        given = {part.partition("=")[0] for part in before.split(",")}
        return _starting(begun, (f"{head}{name}=" for name in keys if name not in given or not keys[name]))
    words = keys.get(key, ()) or (_devices() if key.rpartition(".")[2] in ("device", "bridge") else ())
    return [CompletionItem(f"{head}{key}={word}") for word in words if word.startswith(value)]


def _devices() -> tuple[str, ...]:
    """Those of the network namespace that this process is in; /sys would have those of who mounted it."""
    import socket  # noqa: PLC0415 (few completions need it)

    return tuple(sorted(name for _, name in socket.if_nameindex()))


# --- the daemon's names ---


def _ask(context: click.Context, question: Callable[[Client], Any]) -> Any:
    path = context.find_root().params["path"]
    try:
        return question(Client(path or (SOCKET, READ_ONLY_SOCKET), PATIENCE_SECONDS))
    except (UnreachableError, AnsweredError):
        return None


def _names(objects: Iterable[dict[str, Any]] | None) -> list[str]:
    return [str(one["name"]) for one in objects or ()]


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
