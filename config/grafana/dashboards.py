"""Writes the dashboards beside this file: `python config/grafana/dashboards.py`. The JSON is what Grafana imports.

A panel is a title, what it draws, and its queries; everything else is the same for all. Every query is run by
tests/netns/test_watching.py against a Prometheus that reads a real daemon.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent
COLUMNS = 24  # of Grafana's grid
Panel = dict[str, Any]
Queries = dict[str, str]  # legend -> PromQL

AGENT = "mirrord_cluster_info"
HOST = 'instance=~"$instance"'
ALL = f'{HOST},mirror=~"$mirror"'
ONE = f'{ALL},session=~"$session"'


def rate(series: str, labels: str, by: str = "") -> str:
    name, _, more = series.partition("{")
    chosen = f"{labels},{more.rstrip('}')}" if more else labels
    summed = f"sum by ({by})" if by else "sum"
    return f"{summed} (rate(mirrord_{name}_total{{{chosen}}}[$__rate_interval]))"


def complete(labels: str, by: str = "", over: str = "$__rate_interval") -> str:
    """The share of frames that were not lost; what was skipped on purpose is not lost. No frames, no answer."""
    summed = f"sum by ({by})" if by else "sum"
    dropped = f"{summed} (increase(mirrord_dropped_frames_total{{{labels}}}[{over}]))"
    captured = f"{summed} (increase(mirrord_captured_frames_total{{{labels}}}[{over}]))"
    return f"1 - {dropped} / {captured}"


def panel(
    kind: str, title: str, width: int, queries: Queries, unit: str = "short", text: str = "", **more: Any
) -> Panel:
    return {
        "type": kind,
        "title": title,
        "description": text,
        "width": width,
        "height": 4 if kind == "stat" else 8,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "fieldConfig": {"defaults": {"unit": unit, **more.pop("defaults", {})}, "overrides": []},
        "options": more.pop("options", {}),
        "targets": [
            {
                "refId": chr(ord("A") + n),
                "expr": expression,
                "legendFormat": legend,
                "datasource": {"type": "prometheus", "uid": "${datasource}"},
                **more,
            }
            for n, (legend, expression) in enumerate(queries.items())
        ],
    }


def steps(*thresholds: tuple[str, float | None]) -> dict[str, Any]:
    return {"thresholds": {"mode": "absolute", "steps": [{"color": color, "value": at} for color, at in thresholds]}}


COMPLETENESS = {
    **steps(("red", None), ("orange", 0.99), ("green", 0.9999)),
    "decimals": 3,
    "max": 1,
}
NONE_IS_WELL = steps(("green", None), ("red", 1))
RULES = "Of sessions with count_rules, of all mirrors that use the filter."
BYPASSED = "XDP, virtual functions, the kind of the device: mirrorctl doctor tells what is not seen."
FILL = "The most that waited to be read lately. At 1 frames are lost. A source that is quiet has no ring."
RATE = "One in so many conversations is mirrored: as planned, or fewer with overload."
DEAD = "Copies go to the others; where none is alive, to all of them that there is a route to."
STACKED = {"custom": {"stacking": {"mode": "normal"}, "fillOpacity": 40}}


def stat(
    title: str, expression: str, unit: str, text: str, defaults: dict[str, Any] | None = None, width: int = 4
) -> Panel:
    return panel("stat", title, width, {"": expression}, unit, text, defaults=defaults or {}, instant=True)


def graph(title: str, queries: Queries, unit: str = "short", text: str = "", *, stacked: bool = False) -> Panel:
    return panel("timeseries", title, 12, queries, unit, text, defaults=STACKED if stacked else {})


def heat_map(labels: str) -> Panel:
    buckets = f"sum by (le) (increase(mirrord_forward_latency_seconds_bucket{{{labels}}}[$__rate_interval]))"
    text = "From the capture of a frame to the sending of its copy."
    options = {"calculate": False, "yAxis": {"unit": "s"}}
    return panel("heatmap", "Latency", 12, {"{{le}}": buckets}, "s", text, options=options, format="heatmap")


def table(title: str, expression: str, text: str) -> Panel:
    hidden = dict.fromkeys(("Time", "Value", "__name__", "job"), True)
    made = panel("table", title, 24, {"": expression}, "short", text, instant=True, format="table")
    return made | {"transformations": [{"id": "organize", "options": {"excludeByName": hidden}}]}


def fates(labels: str) -> Panel:
    queries = {
        "captured": rate("captured_frames", labels),
        "mirrored": rate("mirrored_frames", labels),
        "skipped": rate("skipped_frames", labels),
        "dropped": rate("dropped_frames", labels),
    }
    return graph("What becomes of frames", queries, "pps", "captured = mirrored + skipped + dropped")


def causes(labels: str) -> list[Panel]:
    return [
        graph("Lost, by cause", {"{{reason}}": rate("dropped_frames", labels, "reason")}, "pps", stacked=True),
        graph(
            "Skipped on purpose, by cause",
            {"{{reason}}": rate("skipped_frames", labels, "reason")},
            "pps",
            stacked=True,
        ),
    ]


def altered(labels: str) -> Panel:
    names = ("truncated", "segmented", "fragmented", "zeroed", "unfollowed", "unplaced")
    queries = {name: rate(f"{name}_frames", labels) for name in names}
    text = "Copies cut, super-frames split, copies sent in IP fragments, without payload; fragments sampled by a guess."
    return graph("Altered", queries, "pps", text)


def streams(labels: str, legend: str) -> list[Panel]:
    by = legend.strip("{}")
    return [
        graph(
            "Clients of streams",
            {legend: f"sum by ({by}) (mirrord_stream_clients{{{labels}}})"},
            "short",
            "Of pcap destinations, which wait while they have none.",
        ),
        graph(
            "Frames queued for clients",
            {legend: f"sum by ({by}) (mirrord_queued_frames{{{labels}}})"},
            "short",
            "Of pcap destinations. Those of a connection that ends become lost: queue_full.",
        ),
    ]


def flows(labels: str, legend: str) -> list[Panel]:
    full = rate("flow_table_full", labels, legend.strip("{}"))
    return [
        graph(
            "Flows known",
            {legend: f"sum by ({legend.strip('{}')}) (mirrord_flow_table_flows{{{labels}}})"},
            "short",
            "Of sessions with flow_limit. Those that are idle go as frames come.",
        ),
        graph(
            "Frames whose flow found no place", {legend: full}, "pps", "Mirrored whole: flow_limit's flows are too few."
        ),
    ]


def overview() -> list[Panel]:
    of = "{{mirror}}/{{session}} {{source}}"
    key = "mirror, session, source"
    ours = "and on (instance) mirrord_build_info"  # of the processes that Prometheus knows
    down = f'mirrord_session_info{{{ALL},state!="up"}}'
    return [
        stat(
            "Complete",
            complete(ALL, over="$__range"),
            "percentunit",
            "Of the frames captured, those not lost.",
            COMPLETENESS,
        ),
        stat(
            "Frames lost", f"sum (increase(mirrord_dropped_frames_total{{{ALL}}}[$__range]))", "short", "", NONE_IS_WELL
        ),
        stat("Skipped on purpose", f"sum (increase(mirrord_skipped_frames_total{{{ALL}}}[$__range]))", "short", ""),
        stat("Sessions up", f"sum (mirrord_session_up{{{ALL}}})", "short", ""),
        stat("Sessions not up", f"sum (mirrord_session_up{{{ALL}}} == bool 0)", "short", "", NONE_IS_WELL),
        stat(
            "Last reload refused",
            f"sum (mirrord_config_last_reload_successful{{{HOST}}} == bool 0)",
            "short",
            "",
            NONE_IS_WELL,
        ),
        graph(
            "Complete, by mirror", {"{{mirror}}": complete(ALL, "mirror")}, "percentunit", "1 where no frame was lost."
        ),
        fates(ALL),
        *causes(ALL),
        graph("Sent, by mirror", {"{{mirror}}": rate("sent_bytes", ALL, "mirror") + " * 8"}, "bps"),
        heat_map(ALL),
        graph("Sent, by collector", {"{{remote}}": rate("remote_sent_packets", ALL, "remote")}, "pps"),
        graph(
            "Collectors that are dead",
            {of + " to {{remote}}": f"mirrord_remote_up{{{ALL}}} == 0"},
            "short",
            DEAD,
        ),
        graph("Top sessions, sent", {of: f"topk(10, {rate('sent_bytes', ALL, key)} * 8)"}, "bps"),
        graph(
            "Top sessions, lost",
            {of: f"topk(10, {rate('dropped_frames', ALL, key)} > 0)"},
            "pps",
            "Those that lose any.",
        ),
        graph(
            "Ring fill, by session",
            {of: f"topk(10, mirrord_ring_fill_ratio{{{ALL}}})"},
            "percentunit",
            FILL,
        ),
        graph(
            "Ring full, by session",
            {of: rate('dropped_frames{reason="ring_full"}', ALL, key)},
            "pps",
            "Frames that the host was too slow to take out of the ring. Each session that may have lost it counts it.",
        ),
        graph(
            "Lost at the source",
            {"{{source}}": rate("capture_lost_frames", HOST, "source")},
            "pps",
            "Frames that there was no room for in a source's ring, each once, however many sessions wanted it.",
        ),
        graph(
            "Workers in trouble",
            {
                "{{instance}}: make no progress": f"mirrord_worker_stalled{{{HOST}}}",
                "{{instance}}: errors in five minutes": f"increase(mirrord_worker_failures_total{{{HOST}}}[5m])",
            },
            "short",
            "A writer waits for its disk; any other that stands still is stuck. Errors are in the log.",
        ),
        altered(ALL),
        *flows(ALL, "{{mirror}}"),
        graph("Sampling rate, the highest", {of: f"topk(10, mirrord_sampling_rate{{{ALL}}} > 1)"}, "short", RATE),
        graph(
            "Matched, by rule", {"{{filter}} {{rule}}": rate("rule_matched_frames", HOST, "filter, rule")}, "pps", RULES
        ),
        *streams(ALL, "{{mirror}}"),
        graph(
            "Sources whose tap does not see everything",
            {"{{mirror}}": f"sum by (mirror) (mirrord_source_bypassed{{{ALL}}})"},
            "short",
            BYPASSED,
        ),
        graph(
            "Mirrors that end by themselves",
            {"{{mirror}}": f"mirrord_mirror_expires_timestamp_seconds{{{ALL}}} - time()"},
            "s",
            "The time that is left of `expires`; a mirror that is below 0 does not run any more.",
        ),
        table("Sessions that are not up", down, "waiting mends itself when the host changes; failed needs a hand."),
        graph(
            "The daemon's processor time",
            {
                "{{instance}}": f"rate(process_cpu_seconds_total{{{HOST}}}[$__rate_interval]) {ours}",
                "{{instance}}: workers": f"rate(mirrord_worker_cpu_seconds_total{{{HOST}}}[$__rate_interval])",
                "{{instance}}: workers rest": f"rate(mirrord_worker_rested_seconds_total{{{HOST}}}[$__rate_interval])",
                "{{instance}}: cpu_limit": f"mirrord_cpu_limit_cores{{{HOST}}}",
            },
            "percentunit",
            "1 is one core. Workers rest when they have used up cpu_limit; 0 is no limit.",
        ),
        graph(
            "The daemon's memory",
            {
                "{{instance}}": f"process_resident_memory_bytes{{{HOST}}} {ours}",
                "{{instance}}: rings, tables, recorders": f"mirrord_memory_bytes{{{HOST}}}",
                "{{instance}}: memory_limit": f"mirrord_memory_limit_bytes{{{HOST}}}",
            },
            "bytes",
        ),
        table("Daemons", f"mirrord_build_info{{{HOST}}}", "The python data plane is the slow one."),
    ]


def session() -> list[Panel]:
    quantiles = {
        f"{share:.0%}": f"histogram_quantile({share},"
        f" sum by (le) (rate(mirrord_forward_latency_seconds_bucket{{{ONE}}}[$__rate_interval])))"
        for share in (0.5, 0.99)
    }
    return [
        stat(
            "Complete",
            complete(ONE, over="$__range"),
            "percentunit",
            "Of the frames captured, those not lost.",
            COMPLETENESS,
            6,
        ),
        stat(
            "Frames lost",
            f"sum (increase(mirrord_dropped_frames_total{{{ONE}}}[$__range]))",
            "short",
            "",
            NONE_IS_WELL,
            6,
        ),
        stat("Sources up", f"sum (mirrord_session_up{{{ONE}}})", "short", "", width=6),
        stat("Sources not up", f"sum (mirrord_session_up{{{ONE}}} == bool 0)", "short", "", NONE_IS_WELL, 6),
        table("Sources", f"mirrord_session_info{{{ONE}}}", "What the session was told to do, and how it does."),
        graph(
            "Complete, by source", {"{{source}}": complete(ONE, "source")}, "percentunit", "1 where no frame was lost."
        ),
        fates(ONE),
        *causes(ONE),
        graph("Read, by direction", {"{{direction}}": rate("read_frames", ONE, "direction")}, "pps"),
        graph(
            "Read and sent",
            {"read": rate("read_bytes", ONE) + " * 8", "sent": rate("sent_bytes", ONE) + " * 8"},
            "bps",
            "Sent has the outer headers, too.",
        ),
        graph(
            "Ring fill",
            {"{{source}}": f"mirrord_ring_fill_ratio{{{ONE}}}"},
            "percentunit",
            FILL,
        ),
        heat_map(ONE),
        graph("Latency, half and 99 of 100 frames", quantiles, "s"),
        altered(ONE),
        *flows(ONE, "{{source}}"),
        graph("Sampling rate in force", {"{{source}}": f"mirrord_sampling_rate{{{ONE}}}"}, "short", RATE),
        *streams(ONE, "{{source}}"),
        graph(
            "Lost on the road here",
            {"{{source}}": rate("tunnel_missing_packets", ONE, "source")},
            "pps",
            "Of tunnel sources, by the numbers in the packets that came.",
        ),
        graph("Copies", {"sent": rate("sent_packets", ONE)}, "pps", "A super-frame becomes several."),
        graph("Sent, by collector", {"{{remote}}": rate("remote_sent_packets", ONE, "remote")}, "pps", stacked=True),
        graph("Collectors that are alive", {"{{source}} to {{remote}}": f"mirrord_remote_up{{{ONE}}}"}, "short", DEAD),
        graph(
            "The tap does not see everything",
            {"{{source}}": f"mirrord_source_bypassed{{{ONE}}}"},
            "short",
            BYPASSED,
        ),
    ]


def cluster() -> list[Panel]:
    """The hosts of a cluster, by their agents."""
    return [
        stat("Hosts that see the store", f"sum(mirrord_cluster_connected{{{HOST}}})", "short", "Of those scraped."),
        stat("Longest without it", f"max(mirrord_cluster_behind_seconds{{{HOST}}})", "s", "What runs, runs on."),
        stat("Hosts that do their part", f"sum(mirrord_cluster_daemon_up{{{HOST}}})", "short", "Their daemons run it."),
        stat(
            "Records of no use",
            f"max(mirrord_cluster_unread_records{{{HOST}}})",
            "short",
            "mirrorctl --cluster status names them.",
            NONE_IS_WELL,
        ),
        graph("Sessions and halves, by state", {"{{state}}": f"sum by (state) (mirrord_cluster_sessions{{{HOST}}})"}),
        graph(
            "Seconds without the store",
            {"{{instance}}": f"mirrord_cluster_behind_seconds{{{HOST}}}"},
            text="What runs, runs on; changes do not come to the host.",
        ),
        graph(
            "Revisions behind the newest configuration",
            {
                "{{instance}}": f"scalar(max(mirrord_cluster_revision{{{HOST}}}))"
                f" - mirrord_cluster_applied_revision{{{HOST}}}"
            },
            text="Revisions of the store: every write of any host is one.",
        ),
        graph(
            "Lost or not found stores, in five minutes",
            {"{{instance}}": f"increase(mirrord_cluster_store_failures_total{{{HOST}}}[5m])"},
        ),
        graph(
            "Hosts whose own is in the store",
            {"written": f"sum(mirrord_cluster_own_written{{{HOST}}})", "all": f"count(mirrord_cluster_info{{{HOST}}})"},
            text="A host that may not write, or a full store: others do not know how it does.",
        ),
    ]


def variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": query, "refId": name},
        "refresh": 2,  # whenever the time range changes
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
        "sort": 1,
    }


def dashboard(
    title: str, uid: str, panels: list[Panel], names: tuple[str, ...], info: str = "mirrord_build_info"
) -> dict[str, Any]:
    queries = {
        "instance": f"label_values({info}, instance)",
        "mirror": f"label_values(mirrord_session_up{{{HOST}}}, mirror)",
        "session": f"label_values(mirrord_session_up{{{ALL}}}, session)",
    }
    sources = {"name": "datasource", "type": "datasource", "query": "prometheus", "current": {}}
    return {
        "title": title,
        "uid": uid,
        "tags": ["mirrord"],
        "schemaVersion": 38,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [
            {"type": "dashboards", "tags": ["mirrord"], "title": "mirrord", "keepTime": True, "includeVars": True}
        ],
        "templating": {"list": [sources, *(variable(name, queries[name]) for name in names)]},
        "panels": laid_out(panels),
    }


def laid_out(panels: list[Panel]) -> list[Panel]:
    """Panels in rows from left to right, each with its place on the grid."""
    placed, x, y, tallest = [], 0, 0, 0
    for n, one in enumerate(panels, 1):
        width, height = one.pop("width"), one.pop("height")
        if x + width > COLUMNS:
            x, y, tallest = 0, y + tallest, 0
        placed.append({"id": n, "gridPos": {"x": x, "y": y, "w": width, "h": height}, **one})
        x, tallest = x + width, max(tallest, height)
    return placed


def files() -> dict[str, str]:
    """What each file beside this one is to hold."""
    made = {
        "mirrord.json": dashboard("mirrord", "mirrord", overview(), ("instance", "mirror")),
        "mirrord-session.json": dashboard(
            "mirrord: one session", "mirrord-session", session(), ("instance", "mirror", "session")
        ),
    }
    made["mirrord-cluster.json"] = dashboard("mirrord: the cluster", "mirrord-cluster", cluster(), ("instance",), AGENT)
    return {name: json.dumps(one, indent=1) + "\n" for name, one in made.items()}


if __name__ == "__main__":
    for name, text in files().items():
        (DIRECTORY / name).write_text(text)
