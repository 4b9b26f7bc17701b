"""A group of commands that helps with a misspelt one, and lists its commands in the order in which they were added."""

from __future__ import annotations

import click

from mirrord.control.validation import nearest


class Group(click.Group):
    """As click's. A command of that name that is not there gives a hint at the nearest one."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's)
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"no such command: {args[0]}{nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)
