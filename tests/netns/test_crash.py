"""kill -9 under load, with changes under way, and a start: all is as it was, and copies arrive again within a second.

`make kill KILLS=1000` kills at as many random moments; without it some are among the other tests.

guest eth0 ---- tap0 [host] up0 ---- up0 collector
"""

from __future__ import annotations

import http.client
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeSniffer
from tests.support.api import Api
from tests.support.daemon import Daemon
from tests.support.meanwhile import meanwhile
from tests.support.send import FRAME, send
from tests.support.topology import Host, Topology
from tests.support.uplink import mirror, tapped
from tests.support.wait import wait_for

SESSIONS = 4
COMMAND = ("env",)
"""Words before the daemon's: it starts as a command does, with all that it has to load."""


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host]:
    return tapped(net)


def objects(api: Api) -> list[Any]:
    """The mirrors without their counters."""
    mirrors = api("GET", "mirrors").body["mirrors"]
    for one in mirrors:
        for session in one["sessions"]:
            del session["running"]
    return list(mirrors)


@pytest.fixture
def load(hosts: tuple[Host, Host]) -> Iterator[None]:
    """2,000 frames a second out of tap0."""
    with meanwhile(lambda: send(hosts[0], "tap0", FRAME, 40, rate=2000)):
        yield


class Changing:
    """A client that changes a mirror again and again until the daemon is gone; `done` of them were answered."""

    def __init__(self, api: Api) -> None:
        self.done = 0
        self._api = api
        self._thread = threading.Thread(target=self._change)
        self._thread.start()

    def _change(self) -> None:
        with suppress(OSError, http.client.HTTPException):
            while self._api("PUT", "mirrors/changing", {"description": str(self.done)}).status < 300:
                self.done += 1

    def join(self) -> None:
        self._thread.join()


@pytest.mark.alone
@pytest.mark.usefixtures("load")
def test_a_killed_daemon_comes_back_as_it_was_within_a_second(
    hosts: tuple[Host, Host], sniff: MakeSniffer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One start of five has to be as fast. Coverage is off in it: measuring doubles the time that the imports take."""
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)
    host, collector = hosts
    daemon = Daemon(host, tmp_path, "", up=False, under=COMMAND, dataplane="native")
    api = Api(daemon.socket)
    for vni in range(SESSIONS):
        assert api("PUT", f"mirrors/m{vni}", mirror("tap0", vni, direction="egress")).status == 201
    before = objects(api)
    times: list[float] = []
    while len(times) < 5 and min(times, default=1.0) >= 1.0:
        audit = api.audit("?limit=20000")
        changing = Changing(api)
        wait_for(lambda: changing.done > 10, "changes under way")  # noqa: B023 (called at once)
        daemon.kill()
        changing.join()

        copies = sniff(collector, "up0", "udp port 4789", snaplen=128)
        begun = time.time()
        daemon = Daemon(host, tmp_path, "", under=COMMAND, dataplane="native")
        seen = copies.stop().fields("frame.time_epoch", "vxlan.vni")
        first = {vni: float(at) - begun for at, vni in reversed(seen)}
        assert first.keys() == {str(vni) for vni in range(SESSIONS)}
        times.append(max(first.values()))

        *after, changed = objects(api)
        assert after == before
        assert int(changed["description"]) - (changing.done - 1) in {0, 1}  # 1: it was done, but not answered any more
        rows = api.audit("?limit=20000")
        assert rows[: len(audit)] == audit
        assert rows[-1]["new"]["description"] == changed["description"]
    assert min(times) < 1.0, times
    assert daemon.stop()[0] == 0


DESTINATIONS = {
    (f"m{number}", n): {"type": "vxlan", "remote": "192.0.2.2", "vni": 8 * number + n}
    for number in range(4)
    for n in (0, 1)
}


class Random:
    """A client that makes, changes and deletes mirrors at random until the daemon is gone. `now` is what the last
    answer left, `next` what the change in between would leave; by name, the description and the sessions.
    """

    def __init__(self, api: Api, now: dict[str, Any], chance: random.Random) -> None:
        self.now, self.next, self.done = now, now, 0
        self._api, self._chance = api, chance
        self._thread = threading.Thread(target=self._change)
        self._thread.start()

    def _change(self) -> None:
        with suppress(OSError, http.client.HTTPException):
            while True:
                name, chance = f"m{self._chance.randrange(4)}", self._chance.random()
                method, body = "DELETE", None
                if chance < 0.3 and name in self.now:
                    self.next = {key: one for key, one in self.now.items() if key != name}
                else:
                    count = self._chance.randrange(3)
                    method, text = "PUT", str(chance)
                    one = mirror("gone0", int(name[1]))["sessions"][0]
                    sessions = [{**one, "name": f"s{n}", "destination": DESTINATIONS[name, n]} for n in range(count)]
                    body = {"description": text, "sessions": sessions}
                    self.next = {**self.now, name: (text, count)}
                assert self._api(method, f"mirrors/{name}", body).status < 300
                self.now, self.done = self.next, self.done + 1

    def join(self) -> None:
        self._thread.join()


def test_at_random_moments_the_state_is_the_one_before_a_change_or_after_it(
    net: Topology, tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)
    host, chance, changes = net.host("host"), random.Random(), 0
    kills = pytestconfig.getoption("--kills")
    possible: list[dict[str, Any]] = [{}]
    for kill in range(kills):
        daemon = Daemon(host, tmp_path, "", up=False)
        api = Api(daemon.socket)
        found = {one["name"]: (one["description"], len(one["sessions"])) for one in objects(api)}
        assert found in possible, (kill, possible, found)
        client = Random(api, found, chance)
        wait_for(lambda: client.done > 0, "a change")  # noqa: B023 (called at once)
        time.sleep(chance.uniform(0, 0.2))  # the moment
        daemon.kill()
        client.join()
        possible, changes = [client.now, client.next], changes + client.done
        if kill % 50 == 49:
            print(f"{kill + 1} kills, {changes} changes answered", flush=True)
