"""A real Chromium in a host of a topology, driven by chromedriver over WebDriver's HTTP (W3C WebDriver, section 6)."""

from __future__ import annotations

import base64
import http.client
import json
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.support.topology import Host
from tests.support.wait import wait_for

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # W3C WebDriver, section 12.1
PORT = 9515
KEYS = {"Enter": "\ue007", "Escape": "\ue00c", "Tab": "\ue004", "Down": "\ue015", "Up": "\ue013"}
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-features=Translate,OptimizationHints,MediaRouter",
    "--no-first-run",
    "--force-device-scale-factor=1",
    "--hide-scrollbars",
    "--lang=en",
)

T = TypeVar("T")
AXE = Path(__file__).parents[2] / "build" / "npm" / "axe.js"
VIOLATIONS = """
const {violations} = await axe.run(document, arguments[0])
const where = (one) => one.nodes.map((node) => node.html.slice(0, 160)).join(' | ')
return violations.map((one) => `${one.id}: ${one.help}: ${where(one)}`)"""


class DriverError(AssertionError):
    """What chromedriver says it could not do; `code` is the standard's word."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Element:
    """One in the page."""

    def __init__(self, browser: Browser, reference: dict[str, str]) -> None:
        self._browser, self.reference = browser, reference
        self._path = f"/element/{reference[ELEMENT]}"

    def click(self) -> None:
        """As a person would: it must be visible, and nothing in front of it."""
        self._browser.command("POST", f"{self._path}/click", {})

    def write(self, text: str) -> None:
        """Type at its end."""
        self._browser.command("POST", f"{self._path}/value", {"text": text})

    def fill(self, text: str) -> None:
        """Type in the place of what is there."""
        self._browser.run("arguments[0].select?.()", self.reference)
        self.write(text or "\ue017")

    @property
    def text(self) -> str:
        return str(self._browser.command("GET", f"{self._path}/text"))

    def property(self, name: str) -> Any:
        return self._browser.command("GET", f"{self._path}/property/{name}")


class Browser:
    """One window, of this size; downloads go to `directory`."""

    def __init__(self, host: Host, directory: Path, *, width: int = 1280, height: int = 800) -> None:
        self._host = host
        self._session = ""
        self._driver = host.spawn("chromedriver", f"--port={PORT}", directory=directory)
        wait_for(self._answers, "chromedriver listens", 60)
        options = {
            "args": [*OPTIONS, f"--window-size={width},{height}", f"--user-data-dir={directory / 'profile'}"],
            "prefs": {"download.default_directory": str(directory), "download.prompt_for_download": False},
        }
        wanted = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        self._session = self._ask("POST", "/session", {"capabilities": wanted})["sessionId"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ask("DELETE", f"/session/{self._session}")
        self._driver.stop()

    # --- the window ---

    def open(self, url: str) -> None:
        """Go there, and wait until it is loaded."""
        self.command("POST", "/url", {"url": url})

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.command("GET", "/screenshot")))

    def devtools(self, method: str, **parameters: Any) -> Any:
        """A command of Chromium's own protocol."""
        return self.command("POST", "/goog/cdp/execute", {"cmd": method, "params": parameters})

    def dark(self, *, on: bool) -> None:
        """Have the page see that its user wants it dark, or light."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[feature])

    def press(self, *keys: str) -> None:
        """Keys, one after the other, wherever the focus is."""
        actions = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self.command("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    # --- what is in it ---

    def run(self, script: str, *arguments: Any) -> Any:
        """What the function body returns; of a promise, its value."""
        return self.command("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector: str, text: str = "", seconds: float = 40.0) -> Element:
        """The first that is visible and has this text in it, once it is there."""
        script = """
            const [selector, text] = arguments
            return [...document.querySelectorAll(selector)].find(
                (one) => one.checkVisibility() && (one.textContent ?? '').includes(text)) ?? null"""
        found = self.wait(lambda: self.run(script, selector, text), f"{selector} with {text!r}", seconds)
        return Element(self, found)

    def click(self, selector: str, text: str = "") -> None:
        """Click it once it is there; what is drawn anew meanwhile is looked for again."""

        def clicked() -> bool:
            try:
                self.find(selector, text).click()
            except DriverError as error:
                if error.code not in ("stale element reference", "element click intercepted"):
                    raise
                return False
            return True

        self.wait(clicked, f"a click on {selector} with {text!r}")

    def field(self, label: str, within: str = "") -> Element:
        """What a label of these words belongs to; `within` a fieldset that begins with those."""
        script = """
            const found = [...document.querySelectorAll(arguments[1] ? 'fieldset' : 'dialog')]
            const places = arguments[1] ? found : [...found, document.body]
            const place = places.find((one) => one.textContent.startsWith(arguments[1]))
            const labels = [...(place?.querySelectorAll('label') ?? [])].filter((one) => one.checkVisibility())
            const label = labels.find((one) => one.textContent.trim().startsWith(arguments[0]))
            return label?.control ?? null"""
        return Element(self, self.wait(lambda: self.run(script, label, within), f"a field {label!r} {within}"))

    def choose(self, label: str, option: str, within: str = "") -> None:
        """The option of these words, of a list."""
        script = """
            const wanted = [...arguments[0].options].find((one) => one.textContent.includes(arguments[1]))
            if (!wanted) return false
            arguments[0].value = wanted.value
            arguments[0].dispatchEvent(new Event('input', {bubbles: true}))
            arguments[0].dispatchEvent(new Event('change', {bubbles: true}))
            return true"""
        self.wait(lambda: self.run(script, self.field(label, within).reference, option), f"{option!r} of {label!r}")

    def text(self, selector: str = "body") -> str:
        """What a person can read there; "" where it is not."""
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def wait_text(self, text: str, selector: str = "body", seconds: float = 40.0) -> None:
        self.wait(lambda: text in self.text(selector), f"{text!r} in {selector}", seconds)

    def wait(self, condition: Callable[[], T | None], what: str, seconds: float = 40.0) -> T:
        """As wait_for; a failure shows the page's words."""
        try:
            return wait_for(condition, what, seconds)
        except AssertionError as late:
            raise AssertionError(f"{late}\n--- the page:\n{self.text()}\n--- its log:\n{self.log()}") from late

    def log(self) -> str:
        """What the page's console has, and clears it."""
        lines = self.command("POST", "/se/log", {"type": "browser"})
        return "\n".join(f"{line['level']} {line['message']}" for line in lines)

    def barriers(self, rules: dict[str, Any] | None = None) -> list[str]:
        """What bars somebody from the page as it is now, as far as axe-core finds it; `rules` as its options are."""
        if not self.run("return 'axe' in window"):
            self.run(AXE.read_text())
        return list(self.run(VIOLATIONS, rules or {}))

    # --- how it is asked ---

    def command(self, method: str, path: str, body: Any = None) -> Any:
        return self._ask(method, f"/session/{self._session}{path}", body)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", PORT)
        connection.sock = self._host.open_socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            connection.sock.settimeout(60)
            connection.sock.connect(("127.0.0.1", PORT))
            connection.request(method, path, None if body is None else json.dumps(body).encode())
            value = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(value, dict) and "error" in value:
            raise DriverError(value["error"], value["message"])
        return value

    def _answers(self) -> bool:
        assert self._driver.status() is None, self._driver.output()
        try:
            return bool(self._ask("GET", "/status")["ready"])
        except OSError:
            return False
