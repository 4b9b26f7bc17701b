"""`python -m mirrord.cli`."""

from mirrord.cli.main import main

main(prog_name="mirrorctl")
