"""A group of commands that helps with a misspelt one, and lists its commands in the order in which they were added.

Each command takes --json, too: it means the same as before the command. With it, bad usage is told in JSON as well.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import click

from mirrord.cli.asker import USAGE
from mirrord.errors import nearest

OUTPUT_FAILS = errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG
JSON, DRY_RUN = "--json", "--dry-run"


def _with(name: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value and not context.resilient_parsing:
            context.obj = replace(context.obj, **{name: True})

    return callback


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")


def changes(command: Callable[..., Any]) -> Callable[..., Any]:
    """Of a command that changes something: it takes --dry-run."""
    text = "Change nothing: tell what would be refused or is doubtful, and what sessions would do."
    option = click.option(DRY_RUN, is_flag=True, expose_value=False, callback=_with("dry_run"), help=text)
    return option(command)


class Group(click.Group):
    """As click's. A command of that name that is not there gives a hint at the nearest one."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        if not isinstance(cmd, click.Group):
            text = "Print the answer as JSON."
            cmd.params.append(
                click.Option([JSON], is_flag=True, expose_value=False, callback=_with("as_json"), help=text)
            )
        super().add_command(cmd, name)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's)
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"no such command: {args[0]}{nearest(args[0], known)}")
        return super().resolve_command(ctx, args)

    def main(self, args: Any = None, *, standalone_mode: bool = True, **named: Any) -> Any:  # type: ignore[override]
        """As click's; what is wrong with the command line is JSON where that is asked for. An output that takes nothing
        is told, and one that is closed is none.
        """
        if sys.stdout is None:
            sys.stdout = _nowhere()
        try:
            return self._main(args, standalone_mode=standalone_mode, **named)
        except OSError as error:
            if error.errno not in OUTPUT_FAILS:
                raise
            click.echo(f"mirrorctl: what is printed cannot be written: {error.strerror}", err=True)
            sys.stdout = _nowhere()  # what is left is not tried again at the end
            sys.exit(1)

    def _main(self, args: Any, *, standalone_mode: bool, **named: Any) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        if not standalone_mode or JSON not in words:
            return super().main(args, standalone_mode=standalone_mode, **named)
        try:
            done: Any = super().main(args, standalone_mode=False, **named)
        except click.Abort:
            sys.exit(1)
        except click.ClickException as error:
            code = "usage" if error.exit_code == USAGE else "failed"
            told = {"code": code, "message": error.format_message(), "path": ""}
            click.echo(json.dumps({"error": told}, indent=2), err=True)
            sys.exit(error.exit_code)
        sys.exit(done if isinstance(done, int) else 0)  # what click gives back of an early end, as of --help
