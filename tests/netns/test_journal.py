"""The log in a real journal: `journalctl -p warning` has the warnings, and a line has one time stamp, the journal's."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.root import Root
from tests.support.topology import Topology
from tests.support.wait import wait_for

CONFIG = """
[filters.none]
rules = [{ priority = 1, action = "reject" }]
[mirrors.m]
"""
JOURNALD = "[Journal]\nStorage=volatile\nAudit=no\nReadKMsg=no\nRateLimitBurst=0\n"
AS_SYSTEMD = (
    "systemd-cat",
    "-t",
    "mirrord",
    "sh",
    "-c",
    'JOURNAL_STREAM=$(stat -L -c %d:%i /dev/fd/2) exec "$@"',
    "sh",
)
"""Standard error is the journal's, and JOURNAL_STREAM says so (systemd.exec(5)); systemd-cat alone does not set it."""


def test_the_journal_knows_what_is_a_warning(net: Topology, tmp_path: Path) -> None:
    host, directory = net.host("host"), tmp_path / "mirrord"
    directory.mkdir()
    with Root(directory) as root:
        (root / "etc/systemd/journald.conf").write_text(JOURNALD)
        (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        journald = host.spawn(*root.enter, "/lib/systemd/systemd-journald")
        wait_for((root / "run/systemd/journal/stdout").exists, "the journal")

        def journal(*words: str) -> str:
            return root.run("journalctl", "--sync") + root.run("journalctl", "-t", "mirrord", "-o", "cat", *words)

        daemon = Daemon(host, directory, CONFIG, up=False, under=[*root.enter, *AS_SYSTEMD], dataplane="python")
        try:
            wait_for(lambda: "started" in journal(), "the start in the journal")
            warnings = journal("-p", "warning")
            assert "has only reject rules: nothing is copied" in warnings
            assert "started" not in warnings
            daemon.file.write_text(f"{daemon.file.read_text()}\ncolour = 1\n")
            daemon.reload()
            wait_for(lambda: "mirrors.m.colour: unknown key" in journal("-p", "err"), "the refusal")
            assert "nothing is copied" not in journal("-p", "err")
            told = journal()
            assert not re.search(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T", told)
            assert not re.search(r"^<[0-9]>", told, re.MULTILINE)
        finally:
            daemon.stop()
            journald.close()
