"""A group of commands that helps with a misspelt one, and lists its commands in the order in which they were added.

Each command takes --json, too: it means the same as before the command.
"""

from __future__ import annotations

from dataclasses import replace

import click

from mirrord.control.configuration.validation import nearest


def _as_json(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        context.obj = replace(context.obj, as_json=True)


class Group(click.Group):
    """As click's. A command of that name that is not there gives a hint at the nearest one."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        if not isinstance(cmd, click.Group):
            words = "Print the answer as JSON."
            cmd.params.append(click.Option(["--json"], is_flag=True, expose_value=False, callback=_as_json, help=words))
        super().add_command(cmd, name)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's)
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"no such command: {args[0]}{nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)
