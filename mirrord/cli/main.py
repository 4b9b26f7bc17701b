"""The command line as a whole: the options before the command, and every command."""

from __future__ import annotations

import click

from mirrord import __version__
from mirrord.cli import audit, capture, change, doctor, explain, filters, networks, objects, sessions, show, top
from mirrord.cli.asker import Asker
from mirrord.cli.group import Group
from mirrord.client import READ_ONLY_SOCKET, SOCKET

COMPLETION = """\b
Completion of commands, options and names, in the shell's own start-up file:
  bash  eval "$(_MIRRORCTL_COMPLETE=bash_source mirrorctl)"
  zsh   eval "$(_MIRRORCTL_COMPLETE=zsh_source mirrorctl)"
  fish  _MIRRORCTL_COMPLETE=fish_source mirrorctl | source

\b
Exit status: 0 done, 1 refused or failed, 2 bad usage, 3 the daemon cannot be reached."""


def _normal(word: str) -> str:
    """An option's name; with the underscores of the TOML it means the same."""
    return word.replace("_", "-")


@click.group(cls=Group, epilog=COMPLETION, context_settings={"token_normalize_func": _normal})
@click.option(
    "--socket",
    "path",
    metavar="PATH",
    default="",
    envvar="MIRRORD_SOCKET",
    help=f"The daemon's control socket; also by MIRRORD_SOCKET. If not given: {SOCKET}, or if that may not be opened,"
    f" {READ_ONLY_SOCKET}.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON; an error too, on stderr.")
@click.version_option(__version__, prog_name="mirrorctl")
@click.pass_context
def main(context: click.Context, path: str, *, as_json: bool) -> None:
    """Look at mirrord and change what it mirrors."""
    context.obj = Asker(path, as_json)


for command in (
    show.status,
    show.list_,
    show.show,
    change.create,
    change.set_,
    change.enable,
    change.disable,
    change.delete,
    sessions.session,
    filters.filter_,
    networks.network,
    objects.apply,
    objects.export,
    audit.audit,
    top.top,
    doctor.doctor,
    explain.explain,
    capture.capture,
    show.reload,
):
    main.add_command(command)
