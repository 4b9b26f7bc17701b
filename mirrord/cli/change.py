"""Mirrors: create, set, enable, disable, delete."""

from __future__ import annotations

from typing import Any

import click

from mirrord.cli import complete
from mirrord.cli.arguments import PAIRS, check, given, name, read_by, session
from mirrord.cli.asker import Asker
from mirrord.cli.group import changes

mirror_argument = click.argument("mirror", shell_complete=complete.mirrors)


@click.command()
@click.argument("mirror", callback=read_by(name))
@click.option("--description", help="What it is for: one line.")
@click.option(
    "--flow-network",
    metavar="NAME",
    help="The network set aside for its copies.",
    shell_complete=complete.flow_networks,
)
@click.option("--expires", metavar="2h|TIME", help="When it ends: how long from when it is enabled, or a time.")
@click.option("--duplicates", metavar="keep|drop", help="What becomes of a packet that passes several of its sources.")
@click.option("--duplicate-window", metavar="TIME", help="How far apart these show it at most, as 1ms.")
@click.option("--enable", is_flag=True, help="Let its sessions run at once. Without this it is made disabled.")
@click.option(
    "--session",
    "sessions",
    metavar=PAIRS,
    callback=read_by(session),
    multiple=True,
    shell_complete=complete.session,
    help="A session to begin with: its keys as in the TOML, dotted where one is a table. May be given again.",
)
@changes
@click.pass_obj
def create(
    ask: Asker,
    mirror: str,
    description: str | None,
    flow_network: str | None,
    expires: str | None,
    duplicates: str | None,
    duplicate_window: str | None,
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
        description=description,
        flow_network=flow_network,
        enabled=enable,
        expires=expires,
        sessions=sessions,
        duplicates=duplicates,
        duplicate_window=duplicate_window,
    )
    table = check("Mirror", written)
    done = f"{mirror}: created, " + ("enabled" if enable else f"disabled (mirrorctl enable {mirror} lets it run)")
    ask.change(lambda client: client.create_mirror(mirror, table), done)


@click.command("set")
@mirror_argument
@click.option("--name", "new", callback=read_by(name), help="A new name.")
@click.option("--description", help="A new description.")
@click.option(
    "--flow-network",
    metavar="NAME",
    help='Another network set aside for its copies; "": none.',
    shell_complete=complete.flow_networks,
)
@click.option("--overlap", metavar="all|first", help="Which of several sessions that match a frame copy it.")
@click.option("--duplicates", metavar="keep|drop", help="What becomes of a packet that passes several of its sources.")
@click.option("--duplicate-window", metavar="TIME", help="How far apart these show it at most, as 1ms.")
@click.option(
    "--expires", metavar="2h|TIME", help='When it ends: how long, from now if it is enabled; or a time; "": never.'
)
@changes
@click.pass_obj
def set_(ask: Asker, /, mirror: str, new: str | None, **options: str | None) -> None:
    """Rename, describe or change a mirror. Its sessions run on."""
    written = given(**options)
    if not (written or new):
        raise click.UsageError(
            "nothing to set: give --name, --description, --flow-network, --overlap, --duplicates, ..."
        )
    gone = {key: None for key in ("flow_network", "expires") if written.get(key) == ""}  # RFC 7396: as by default
    check("Mirror", {key: value for key, value in written.items() if key not in gone})
    done = f"renamed to {new}" if new else "described" if list(written) == ["description"] else "set"
    ask.change(lambda client: client.change_mirror(mirror, {**written, **gone, **given(name=new)}), f"{mirror}: {done}")


@click.command()
@mirror_argument
@changes
@click.pass_obj
def enable(ask: Asker, mirror: str) -> None:
    """Let a mirror's sessions run."""
    ask.change(lambda client: client.enable_mirror(mirror), f"{mirror}: enabled")


@click.command()
@mirror_argument
@changes
@click.pass_obj
def disable(ask: Asker, mirror: str) -> None:
    """Stop a mirror's sessions; it stays configured."""
    ask.change(lambda client: client.disable_mirror(mirror), f"{mirror}: disabled")


@click.command()
@mirror_argument
@changes
@click.pass_obj
def delete(ask: Asker, mirror: str) -> None:
    """Delete a mirror and its sessions."""
    ask.deleted(lambda client: client.delete_mirror(mirror), mirror)
