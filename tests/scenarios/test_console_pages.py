"""Every place of the console: no barrier that axe-core finds, light and dark; its size; 1,000 sessions.

CONTRIBUTING.md tells how the pictures of docs/console.md are made anew.

VM-2 eth0 ---- tap-vm2 [host] em02 ---- eth0 sensor
"""

from __future__ import annotations

import json
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeDaemon
from tests.support.browser import Browser
from tests.support.console import Console
from tests.support.ctl import ctl
from tests.support.daemon import Daemon
from tests.support.topology import Topology, receive_vxlan

pytestmark = pytest.mark.timeout(400)  # a browser on a busy machine

PLACES = {
    "overview": "#/overview",
    "mirrors": "#/mirrors",
    "mirror": "#/mirrors/shop",
    "networks": "#/networks",
    "filters": "#/filters",
    "filter": "#/filters/web",
    "packets": "#/packets/shop/vm2/tap-vm2",
    "charts": "#/charts",
    "doctor": "#/doctor",
    "audit": "#/audit",
}
DRAWN = {"charts": ".plot canvas", "doctor": "article.finding", "long": "main h1"}
"""What is there once a place has all that it shows; rows of a table, otherwise."""
LONG = "W" * 63
MOST_BYTES = 300_000
SESSIONS = 1000
MOST_ROWS = 80
FILE = """
[flow_networks.capture]
description = "the second uplink"
device = "em03"
addresses = "192.0.2.10-192.0.2.20/24"
gateway = "192.0.2.1"

[filters.web]
description = "what the shop is asked"
rules = [
  { priority = 1, direction = "egress", action = "accept", protocol = "icmp" },
  { priority = 2, action = "reject", protocol = "icmp", source = "10.1.225.99/32" },
  { priority = 3, action = "accept" },
]

[mirrors.shop]
description = "core business on VM-2"

[[mirrors.shop.sessions]]
name = "vm2"
source = "tap-vm2"
filter = "web"
count_rules = true
recorder = "1MiB"
destination = { type = "vxlan", remote = "192.168.29.30", vni = 100 }

[[mirrors.shop.sessions]]
name = "backup"
source = "eth7"
destination = { type = "vxlan", remote = "192.168.29.30", vni = 101 }
"""
ODD = "<a>,b&\"'="
"""A name that the kernel takes for a device."""


@pytest.fixture
def dataplane() -> str:
    """One is enough: how frames go is not the question."""
    return "native"


def test_every_place(net: Topology, daemon: MakeDaemon, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    host, vm2, sensor = net.host("host"), net.host("vm2"), net.host("sensor")
    net.link(vm2, "eth0", host, "tap-vm2", ("10.1.225.37/24", "10.1.225.124/24"))
    net.link(host, "em02", sensor, "eth0", ("192.168.29.2/24", "192.168.29.30/24"), mtu=1600)
    receive_vxlan(sensor)
    mirrord = daemon(host, FILE, up=False)
    pings = vm2.spawn("ping", "-i", "0.1", "-s", "600", "10.1.225.124")
    console = Console(host, mirrord.socket, "--listen", "127.0.0.1:0")
    with Browser(host, tmp_path) as browser:
        browser.open(console.address)
        browser.find("nav a")
        browser.run("performance.setResourceTimingBufferSize(10_000)")
        many_sessions(browser, console)
        an_image_without_words_is_found(browser)
        nothing_bars_anybody(browser, request.config.getoption("--pictures"))
        it_is_small(browser)
        assert browser.log() == ""
        what_is_odd_breaks_nothing(browser, mirrord)
        assert "Error" not in browser.log().replace("Failed to load resource", "")  # refusals are told there, too
    pings.stop()


def what_is_odd_breaks_nothing(browser: Browser, mirrord: Daemon) -> None:
    """Addresses that are none, names that a browser takes for something else, another clock, links of two addresses."""
    browser.run("location.hash = '#/mirrors/%25/%'")
    browser.wait_text("%", "main h1")
    browser.run("location.hash = '#/filters'")
    browser.click("main button", "Create filter")
    browser.field("Name").write("..")
    browser.click("dialog button", "OK")
    browser.wait_text("expected a name: 1 to 63 letters", "dialog [role=alert]")
    browser.press("Escape")

    links = [("192.0.2.0/30", "192.0.2.1"), ("192.0.2.6/31", ""), ("192.0.2.6/31", "192.0.2.6"), ("192.0.2.7/32", "")]
    links += [("2001:db8::8/125", "2001:db8::9"), ("2001:db8::6/127", ""), ("2001:DB8:0::7/128", "")]
    links += [("192.0.2.0/33", ""), ("2001:db8::1::/64", "")]
    built = "const {built} = await import('/addresses.js'); return arguments[0].map(built)"
    forms = [{"method": "cidr", "cidr": cidr, "gateway": gateway} for cidr, gateway in links]
    assert browser.run(built, forms) == [usable(*one) for one in links]
    mixed = {"method": "range", "first": "2001:db8::1", "last": "", "mask": "255.255.255.0"}
    assert browser.run(built, [mixed]) == ["2001:db8::1/255.255.255.0"]  # which the daemon refuses

    browser.run("const now = Date.now; Date.now = () => now() + 86400_000")
    browser.run("location.hash = '#/audit'")
    browser.choose("Of the last", "1 h")
    browser.wait_text("many", "main tbody")

    mirrord.host.ip(f"link add name {ODD} type veth peer name peer")
    browser.run("location.hash = '#/mirrors/forms'")
    browser.click("main button", "Add session")
    offered = "return [...document.querySelectorAll('datalist option')].map((one) => one.value)"
    browser.wait(lambda: ODD in browser.run(offered), "the device is offered")
    browser.field("Device", within="Source port").write(ODD)
    browser.field("Device", within="Destination port").write("em02")
    browser.field("Name").write("odd")
    browser.click("dialog button", "OK")
    browser.wait_text("odd was added")
    browser.wait_text(ODD, "main tbody")
    (made,) = json.loads(ctl(mirrord.socket, "--json", "show", "forms"))["sessions"]
    assert made["source"]["device"] == ODD
    ctl(mirrord.socket, "set", "forms", "--name", LONG, "--description", LONG * 16)
    on_a_phone(browser)


def usable(cidr: str, gateway: str) -> str:
    """The addresses of a link that a host may have, by Python's own rules, without a gateway at an end."""
    try:
        network = ip_network(cidr, strict=False)
    except ValueError:
        return cidr
    hosts = [one for one in network.hosts() if str(one) != gateway]
    ends = f"{hosts[0]}" if len(hosts) == 1 else f"{hosts[0]}-{hosts[-1]}"
    return f"{ends}/{network.prefixlen}"


def on_a_phone(browser: Browser) -> None:
    """Nothing but tables and pictures is wider than 360 pixels (WCAG 2.2, 1.4.10, asks for 320), long names neither."""
    browser.devtools("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=False)
    wider = "const main = document.querySelector('main'); return main.scrollWidth - main.clientWidth"
    wide = {}
    for name, place in {**PLACES, "long": f"#/mirrors/{LONG}"}.items():
        go(browser, name, place)
        wide[name] = browser.run(wider)
    assert set(wide.values()) == {0}, wide


def it_is_small(browser: Browser) -> None:
    """All that it has loaded, on all places: it and what it is made of, charts included."""
    files = browser.run("""
        const loaded = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
        const files = loaded.filter((one) => !/[/](v1|console)[/]/.test(one.name))
        return files.map((one) => [one.name, one.transferSize])""")
    assert any(name.endswith("/vendor/uplot.js") for name, _ in files)
    assert sum(size for _, size in files) < MOST_BYTES, files


def many_sessions(browser: Browser, console: Console) -> None:
    """Rows that nobody looks at are not in the page, however far one scrolls. How fast it is bench/console.py tells."""
    key = str(browser.run("return sessionStorage.getItem('mirrord-key')"))
    sessions = [
        {"name": f"s{n:04}", "source": f"tap{n}", "destination": {"type": "vxlan", "remote": "192.0.2.9", "vni": n + 1}}
        for n in range(SESSIONS)
    ]
    made = console.ask("PUT", "/v1/mirrors/many", {"enabled": False, "sessions": sessions}, key=key)
    assert made.status == 201, made.text
    browser.run("location.hash = '#/mirrors/many'")
    browser.wait_text("s0000", "main tbody", seconds=30)
    box = "document.querySelector('.table.virtual')"
    assert browser.run(f"return {box}.querySelectorAll('tr').length") < MOST_ROWS
    assert browser.run(f"return {box}.querySelector('table').getAttribute('aria-rowcount')") == str(SESSIONS + 1)
    rows = browser.run(f"""
        const box = {box}
        const rows = []
        for (let n = 1; n <= 20; n++) {{
            box.scrollTop = (box.scrollHeight - box.clientHeight) * n / 20
            await new Promise(requestAnimationFrame)
            rows.push(box.querySelectorAll('tr').length)
        }}
        return rows""")
    assert max(rows) < MOST_ROWS
    browser.wait_text(f"s{SESSIONS - 1:04}", "main tbody")
    assert console.ask("DELETE", "/v1/mirrors/many", key=key).status == 204


def go(browser: Browser, name: str, place: str) -> None:
    """To a place, until it has what it shows."""
    browser.run("location.hash = arguments[0]", place)
    browser.find(f"nav a[aria-current][href='{'/'.join(place.split('/')[:2])}']")
    browser.find(DRAWN.get(name, "main td"), LONG if name == "long" else "")


def an_image_without_words_is_found(browser: Browser) -> None:
    """axe-core looks, and where it should."""
    browser.run("document.querySelector('main').append(new Image())")
    assert [one.partition(":")[0] for one in browser.barriers({})] == ["image-alt"]
    browser.run("document.querySelector('main > img').remove()")


def nothing_bars_anybody(browser: Browser, pictures: Path | None) -> None:
    """axe-core finds nothing on any place, nor in the form of a session; in dark colours contrasts are others."""
    found = list[str]()
    for name, place in PLACES.items():
        go(browser, name, place)
        if name == "packets":
            browser.wait_text("ICMP", "main tbody")
        if name == "filter":
            browser.field("A frame in hexadecimal digits").write("02" * 12 + "0806")
            browser.click("main button", "Explain")
            browser.wait_text("rule 3: accept")
        found += _barriers(browser, name, pictures)
    browser.run("location.hash = '#/mirrors'")
    browser.click("main button", "Create port mirroring")
    browser.find("dialog")
    browser.press(*"forms")  # it begins at its first field
    found += _barriers(browser, "create", pictures)
    browser.click("dialog button", "OK")
    browser.find("dialog h2", "Add session")
    browser.wait(lambda: browser.run("return document.querySelector('fieldset input') !== null"), "the form")
    browser.run("document.querySelector('fieldset input').focus()")
    browser.press(*"no such", "Tab")
    browser.wait_text("expected", "dialog")
    found += _barriers(browser, "session", pictures)
    browser.press("Escape")
    assert not found


def _barriers(browser: Browser, name: str, pictures: Path | None) -> list[str]:
    found = list[str]()
    for dark in (False, True):
        browser.dark(on=dark)
        rules: dict[str, Any] = {"runOnly": ["color-contrast"]} if dark else {}
        found += [f"{name}, {'dark' if dark else 'light'}: {one}" for one in browser.barriers(rules)]
        if pictures is not None and (not dark or name == "overview"):
            browser.screenshot(pictures / f"{name}{'-dark' if dark else ''}.png")
    browser.dark(on=False)
    return found
