"""Sessions of a mirror: add, delete. The options of `add` are the keys of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import click

from mirrord.cli import complete
from mirrord.cli.arguments import PAIRS, check, given, pairs, read_by, source
from mirrord.cli.asker import Asker, say
from mirrord.cli.change import mirror_argument
from mirrord.cli.group import Group
from mirrord.model import Session
from mirrord.values import parse_name

Command = Callable[..., None]

HELP = {
    "priority": "Place among the sessions of a mirror with overlap = first; the lowest comes first.",
    "source": "Where frames come from; a bare word is a device.",
    "direction": "As the source sees it.",
    "filter": "Only the frames that this filter accepts.",
    "destination": "Where copies go.",
    "snaplen": "Bytes of a frame that are kept; 0: all.",
    "sampling_rate": "One in n conversations.",
    "rate_limit": "Of what is sent, as 200Mbit; 0: none.",
    "packet_limit": "Copies a second; 0: none.",
    "on_mtu_exceeded": "What becomes of a copy larger than the path MTU.",
    "count_rules": "Count the frames of each rule.",
    "mirror_tunnels": "Do mirror tunnel packets of configured destinations and listeners.",
    "capture": "How frames are read.",
    "ring_size": "Memory for frames that wait, as 8MiB.",
    "workers": "Threads for one busy source.",
    "transmit": "How copies are sent.",
    "gso": "Whether runs of copies go out in one message.",
    "pause_above": "Pause when the destination's link is busier than this, as 80%.",
}

METAVARS = {"rate_limit": "RATE", "ring_size": "SIZE", "pause_above": "N%"}


def _options(command: Command) -> Command:
    """An option for each key of a session, in the model's order."""
    for key, field in reversed(Session.model_fields.items()):
        if key == "name":
            continue
        settings: dict[str, Any] = {"help": HELP[key], "required": field.is_required()}
        words = [word for word in get_args(field.annotation) if isinstance(word, str)]
        if key == "source":
            settings |= {"metavar": f"{PAIRS}|DEVICE", "callback": read_by(source)}
        elif key == "destination":
            settings |= {"metavar": PAIRS, "callback": read_by(pairs)}
        elif key == "filter":
            settings |= {"metavar": "NAME", "shell_complete": complete.filters}
        elif field.annotation is bool:
            settings |= {"is_flag": True, "default": None}
        elif words:
            settings |= {"metavar": "|".join(words), "shell_complete": complete.choices(Session, key)}
        else:
            settings["metavar"] = METAVARS.get(key, "N")
        command = click.option(f"--{key.replace('_', '-')}", key, **settings)(command)
    return command


@click.group("session", cls=Group)
def session() -> None:
    """Add sessions to a mirror and delete them."""


@session.command()
@mirror_argument
@click.argument("name", callback=read_by(parse_name))
@_options
@click.pass_obj
def add(ask: Asker, /, mirror: str, name: str, **options: Any) -> None:
    """Add a session to a mirror.

    Keys of --source and --destination are as in the TOML; a key given again makes a list.

    \b
    mirrorctl session add core vm2 --source tap-vm2 --destination type=vxlan,remote=192.0.2.7,vni=1
    mirrorctl session add core vm3 --source type=device,device=tap-vm3,device=tap-vm4,perspective=guest \\
        --direction ingress --destination type=device,device=em02
    """  # noqa: D301 (click's \b keeps lines as they are)
    written = check(Session, {"name": name, **given(**options)})
    ask(lambda client: client.add_session(mirror, written), say(f"{mirror}/{name}: added"))


@session.command()
@mirror_argument
@click.argument("session", shell_complete=complete.sessions)
@click.pass_obj
def delete(ask: Asker, mirror: str, session: str) -> None:
    """Delete a session of a mirror."""
    ask.deleted(lambda client: client.delete_session(mirror, session), f"{mirror}/{session}")
