"""What is there and how it does: status, list, show; and reload."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from mirrord.cli import complete
from mirrord.cli.asker import Asker
from mirrord.cli.change import mirror_argument
from mirrord.cli.group import changes
from mirrord.cli.remotes import remotes
from mirrord.cli.screen import Screen, watch, watched
from mirrord.cli.session_rows import dropped, place, print_sessions
from mirrord.cli.tables import Table, name, origin, whole, word, words, written
from mirrord.client import AnsweredError, Client, UnreachableError

ALWAYS = ("source", "destination", "direction")
"""Keys of a session that are shown whatever they say; others when they are not as by default."""

NOT_SETTINGS = ("name", "description", "running", "origin")

watch_option = click.option("-w", "--watch", "live", is_flag=True, help="Anew each second; q or Ctrl-C ends it.")


def show_or_watch(
    ask: Asker, question: Callable[[Client], Any], show: Callable[[Any, Screen], None], *, live: bool
) -> None:
    """Show an answer once, or where a person looks and wants it, each second."""
    if not live or ask.as_json or not watched():
        ask(question, show)
        return
    client = ask.client()
    try:
        watch(lambda screen: show(question(client), screen))
    except (UnreachableError, AnsweredError) as error:
        ask.fail(error, client)


@click.command()
@click.argument("mirror", required=False, shell_complete=complete.mirrors)
@watch_option
@click.pass_obj
def status(ask: Asker, mirror: str | None, *, live: bool) -> None:
    """Show the daemon and every session, or one mirror's: state, rates, drops."""

    def question(client: Client) -> Any:
        answer = client.status()
        if mirror is not None:
            for key in ("sessions", "expired"):
                answer[key] = [one for one in answer.get(key, ()) if one["mirror"] == mirror]
            if not answer["sessions"]:  # disabled, or not there
                client.mirror(mirror)
        return answer

    def show(answer: Any, screen: Screen) -> None:
        if ask.cluster:
            from mirrord.cli.cluster import show_status  # noqa: PLC0415 (it imports this module)

            show_status(answer, screen)
            return
        where = f", network namespace {answer['netns']}" if answer["netns"] else ""
        screen.print(
            f"mirrord {answer['version']}, pid {answer['pid']}, {answer['dataplane']} data plane,"
            f" {answer['config']['path']}{where}"
        )
        screen.print(f"capabilities: {', '.join(answer['capabilities'])}")
        screen.print(costs(answer))
        for problem in answer["config"]["problems"]:
            screen.print(f"last reload refused: {problem}", "red")
        if answer["state"]["problem"]:
            screen.print(f"state database: {answer['state']['problem']}", "red")
        for one in answer["config"]["set_aside"]:
            screen.print(f"{one['section']}.{one['name']} does not run: {one['reason']}", "red")
        for one in answer["expired"]:
            screen.print(f"{one['mirror']} does not run: its time was over at {one['expires']}", "yellow")
        for warning in answer["config"]["warnings"]:
            screen.print(f"warning: {warning}", "yellow")
        print_sessions(answer["sessions"], screen)

    show_or_watch(ask, question, show, live=live)


@click.command("list")
@watch_option
@click.pass_obj
def list_(ask: Asker, *, live: bool) -> None:
    """List the mirrors, with the number of their sessions and what these have mirrored and lost."""

    def show(answer: Any, screen: Screen) -> None:
        shown = Table(
            [
                name("MIRROR"),
                whole("ENABLED", 2),
                whole("SESSIONS", 3),
                whole("UP"),
                whole("MIRRORED", 1),
                whole("DROPPED"),
                name("ORIGIN", 4),
                words("DESCRIPTION", 5),
            ]
        )
        for mirror in answer:
            running = [source for session in mirror["sessions"] for source in session["running"]]
            up = f"{sum(source['state'] == 'up' for source in running)}/{len(running)}"
            enabled = "expired" if mirror["expired"] else "yes" if mirror["enabled"] else "no"
            mirrored = sum(source["counters"]["mirrored_frames"] for source in running)
            counts = len(mirror["sessions"]), up, mirrored, dropped(running)
            shown.row(mirror["name"], enabled, *counts, origin(mirror), mirror["description"])
        screen.table(shown)

    show_or_watch(ask, Client.mirrors, show, live=live)


@click.command()
@mirror_argument
@watch_option
@click.pass_obj
def show(ask: Asker, mirror: str, *, live: bool) -> None:
    """Show one mirror and its sessions, with counters."""

    def show(answer: Any, screen: Screen) -> None:
        enabled = "enabled" if answer["enabled"] else "disabled"
        if answer["expires"]:
            enabled += f", {'expired' if answer['expired'] else 'expires'} {answer['expires']}"
        network = f", flow network {answer['flow_network']}" if answer["flow_network"] else ""
        about = f". {answer['description']}" if answer["description"] else ""
        screen.print(f"{answer['name']}: {enabled}{network}, origin {origin(answer)}{about}")
        for session in answer["sessions"]:
            about = f" ({session['description']})" if session["description"] else ""
            screen.print(f"{session['name']}{about}: {_settings(session)}")
        sources = [source for session in answer["sessions"] for source in session["running"]]
        if sources:
            print_sessions(sources, screen)
        print_remotes(sources, screen)
        for source in sources:
            held = f", {binary(source['memory_bytes'])} of rings, tables and recorder" if source["memory_bytes"] else ""
            screen.print(f"\n{source['session']} on {place(source)}{without_ethernet(source)}{held}")
            screen.table(_counters(source))

    show_or_watch(ask, lambda client: client.mirror(mirror), show, live=live)


@click.command()
@changes
@click.pass_obj
def reload(ask: Asker) -> None:
    """Have the daemon read its configuration again, as SIGHUP does. Exit status: 1 where it is refused."""
    tried = "the configuration would be taken over (dry run: nothing was changed)"
    ask.apply(Client.reload, lambda answer, out: out.print(tried if ask.dry_run else f"reloaded {answer['reloaded']}"))


def print_remotes(sources: Sequence[Any], screen: Screen) -> None:
    """The collectors of sessions that have several."""
    if (shown := remotes(sources)) is not None:
        screen.print("")
        screen.table(shown)


def _settings(session: Any) -> str:
    """The session's keys in words, those left out that are as by default."""
    defaults = session_defaults()
    return "; ".join(
        f"{key} {written(value) if isinstance(value, dict) else word(value)}"
        for key, value in session.items()
        if key not in NOT_SETTINGS and (key in ALWAYS or value != defaults.get(key, value))
    )


def session_defaults() -> dict[str, Any]:
    """A session's keys as by default."""
    from mirrord.model import Session  # noqa: PLC0415 (it takes a while)

    ends = {"source": "eth0", "destination": {"type": "device", "device": "eth1"}}
    return Session.model_validate({"name": "s", **ends}).model_dump(mode="json", exclude={"name", *ends})


def without_ethernet(session: Any) -> str:
    """That the source has no Ethernet; "" where it has."""
    return ": IP packets, without Ethernet" if session.get("link") == "ip" else ""


def costs(status: Any) -> str:
    """What mirroring takes of the host, and what it may."""
    found = status["costs"]
    of = {
        "cpu_limit": f"{found['cpu_limit']:.0%}" if found["cpu_limit"] else "none",
        "memory_limit": binary(found["memory_limit"]) if found["memory_limit"] else "none",
    }
    return (
        f"workers take {found['cores']:.0%} of a core (cpu_limit {of['cpu_limit']}), rings, tables and recorders"
        f" {binary(found['memory_bytes'])} (memory_limit {of['memory_limit']})"
    )


def binary(size: int) -> str:
    """Bytes as somebody reads them."""
    unit = max((n for n in range(4) if size >= 1 << 10 * n), default=0)
    return f"{size / (1 << 10 * unit):.4g} {('B', 'KiB', 'MiB', 'GiB')[unit]}"


def _counters(source: Any) -> Table:
    shown = Table([whole("COUNTER"), whole("VALUE")])
    for counter, value in source["counters"].items():
        if isinstance(value, dict):
            for label, count in value.items():
                if count:
                    shown.row(f"{counter} {label}", count)
        else:
            shown.row(counter, value)
    return shown
