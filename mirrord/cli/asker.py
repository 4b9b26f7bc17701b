"""How a command asks: one connection, one answer, and the exit status when there is none."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from mirrord.client import AGENT_SOCKET, READ_ONLY_SOCKET, SOCKET, AnsweredError, Client, UnreachableError

if TYPE_CHECKING:
    from mirrord.cli.screen import Screen

T = TypeVar("T")
DONE, REFUSED, USAGE, UNREACHABLE = range(4)

ADVICE = {
    errno.ENOENT: "there is no socket: is the daemon running (systemctl status mirrord), and is its `socket` this path?"
    " --socket or MIRRORD_SOCKET names another",
    errno.ECONNREFUSED: "nothing listens there any more: start the daemon (systemctl start mirrord)"
    " and see why it ended (journalctl -u mirrord)",
    errno.EACCES: "you may not open it: be root or a member of the group that `socket_group` names"
    " (ls -l shows it; a new membership counts from the next login)",
}
CLUSTER_ADVICE = {
    errno.ENOENT: "there is no socket: is this host in a cluster, with mirrord-agent running (systemctl status"
    " mirrord-agent), and is its `socket` this path? --socket names another",
    errno.ECONNREFUSED: "nothing listens there any more: start the agent (systemctl start mirrord-agent)"
    " and see why it ended (journalctl -u mirrord-agent)",
    errno.EACCES: ADVICE[errno.EACCES],
}
WOULD = {
    "start": "start",
    "stop": "stop",
    "restart": "begin anew",
    "change": "change as it runs",
    "rename": "be renamed as it runs",
    "wait": "wait",
}
"""By what a change that is tried would do to a session."""
READS_ALONE = (
    f"{READ_ONLY_SOCKET} is for reading alone, and you may not open {SOCKET}: to change something, be root or a member"
    " of the group that `socket_group` names (ls -l shows it; a new membership counts from the next login)"
)


@dataclass(frozen=True, slots=True)
class Asker:
    """Where to ask, whether the answer is wanted as JSON, and whether nothing is to be changed."""

    path: str  # "": the daemon's own, or else the one for reading alone
    as_json: bool
    dry_run: bool = False
    cluster: bool = False  # ask the agent, for the whole cluster

    def __call__(self, question: Callable[[Client], Any], show: Callable[[Any, Screen], None]) -> None:
        """Ask, and print the answer; exit 1 or 3 when there is none."""
        self.show(self.answer(question), show)

    def answer(self, question: Callable[[Client], T]) -> T:
        """What the daemon answers; exit 1 or 3 when it does not."""
        client = self.client()
        try:
            return question(client)
        except (UnreachableError, AnsweredError) as error:
            self.fail(error, client)

    def change(self, question: Callable[[Client], Any], done: str) -> None:
        """Ask for a change, and say that it was done, or with --dry-run could be."""
        self.apply(question, say(f"{done} (dry run: nothing was changed)" if self.dry_run else done))

    def apply(self, question: Callable[[Client], Any], show: Callable[[Any, Screen], None]) -> None:
        """Ask for a change, and print what became of it; what is doubtful about it, on standard error."""
        answer = self.answer(question)
        for warning in answer.get("warnings", ()) if not self.as_json else ():
            click.echo(f"mirrorctl: warning: {_located(warning)}", err=True)
        self.show(answer, self._with_effects(answer, show))

    def deleted(self, question: Callable[[Client], Any], name: str) -> None:
        """Ask for something to be deleted, and say that it was."""
        answer = self.answer(question)
        if self.dry_run:
            self.show(answer, self._with_effects(answer, say(f"{name}: deleted (dry run: nothing was changed)")))
        else:
            self.show({"deleted": name}, say(f"{name}: deleted"))

    def _with_effects(self, answer: Any, show: Callable[[Any, Screen], None]) -> Callable[[Any, Screen], None]:
        """Show also what a change would do to sessions, if it was only tried."""

        def shown(told: Any, screen: Screen) -> None:
            show(told, screen)
            for one in answer.get("sessions", ()):
                would = WOULD[one["effect"]]
                screen.print(f"session {one['session']} of {one['mirror']} on {one['source']} would {would}")

        return shown if self.dry_run else show

    def show(self, answer: Any, show: Callable[[Any, Screen], None]) -> None:
        """Print what was answered: as JSON, or in words."""
        if self.as_json:
            click.echo(json.dumps(answer, indent=2))
        else:
            from mirrord.cli.screen import Screen  # noqa: PLC0415 (what only asks for help needs none)

            try:
                show(answer, Screen())
            except KeyError as error:
                click.echo(
                    f"mirrorctl: {self._who} did not tell {error}: it is another version's, restart it", err=True
                )
                sys.exit(REFUSED)

    def client(self) -> Client:
        """Asks at the socket that was named, or else at the usual ones."""
        usual = (AGENT_SOCKET,) if self.cluster else (SOCKET, READ_ONLY_SOCKET)
        paths = (self.path,) if self.path else usual
        return Client(paths, dry_run=self.dry_run, silent=self._silent)

    @property
    def _who(self) -> str:
        return "the agent" if self.cluster else "the daemon"

    def _silent(self) -> None:
        click.echo(f"mirrorctl: {self._who} is there and does not answer yet; Ctrl-C gives up", err=True)

    def fail(self, error: UnreachableError | AnsweredError, client: Client | None = None) -> NoReturn:
        """Print why there is no answer, and exit."""
        unreachable = isinstance(error, UnreachableError)
        if self.as_json:
            click.echo(json.dumps({"error": error.as_json()}, indent=2), err=True)
        else:
            click.echo(f"mirrorctl: {f'{self._who} cannot be reached: ' if unreachable else ''}{error}", err=True)
            if isinstance(error, UnreachableError) and (CLUSTER_ADVICE if self.cluster else ADVICE).get(error.errno):
                click.echo(f"mirrorctl: {(CLUSTER_ADVICE if self.cluster else ADVICE)[error.errno]}", err=True)
            if getattr(error, "code", "") == "method_not_allowed" and client and client.path == READ_ONLY_SOCKET:
                click.echo(f"mirrorctl: {READS_ALONE}", err=True)
        sys.exit(UNREACHABLE if unreachable else REFUSED)


def _located(warning: dict[str, str]) -> str:
    return ": ".join(part for part in (warning["path"], warning["message"]) if part)


def say(text: str) -> Callable[[Any, Screen], None]:
    """Show an answer by this text alone."""
    return lambda _, screen: screen.print(text)
