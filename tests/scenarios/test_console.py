"""Documents 000 and 004 in the console, word by word in Chinese, in a real browser; what arrives at VM-1 is tcpdump's.

VM-2 eth0 ---- tap-vm2 [host: br0] tap-dhcp ---- eth0 DHCP server
                  | mirrored            em02 ---- flow network
VM-1 eth1 ---- tap-vm1
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from tests.conftest import MakeSniffer
from tests.support.browser import Browser
from tests.support.console import Console
from tests.support.ctl import ctl
from tests.support.daemon import Daemon
from tests.support.sniffer import Sniffer
from tests.support.topology import Topology, receive_vxlan

pytestmark = pytest.mark.timeout(400)  # a browser on a busy machine

SERVER = "10.1.225.124"
SCRIPT = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
FILE = """
[mirrors.fixed]
description = "of a file"
enabled = false

[[mirrors.guests.sessions]]
name = "vm"
source = {{ type = "vm", vm = "VM-3", connection = "test://{directory}/vms.xml" }}
destination = {{ type = "vxlan", remote = "192.168.29.30", vni = 9 }}
[[mirrors.guests.sessions]]
name = "pod"
source = {{ type = "container", container = "shop/web-1", engine = "{directory}/cni" }}
destination = {{ type = "vxlan", remote = "192.168.29.30", vni = 10 }}
"""
"""Two managers of guests are asked, of whom these wait."""

NIC = "<interface type='bridge'><mac address='52:54:00:00:0{}'/><source bridge='br0'/><target dev='{}'/></interface>"
VM = (
    "<domain type='test'><name>VM-{0}</name><uuid>00000000-0000-0000-0000-00000000000{0}</uuid><memory>8192</memory>"
    "<os><type>hvm</type></os><devices>{1}</devices></domain>"
)
NICS = {1: NIC.format("1:00", "tap-vm1-0") + NIC.format("1:01", "tap-vm1"), 2: NIC.format("2:00", "tap-vm2")}
VMS = f"<node>{''.join(VM.format(number, nics) for number, nics in NICS.items())}</node>"
"""What libvirt's own driver for tests is told to have, which answers as any other."""
CACHE = {
    "kind": "cniCacheV1",
    "containerId": "aaa",
    "ifName": "eth0",
    "networkName": "net",
    "cniArgs": [["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", "web-0"]],
    "result": {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "br0"}, {"name": "tap-dhcp"}, {"name": "eth0", "sandbox": "/x"}],
    },
}
"""The DHCP server, as libcni writes of a pod."""


class Desk:
    """VM-1, VM-2 and their host, on which the daemon, the console and a browser run."""

    def __init__(self, net: Topology, sniff: MakeSniffer, directory: Path) -> None:
        self.directory = directory
        self.host, self.vm1, self.vm2 = net.host("host"), net.host("vm1"), net.host("vm2")
        dhcp, sensor = net.host("dhcp"), net.host("sensor")
        net.link(self.vm2, "eth0", self.host, "tap-vm2", ("10.1.225.37/24", ""))
        net.link(dhcp, "eth0", self.host, "tap-dhcp", (f"{SERVER}/24", ""))
        net.link(self.vm1, "eth1", self.host, "tap-vm1")
        net.link(self.host, "em02", sensor, "eth0", ("", "192.168.29.30/24"), mtu=1600)
        self.host.add_bridge("br0", "tap-vm2", "tap-dhcp")
        receive_vxlan(sensor, vni=100)
        self.received: Sniffer = sniff(self.vm1, "eth1", "icmp")
        self.outer: Sniffer = sniff(sensor, "eth0", "udp port 4789")
        self.guests()
        self.daemon = self.start()
        self._lines = 0

    def guests(self) -> None:
        """Two managers of guests, which know of VM-1 and VM-2, and of a pod."""
        (self.directory / "vms.xml").write_text(VMS)
        (self.directory / "cni").mkdir()
        (self.directory / "cni" / "net-aaa-eth0").write_text(json.dumps(CACHE))

    def start(self) -> Daemon:
        self.daemon = Daemon(self.host, self.directory, FILE.format(directory=self.directory), up=False)
        return self.daemon

    def ping(self, *, mirrored: bool) -> None:
        """A request and its reply, both seen at VM-1, or neither: the next that are seen are counted on."""
        self.vm2.run("ping", "-c", "1", SERVER)
        if mirrored:
            lines = self.received.wait_lines(self._lines + 2)
            ends = zip(("10.1.225.37", SERVER), lines[self._lines :], strict=True)
            assert all(f"length 98: {one} >" in line for one, line in ends), lines
            self._lines += 2


@pytest.fixture
def desk(net: Topology, sniff: MakeSniffer, tmp_path: Path) -> Iterator[Desk]:
    made = Desk(net, sniff, tmp_path)
    yield made
    made.daemon.stop()


@pytest.fixture
def browser(desk: Desk, tmp_path: Path) -> Iterator[Browser]:
    directory = tmp_path / "browser"
    directory.mkdir()
    with Browser(desk.host, directory) as made:
        yield made


def enter(browser: Browser, desk: Desk) -> Console:
    """A console of an operator's own, open in the browser."""
    console = Console(desk.host, desk.daemon.socket, "--listen", "127.0.0.1:0")
    browser.open(console.address)
    browser.find("nav a")
    return console


def type_in(browser: Browser, port: str, label: str, text: str) -> None:
    """Into a field of the source port or of the destination port."""
    script = """
        const port = [...document.querySelectorAll('fieldset')].find((one) => one.textContent.startsWith(arguments[0]))
        const label = [...port.querySelectorAll('label')].find((one) => one.textContent.startsWith(arguments[1]))
        label.control.select()"""
    browser.wait(lambda: browser.run("return !!document.querySelector('fieldset')"), "the form's ports")
    browser.run(script, port, label)
    browser.press(*text)


def create(browser: Browser, name: str, *, description: str = "", network: str = "", session: bool = True) -> None:
    """步骤 3: 创建端口镜像."""
    browser.click("nav a", "端口镜像")
    browser.click("main button", "创建端口镜像")
    browser.field("名称").write(name)
    browser.field("简介").write(description)
    if network:
        browser.choose("流量网络", network)
    if not session:
        browser.field("创建完成后立即添加会话").click()
    browser.click("dialog button", "确定")


def pick(browser: Browser, port: str, kind: str, guest: str, nic: str) -> None:
    """选择云主机和网卡, or a container: of those that are there, with what is known of them."""
    browser.choose("种类", kind, within=port)
    browser.choose(kind, guest, within=port)
    browser.choose("网卡", nic, within=port)


def add_session(browser: Browser, name: str, *, guests: bool) -> None:
    """步骤 4: 添加会话, 双向, by the VMs' names, or by those of their devices."""
    browser.find("dialog h2", "添加会话")
    browser.field("名称").write(name)
    browser.choose("类型", "双向")
    if guests:
        pick(browser, "源端口", "云主机", "VM-2", "0, 52:54:00:00:02:00, tap-vm2, up")
        pick(browser, "目的端口", "云主机", "VM-1", "1, 52:54:00:00:01:01, tap-vm1, up")
    else:
        type_in(browser, "源端口", "设备", "tap-vm2")
        type_in(browser, "目的端口", "设备", "tap-vm1")
    browser.click("dialog button", "确定")
    browser.wait_text(f"{name} 已添加")


def test_documents_000_and_004_word_by_word(desk: Desk, browser: Browser) -> None:
    console = enter(browser, desk)
    browser.choose("Language", "中文")
    create(browser, "端口镜像", description=SCRIPT)
    add_session(browser, "会话", guests=False)
    browser.wait_text("完整", "main table")
    desk.ping(mirrored=True)
    assert SCRIPT in browser.text("main .head")
    assert browser.run("return document.title").startswith("端口镜像")

    live_packets(browser, desk)
    browser.run("location.hash = '#/mirrors/' + encodeURIComponent('端口镜像')")
    wrong_input(browser)
    operations(browser, desk)
    across_hosts(browser, desk)
    the_filter_of_document_001(browser, desk)
    two_operators(browser, console)
    a_restart(browser, desk)


def live_packets(browser: Browser, desk: Desk) -> None:
    """Each packet of the ping that tcpdump saw is there, decoded, with its direction at the source port."""
    browser.click("nav a", "实时报文")
    browser.choose("会话", "端口镜像/会话")
    browser.wait_text("0 个报文")
    browser.wait(lambda: _asked_and_answered(browser, desk), "a ping in the page")


def _asked_and_answered(browser: Browser, desk: Desk) -> bool:
    """The capture of the page begins some time after it was asked for: pings go on until one is shown."""
    desk.ping(mirrored=True)
    rows = browser.text("main tbody").splitlines()
    told = [row.split("\t") for row in rows if "ICMP" in row]
    ends = [("接收", "10.1.225.37", SERVER, "request"), ("发送", SERVER, "10.1.225.37", "reply")]
    return all(
        any(row[1:5] == [way, source, target, "ICMP"] and f"echo {kind}" in row[-1] for row in told)
        for way, source, target, kind in ends
    )


def across_hosts(browser: Browser, desk: Desk) -> None:
    """步骤 2: 创建流量网络, and a port mirroring that uses it, to another host by VXLAN."""
    browser.click("nav a", "流量网络")
    browser.click("main button", "创建流量网络")
    for label, text in (
        ("名称", "流量网络"),
        ("网卡", "em02"),
        ("起始IP", "192.168.29.20"),
        ("结束IP", "192.168.29.10"),
    ):
        browser.field(label).write(text)
    browser.wait_text("expected a range that ascends", "dialog .field.wrong")
    browser.field("起始IP").fill("192.168.29.10")
    browser.field("结束IP").fill("192.168.29.20")
    browser.field("子网掩码").fill("255.255.255.0")
    browser.field("网关").write("192.168.29.1")
    browser.click("dialog button", "确定")
    browser.wait_text("流量网络 已创建")
    create(browser, "跨主机", network="流量网络")
    browser.find("dialog h2", "添加会话")
    browser.field("名称").write("会话")
    pick(browser, "源端口", "容器", "shop/web-0", "0, eth0, tap-dhcp, up")
    browser.choose("种类", "VXLAN", within="目的端口")
    type_in(browser, "目的端口", "地址", "192.168.29.30")
    type_in(browser, "目的端口", "VNI", "100")
    browser.click("dialog button", "确定")
    browser.wait_text("会话 已添加")
    browser.wait_text("完整", "main table", seconds=30)
    desk.vm2.run("ping", "-c", "1", SERVER)
    desk.outer.wait_lines(2)
    browser.click("nav a", "流量网络")
    browser.wait_text("跨主机", "main table")
    browser.wait(lambda: "192.168.29.10\t" in browser.text("main tbody"), "the address in use")
    ends = {tuple(row[0].split(",")[:1] + row[1].split(",")[:1]) for row in desk.outer.fields("ip.src", "ip.dst")}
    assert ends == {("192.168.29.10", "192.168.29.30")}


def the_filter_of_document_001(browser: Browser, desk: Desk) -> None:
    """步骤二: 创建筛选条件, incoming TCP of one address to one port; and what it makes of packets."""
    browser.click("nav a", "筛选条件")
    browser.click("main button", "创建筛选条件")
    browser.field("名称").write("tcp-1234")
    browser.click("dialog button", "确定")
    browser.click("main button", "添加规则")
    browser.choose("方向", "入方向")
    for label, text in (("协议", "icmp"), ("源地址", "192.168.0.161/32"), ("目的地址", "192.168.0.230/32")):
        browser.field(label).write(text)
    browser.field("目的端口范围").write("1234-1234")
    browser.wait_text("protocol icmp has no ports", "dialog .field.wrong")
    browser.field("协议").fill("tcp")
    browser.wait(lambda: "no ports" not in browser.text("dialog"), "the rule is taken")
    browser.click("dialog button", "确定")
    browser.click("main button[aria-label='上移规则 2']")
    browser.click("main button[aria-label='删除规则 2']")
    browser.wait_text("尚未保存", "main .unsaved")
    browser.click("main button", "保存")
    browser.wait_text("tcp-1234 已修改")
    (found,) = json.loads(ctl(desk.daemon.socket, "--json", "filter", "show", "tcp-1234"))["rules"]
    assert {key: value for key, value in found.items() if value is not None} == {
        "priority": 1,
        "direction": "ingress",
        "action": "accept",
        "protocol": "tcp",
        "source": "192.168.0.161/32",
        "destination": "192.168.0.230/32",
        "destination_ports": "1234",
    }
    ends = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src="192.168.0.161", dst="192.168.0.230")
    frames = [bytes(ends / TCP(sport=38944, dport=port)).hex() for port in (1234, 22)]
    browser.field("十六进制的帧").write("\n\n".join(frames))
    browser.click("main button", "解释")
    browser.wait_text("2 个报文：采集 1，不采集 0，没有规则匹配 1")
    browser.wait_text("规则 1：destination_ports 是 22，不是 1234")


def wrong_input(browser: Browser) -> None:
    """What the daemon would refuse stands beside its field before anything is sent."""
    browser.click("main button", "添加会话")
    type_in(browser, "源端口", "设备", "tap-vm2")
    type_in(browser, "目的端口", "设备", "tap-vm2")
    beside = "document.querySelectorAll('fieldset')[1].querySelector('.field.wrong .told')"
    browser.wait(lambda: "also the source" in browser.run(f"return {beside}?.textContent ?? ''"), "the refusal")
    browser.field("名称").write("会话")
    browser.wait_text("该名称已存在", "dialog")
    browser.click("dialog button", "确定")
    browser.find("dialog h2", "添加会话")  # nothing was sent
    browser.press("Escape")
    browser.wait(lambda: not browser.run("return document.querySelector('dialog')"), "the dialog is closed")


def operations(browser: Browser, desk: Desk) -> None:
    """Document 004: disable, enable, rename and describe, delete a session, delete; each as its traffic shows."""
    browser.click("main button", "停用")
    browser.find("dialog li", "1 个会话立即停止复制")
    browser.click("dialog button", "停用")
    browser.wait_text("已停用", "main .facts")
    desk.ping(mirrored=False)
    browser.click("main button", "启用")
    browser.find("dialog li", "1 个会话开始复制")
    browser.click("dialog button", "启用")
    browser.wait_text("完整", "main table")
    desk.ping(mirrored=True)
    browser.click("main button", "修改名称和简介")
    browser.wait(lambda: browser.field("名称").property("value") == "端口镜像", "its name")
    browser.field("名称").fill("核心业务")
    browser.field("简介").fill("core business")
    browser.click("dialog button", "确定")
    browser.wait_text("核心业务", "main h1")
    browser.wait_text("core business", "main .head")
    desk.ping(mirrored=True)
    browser.click("main td button", "删除")
    browser.click("dialog button", "删除")
    browser.wait_text("没有会话的端口镜像不复制任何报文")
    desk.ping(mirrored=False)
    browser.click("main button", "添加会话")
    add_session(browser, "会话", guests=True)
    browser.wait_text("完整", "main table")
    desk.ping(mirrored=True)
    browser.click("main .head button", "删除")
    browser.find("dialog li", "此操作不可撤销")
    browser.click("dialog button", "删除")
    browser.wait(lambda: "核心业务" not in browser.text("main"), "it is gone")
    desk.ping(mirrored=False)
    rows = json.loads(ctl(desk.daemon.socket, "--json", "audit"))
    told = [(row["operation"], row["kind"]) for row in rows if row["result"] == "done"]
    assert told == [
        *(
            ("create", "mirror"),
            ("create", "session"),
            ("disable", "mirror"),
            ("enable", "mirror"),
            ("rename", "mirror"),
        ),
        *(("delete", "session"), ("create", "session"), ("delete", "mirror")),
    ]
    browser.wait_text("fixed", "main table")
    assert not browser.run("return [...document.querySelectorAll('td button')].length")  # a file's: read alone


def two_operators(browser: Browser, console: Console) -> None:
    """Who comes second is told so, and writes over nothing."""
    create(browser, "core", session=False)
    browser.wait_text("core", "main h1")
    browser.click("main button", "修改名称和简介")
    browser.wait(lambda: browser.field("名称").property("value") == "core", "its name")
    key = console.ask("POST", "/console/token", key=str(browser.run("return sessionStorage.getItem('mirrord-key')")))
    other = console.ask("POST", "/console/key", json.loads(key.text))
    of_other = json.loads(other.text)["key"]
    assert console.ask("PATCH", "/v1/mirrors/core", {"description": "theirs"}, key=of_other).status == 200
    browser.field("简介").fill("mine")
    browser.click("dialog button", "确定")
    browser.wait_text("其他人在此期间已修改它", "dialog [role=alert]")
    browser.click("dialog button", "取消")
    browser.wait_text("theirs", "main .head")
    browser.run("location.hash = '#/filters/tcp-1234'")
    browser.wait_text("1234", "main tbody")
    theirs = {"rules": [{"priority": 7, "action": "accept", "protocol": "sctp"}]}
    assert console.ask("PATCH", "/v1/filters/tcp-1234", theirs, key=of_other).status == 200
    browser.wait_text("sctp", "main tbody")


def a_restart(browser: Browser, desk: Desk) -> None:
    """The page says so, and comes back by itself with what comes back."""
    desk.daemon.stop()
    browser.wait_text("守护进程没有响应", "main [role=alert]")
    browser.run("location.hash = '#/mirrors/core'")  # what is gone to meanwhile comes, too
    browser.run("location.hash = '#/filters/tcp-1234'")
    browser.wait_text("No such file or directory", "main .empty")
    desk.start()
    browser.wait(lambda: "守护进程没有响应" not in browser.text(), "the page is back")
    browser.wait_text("sctp", "main tbody")
    browser.run("location.hash = '#/mirrors/core'")
    browser.wait_text("theirs", "main .head")
    browser.run("location.href = '/#token=stolen'")
    browser.wait_text("此链接已被使用")
    assert browser.run("return sessionStorage.length") == 0
