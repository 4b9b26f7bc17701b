"""A scrape, as Prometheus's own tools read it."""

from __future__ import annotations

import gzip
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from mirrord import __version__
from mirrord.control.http.scrape import application
from mirrord.control.planning.plan import Entry, Key
from mirrord.control.reporting.exposition import OPENMETRICS, TEXT, render
from mirrord.control.reporting.metrics import Counts, Reload, Row
from mirrord.dataplane.counters import LATENCY_BOUNDS, Counters, Slot

HOST, GUEST = Key("core", "host", "eth0"), Key("core", "guest", "tap0")


def rows() -> list[Row]:
    """Every slot of the first row holds its own number times ten; the second waits, and is a guest's."""
    first, second = Counters(), Counters()
    for slot in Slot:
        first.add(slot, slot * 10)
    second.add(Slot.read_ingress_frames, 3)
    second.add(Slot.read_egress_frames, 5)
    about = (("destination", "vxlan 192.0.2.9 port 4789 vni 1"), ("filter", "web"), ("transmit", "socket"))
    return [
        Row(Entry(HOST, "up", about=about), "up", "", first.slots()),
        Row(Entry(GUEST, "waiting", guest=True, about=about), "waiting", "no such device: tap0", second.slots()),
    ]


@pytest.fixture
async def address() -> AsyncIterator[str]:
    runner = web.AppRunner(application(Counts(rows, Reload(succeeded_at=1_700_000_000.5), "python")))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"
    await runner.cleanup()


async def scrape(address: str, accept: str = "") -> str:
    async with ClientSession() as session, session.get(address, headers={"Accept": accept}) as response:
        assert response.status == 200
        return await response.text()


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


def labels(key: Key, **more: str) -> frozenset[tuple[str, str]]:
    return frozenset({**key._asdict(), **more}.items())


async def test_every_slot_has_its_series(address: str) -> None:
    found = samples(await scrape(address))
    for name, slot in {
        "captured_frames_total": Slot.captured,
        "mirrored_frames_total": Slot.mirrored,
        "sent_packets_total": Slot.sent_packets,
        "sent_bytes_total": Slot.sent_bytes,
        "truncated_frames_total": Slot.truncated,
        "segmented_frames_total": Slot.segmented,
        "fragmented_frames_total": Slot.fragmented,
        "zeroed_frames_total": Slot.zeroed,
        "unfollowed_frames_total": Slot.unfollowed,
        "unplaced_frames_total": Slot.unplaced,
    }.items():
        assert found[f"mirrord_{name}", labels(HOST)] == slot * 10
    for reason in ("sampled_out", "rate_limited", "paused", "unmatched"):
        expected = Slot[f"skipped_{reason}"] * 10
        assert found["mirrord_skipped_frames_total", labels(HOST, reason=reason)] == expected
    for reason in (
        "ring_full",
        "send_error",
        "mtu_exceeded",
        "no_route",
        "malformed",
        "write_error",
        "link_down",
        "queue_full",
    ):
        expected = Slot[f"dropped_{reason}"] * 10
        assert found["mirrord_dropped_frames_total", labels(HOST, reason=reason)] == expected
    assert found["mirrord_read_bytes_total", labels(HOST, direction="ingress")] == Slot.read_ingress_bytes * 10
    assert found["mirrord_read_bytes_total", labels(HOST, direction="egress")] == Slot.read_egress_bytes * 10
    assert found["mirrord_build_info", frozenset({("version", __version__), ("dataplane", "python")})] == 1
    assert found["mirrord_config_last_reload_successful", frozenset()] == 1
    assert found["mirrord_config_last_reload_success_timestamp_seconds", frozenset()] == 1_700_000_000.5


async def test_directions_are_the_sessions_own(address: str) -> None:
    found = samples(await scrape(address))
    assert found["mirrord_read_frames_total", labels(GUEST, direction="ingress")] == 5  # what the host sent to the tap
    assert found["mirrord_read_frames_total", labels(GUEST, direction="egress")] == 3


async def test_a_session_is_up_or_says_why_not(address: str) -> None:
    found = samples(await scrape(address))
    assert found["mirrord_session_up", labels(HOST)] == 1
    assert found["mirrord_session_up", labels(GUEST)] == 0
    info = {
        "state": "waiting",
        "reason": "no such device: tap0",
        "destination": "vxlan 192.0.2.9 port 4789 vni 1",
        "filter": "web",
        "transmit": "socket",
    }
    assert found["mirrord_session_info", labels(GUEST, **info)] == 1


async def test_the_latency_is_a_histogram_in_seconds() -> None:
    counters = Counters()
    for nanoseconds in (1_000, 50_000, 50_001, 10**9):
        counters.observe_latency(nanoseconds)
    counts = Counts(lambda: [Row(Entry(HOST, "up"), "up", "", counters.snapshot())], Reload(), "native")
    found = samples("".join(render(counts.collect(), TEXT)))
    name = "mirrord_forward_latency_seconds"
    assert found[f"{name}_bucket", labels(HOST, le="5e-05")] == 2  # a bucket's bound belongs to it
    assert found[f"{name}_bucket", labels(HOST, le="0.0001")] == 3
    assert found[f"{name}_bucket", labels(HOST, le=repr(LATENCY_BOUNDS[-1] / 1e9))] == 3
    assert found[f"{name}_bucket", labels(HOST, le="+Inf")] == found[f"{name}_count", labels(HOST)] == 4
    assert found[f"{name}_sum", labels(HOST)] == pytest.approx(1.000101001)


async def test_promtool_finds_nothing_to_say(address: str) -> None:
    process = await create_subprocess_exec("promtool", "check", "metrics", stdin=PIPE, stdout=PIPE, stderr=STDOUT)
    said, _ = await process.communicate((await scrape(address)).encode())
    assert (said, process.returncode) == (b"", 0)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        # what Prometheus 2.42 and 3.0 send, and what a browser, curl and a client of a version to come might
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", OPENMETRICS),
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=1.0.0;q=0.4",
            OPENMETRICS,
        ),
        ("text/html,application/xhtml+xml,*/*;q=0.8", TEXT),
        ("*/*", TEXT),
        ("", TEXT),
        ("application/openmetrics-text;version=9.0.0, text/plain;version=0.0.4", TEXT),
        (
            "application/openmetrics-text;version=1.0.0;q=0, text/plain",
            TEXT,
        ),  # RFC 9110, section 12.4.2: not acceptable
        ("application/openmetrics-text;version=1.0.0;q=0.01", OPENMETRICS),
    ],
)
async def test_who_asks_for_openmetrics_gets_it(address: str, accept: str, form: str) -> None:
    async with ClientSession() as session, session.get(address, headers={"Accept": accept}) as response:
        text = await response.text()
        assert response.headers["Content-Type"] == form
    if form == OPENMETRICS:
        families = list(parse_openmetrics(text))  # type: ignore[no-untyped-call]
        names = {sample.name for family in families for sample in family.samples}
        assert not [name for name in names if name.endswith("_created")]  # Prometheus would keep each as a series
        plain = samples(await scrape(address))
        assert {(one.name, frozenset(one.labels.items())) for family in families for one in family.samples} == set(
            plain
        )


async def test_a_label_may_hold_anything() -> None:
    text = 'a "file" called\n\\x é'
    row = Row(Entry(Key("m", "s", text), "failed"), "failed", text, Counters().snapshot())
    page = "".join(render(Counts(lambda: [row], Reload(), "native").collect(), OPENMETRICS))
    (info,) = [family for family in parse_openmetrics(page) if family.name == "mirrord_session"]  # type: ignore[no-untyped-call]
    assert info.samples[0].labels["source"] == info.samples[0].labels["reason"] == text


@pytest.mark.parametrize(
    ("accepted", "zipped"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.1", True),  # RFC 9110, section 8.4.1: codings are case-insensitive
        ("identity", False),
        ("gzip;q=0", False),  # section 12.4.2: not acceptable
        ("deflate, gzip; q=0.000", False),
    ],
)
async def test_a_scrape_is_compressed_for_who_takes_it(address: str, accepted: str, zipped: bool) -> None:
    headers = {"Accept-Encoding": accepted}
    async with ClientSession(auto_decompress=False) as session, session.get(address, headers=headers) as response:
        assert response.headers.get("Content-Encoding") == ("gzip" if zipped else None)
        body = await response.read()
    assert b"mirrord_build_info" in (gzip.decompress(body) if zipped else body)
