"""What the commands of the daemon and of a cluster's agent have in common."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from mirrord.control import logs
from mirrord.errors import ConfigError

log_format = click.option(
    "--log-format",
    type=click.Choice(["console", "json"]),
    default="console",
    show_default=True,
    help="How the log is written to standard error.",
)


def refuse(program: str, error: ConfigError) -> NoReturn:
    """End the program for a configuration that is wrong: each problem is a line."""
    for problem in error.problems:
        click.echo(logs.with_priority("error", f"{program}: {problem}"), err=True)
    sys.exit(error.exit_status)
