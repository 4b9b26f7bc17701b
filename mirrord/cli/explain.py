"""explain: the command alone. What it takes to explain is imported when it runs, since every start would pay for it."""

from __future__ import annotations

from pathlib import Path

import click

from mirrord.cli.asker import Asker
from mirrord.cli.filters import filter_argument


@click.command()
@filter_argument
@click.option(
    "--pcap",
    "file",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="pcap or pcapng; - for stdin.",
)
@click.option("--config", "path", type=click.Path(dir_okay=False), help="Take the filter from here, not the daemon.")
@click.option(
    "--direction",
    type=click.Choice(["ingress", "egress"]),
    default="ingress",
    show_default=True,
    help="Of packets whose direction the file does not tell.",
)
@click.pass_obj
def explain(ask: Asker, filter_: str, file: Path, path: str | None, direction: str) -> None:
    """Tell which rule takes each packet of a capture file, and why the rules before it did not.

    Directions are as the rules name them: those that sessions with this filter see.
    """
    from mirrord.cli import explanation  # noqa: PLC0415 (see above)

    explanation.explain(ask, filter_, file, path, direction)
