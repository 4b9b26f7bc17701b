"""Prometheus's view of an agent, made at each scrape."""

from __future__ import annotations

from collections.abc import Iterator

from mirrord import __version__
from mirrord.cluster.agent import Agent
from mirrord.control.reporting.exposition import Family, labels

STATES = ("up", "waiting", "failed", "paused", "refused")


def families(agent: Agent) -> Iterator[Family]:
    """Every series of an agent."""
    link, replica, state = agent.link, agent.replica, agent.state()
    about = labels({"version": __version__, "host": agent.settings.host, "cluster": replica.cluster_id})
    yield Family("mirrord_cluster", "info", "Which host of which cluster this is.", [f"mirrord_cluster_info{about} 1"])
    own_written = int(not link.own_problem and not link.twin)
    for name, text, value in (
        ("connected", "Whether the store is followed.", int(link.connected)),
        ("behind_seconds", "How long the store was not heard of; 0 while it is followed.", link.behind_seconds),
        ("revision", "Revision of the store of the newest configuration known here.", replica.revision),
        ("applied_revision", "Revision of the configuration that the daemon runs.", agent.applied_revision),
        ("daemon_up", "Whether the daemon answers and runs this host's part.", int(not agent.daemon_problem)),
        ("own_written", "Whether what is this host's is in the store, and the name its alone.", own_written),
        ("unread_records", "Records of the configuration that this agent cannot use.", len(replica.snapshot.unread)),
    ):
        yield Family(f"mirrord_cluster_{name}", "gauge", text, [f"mirrord_cluster_{name} {value!r}"])
    failures = [f"mirrord_cluster_store_failures_total {link.failures}"]
    yield Family("mirrord_cluster_store_failures", "counter", "How often the store was lost or not found.", failures)
    lines = [f"mirrord_cluster_sessions{labels({'state': one})} {state.states.get(one, 0)}" for one in STATES]
    yield Family("mirrord_cluster_sessions", "gauge", "Sessions, or halves of them, that are on this host.", lines)
