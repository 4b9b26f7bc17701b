"""Mirrors: create, set, enable, disable, delete."""

from __future__ import annotations

from typing import Any

import click

from mirrord.cli import complete
from mirrord.cli.arguments import PAIRS, check, given, read_by, session
from mirrord.cli.asker import Asker, say
from mirrord.model import Mirror
from mirrord.values import parse_name

mirror_argument = click.argument("mirror", shell_complete=complete.mirrors)


@click.command()
@click.argument("mirror", callback=read_by(parse_name))
@click.option("--description", help="What it is for: one line.")
@click.option(
    "--flow-network",
    metavar="NAME",
    help="The network set aside for its copies.",
    shell_complete=complete.flow_networks,
)
@click.option("--expires", metavar="2h|TIME", help="When it ends: how long from when it is enabled, or a time.")
@click.option("--enable", is_flag=True, help="Let its sessions run at once. Without this it is made disabled.")
@click.option(
    "--session",
    "sessions",
    metavar=PAIRS,
    callback=read_by(session),
    multiple=True,
    help="A session to begin with: its keys as in the TOML, dotted where one is a table. May be given again.",
)
@click.pass_obj
def create(
    ask: Asker,
    mirror: str,
    description: str | None,
    flow_network: str | None,
    expires: str | None,
    sessions: list[dict[str, Any]],
    *,
    enable: bool,
) -> None:
    """Create a mirror, with sessions at once if wanted.

    \b
    mirrorctl create core --enable --session \\
        name=vm2,source=tap-vm2,filter=web_in,destination.type=vxlan,destination.remote=192.0.2.7,destination.vni=1
    mirrorctl create core --session name=vm2,source.type=device,source.device=tap-vm2,source.perspective=guest,\\
        direction=both,destination.type=device,destination.device=em02
    """  # noqa: D301 (click's \b keeps lines as they are)
    written = given(
        description=description, flow_network=flow_network, enabled=enable, expires=expires, sessions=sessions
    )
    table = check(Mirror, written)
    done = f"{mirror}: created, " + ("enabled" if enable else f"disabled (mirrorctl enable {mirror} lets it run)")
    ask(lambda client: client.create_mirror(mirror, table), say(done))


@click.command("set")
@mirror_argument
@click.option("--name", callback=read_by(parse_name), help="A new name.")
@click.option("--description", help="A new description.")
@click.option("--expires", metavar="2h|TIME|never", help="When it ends: how long from now if it is enabled, or a time.")
@click.pass_obj
def set_(ask: Asker, mirror: str, name: str | None, description: str | None, expires: str | None) -> None:
    """Rename or describe a mirror, or set when it ends. Its sessions run on."""
    changes = given(name=name, description=description, expires=expires)
    if not changes:
        raise click.UsageError("nothing to set: give --name, --description or --expires")
    if expires == "never":
        changes["expires"] = None
    check(Mirror, {key: value for key, value in changes.items() if key != "name"})
    done = f"{mirror}: renamed to {name}" if name else f"{mirror}: changed" if expires else f"{mirror}: described"
    ask(lambda client: client.change_mirror(mirror, changes), say(done))


@click.command()
@mirror_argument
@click.pass_obj
def enable(ask: Asker, mirror: str) -> None:
    """Let a mirror's sessions run."""
    ask(lambda client: client.enable_mirror(mirror), say(f"{mirror}: enabled"))


@click.command()
@mirror_argument
@click.pass_obj
def disable(ask: Asker, mirror: str) -> None:
    """Stop a mirror's sessions; it stays configured."""
    ask(lambda client: client.disable_mirror(mirror), say(f"{mirror}: disabled"))


@click.command()
@mirror_argument
@click.pass_obj
def delete(ask: Asker, mirror: str) -> None:
    """Delete a mirror and its sessions."""
    ask.deleted(lambda client: client.delete_mirror(mirror), mirror)
