"""Many who ask at a time for what is dear: it is looked up for all of them at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mirrord.control.reporting import probes
from mirrord.errors import MirrordError
from tests.support.service import Turning, in_host
from tests.support.topology import Topology

MANY = 100
SESSIONS = "".join(
    f"""
[[mirrors.{name}.sessions]]
name = "s"
source = "{source}"
destination = {{ type = "device", device = "{device}" }}
"""
    for name, source, device in (("here", "d0", "d1"), ("gone", "e0", "e1"))
)


def test_a_storm_of_questions_costs_what_two_do(net: Topology, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = net.host("host")
    host.ip("link add d0 type veth peer name d1")
    for device in ("d0", "d1"):
        host.ip(f"link set {device} up")
    file = tmp_path / "mirrord.toml"
    file.write_text(f'[daemon]\nstate = "{tmp_path}/state.db"\n{SESSIONS}')
    counted: list[str] = []

    async def scenario() -> None:
        async with Turning(file) as turning:
            service = turning.service
            look, all_guests = probes.look, service._surroundings.all_guests

            def looks(*given: Any) -> Any:
                counted.append("doctor")
                return look(*given)

            async def asks(*given: Any) -> Any:
                counted.append("sources")
                return await all_guests(*given)

            monkeypatch.setattr(probes, "look", looks)
            monkeypatch.setattr(service._surroundings, "all_guests", asks)
            begun = asyncio.create_task(service.doctor(None, ""))
            await asyncio.sleep(0)
            names = [(None, "here", "gone")[n % 3] for n in range(MANY)]
            answers = await asyncio.gather(*(service.doctor(name, "") for name in names))
            assert counted.count("doctor") <= 2
            told = {name: {one.mirror for one in found} - {""} for name, found in zip(names, answers, strict=True)}
            assert told == {None: {"gone"}, "here": set(), "gone": {"gone"}}
            assert {one.mirror for one in await begun} - {""} == {"gone"}
            with pytest.raises(MirrordError, match="nobody"):
                await service.doctor("nobody", "")

            answered = await asyncio.gather(*(service.sources(at_once=n % 2 == 0) for n in range(MANY)))
            assert counted.count("sources") <= 4, "those at a keyboard wait for nobody else"
            assert all({"d0", "d1"} <= {one["device"] for one in found} for found in answered)

    in_host(host, scenario)
