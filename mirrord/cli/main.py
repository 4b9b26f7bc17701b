"""The command line as a whole: the options before the command, and where each command is.

A command's module is imported when the command is used, or completed: it would cost every other one its time.
"""

from __future__ import annotations

import os
from importlib import import_module

import click
from click.core import ParameterSource

from mirrord import __version__
from mirrord.cli.asker import Asker
from mirrord.cli.group import Group
from mirrord.cli.vocabulary import COMMANDS
from mirrord.client import AGENT_SOCKET, READ_ONLY_SOCKET, SOCKET

COMPLETION = """\b
Completion of commands, options and names, in the shell's own start-up file:
  bash  eval "$(_MIRRORCTL_COMPLETE=bash_source mirrorctl)"
  zsh   eval "$(_MIRRORCTL_COMPLETE=zsh_source mirrorctl)"
  fish  _MIRRORCTL_COMPLETE=fish_source mirrorctl | source

\b
Exit status: 0 done, 1 refused or failed, 2 bad usage, 3 the daemon cannot be reached."""


PLACES = {
    "status": "show",
    "list": "show.list_",
    "show": "show",
    "create": "change",
    "set": "change.set_",
    "enable": "change",
    "disable": "change",
    "delete": "change",
    "session": "sessions",
    "filter": "filters.filter_",
    "network": "networks",
    "apply": "objects",
    "export": "objects",
    "audit": "audit",
    "sources": "sources",
    "top": "top",
    "doctor": "doctor",
    "explain": "explain",
    "capture": "capture",
    "extcap": "extcap",
    "console": "console",
    "reload": "show",
    "hosts": "cluster",
    "wait": "cluster",
    "forget-host": "cluster.forget_host",
}
"""The module of each command, and what it is called there if that is not its name."""

CLUSTER_ONLY = ("hosts", "wait", "forget-host")
DAEMON_ONLY = ("sources", "top", "doctor", "reload")

if "_MIRRORCTL_COMPLETE" in os.environ:
    import_module("mirrord.cli.complete")  # bash's way is there


class Commands(Group):
    """Every command, by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's)
        return list(PLACES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in PLACES and cmd_name not in self.commands:
            module, _, called = PLACES[cmd_name].partition(".")
            self.add_command(getattr(import_module(f"mirrord.cli.{module}"), called or cmd_name), cmd_name)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 (click's)
        limit = formatter.width - 6 - max(map(len, COMMANDS))  # as click's own
        with formatter.section("Commands"):
            shortened = [
                (name, click.Command(name, help=text).get_short_help_str(limit)) for name, text in COMMANDS.items()
            ]
            formatter.write_dl(shortened)


def _normal(word: str) -> str:
    """An option's name; with the underscores of the TOML it means the same."""
    return word.replace("_", "-")


@click.group(cls=Commands, epilog=COMPLETION, context_settings={"token_normalize_func": _normal})
@click.option(
    "--socket",
    "path",
    metavar="PATH",
    default="",
    envvar="MIRRORD_SOCKET",
    help=f"The daemon's control socket; also by MIRRORD_SOCKET. If not given: {SOCKET}, or if that may not be opened,"
    f" {READ_ONLY_SOCKET}.",
)
@click.option(
    "--cluster",
    is_flag=True,
    help=f"Ask this host's mirrord-agent, for the whole cluster. If --socket is not given: {AGENT_SOCKET}.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON; an error too, on stderr.")
@click.version_option(__version__, prog_name="mirrorctl")
@click.pass_context
def main(context: click.Context, path: str, *, cluster: bool, as_json: bool) -> None:
    """Look at mirrord and change what it mirrors."""
    if cluster and context.get_parameter_source("path") is ParameterSource.ENVIRONMENT:
        path = ""  # it names the daemon's
    if not cluster and context.invoked_subcommand in CLUSTER_ONLY and not context.resilient_parsing:
        raise click.UsageError(
            f"{context.invoked_subcommand} is about a cluster: mirrorctl --cluster {context.invoked_subcommand}"
        )
    if cluster and context.invoked_subcommand in DAEMON_ONLY and not context.resilient_parsing:
        raise click.UsageError(f"{context.invoked_subcommand} is of one host: without --cluster")
    context.obj = Asker(path, as_json, cluster=cluster)
