"""A real Prometheus in a host, which scrapes the mirrord there every second."""

from __future__ import annotations

import http.client
import json
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.support.topology import Host
from tests.support.wait import wait_for

PORT = 9090
WINDOW, RATE_WINDOW = "6s", "5s"

CONFIGURATION = """
global:
  scrape_interval: 1s
  scrape_timeout: 1s
  evaluation_interval: 1s
rule_files: [rules.yml]
scrape_configs:
  - job_name: mirrord
    static_configs:
      - targets: ["127.0.0.1:9817"]
"""


def hastened(text: str) -> str:
    """Rules or PromQL for who cannot wait: over the last six seconds, and after two seconds instead of a minute."""
    text = re.sub(r"for: (\d+)m", lambda found: f"for: {2 * int(found[1])}s", text)
    return re.sub(r"\[\d+[mhd]\]", f"[{WINDOW}]", text)


def filled(expression: str, window: str = WINDOW) -> str:
    """A dashboard's query as Grafana would send it, with All chosen for each variable."""
    expression = expression.replace("$__rate_interval", RATE_WINDOW).replace("$__range", window)
    return re.sub(r"\$(instance|mirror|session)", ".*", expression)


class Prometheus:
    """Runs until its host goes, at the latest."""

    def __init__(self, host: Host, directory: Path, rules: Path, target: str = "127.0.0.1:9817") -> None:
        self.host = host
        (directory / "prometheus.yml").write_text(CONFIGURATION.replace("127.0.0.1:9817", target))
        (directory / "rules.yml").write_text(hastened(rules.read_text()))
        self._process = host.spawn(
            "prometheus", f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{PORT}", "--log.level=warn", directory=directory,
        )  # fmt: skip
        wait_for(self._answers, "Prometheus answers", 20)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query; RuntimeError with Prometheus's own words for a wrong one."""
        answer = self._get("query", query=expression)
        if answer["status"] != "success":
            raise RuntimeError(f"{expression}: {answer['error']}")
        found = answer["data"]["result"]
        return found if answer["data"]["resultType"] == "vector" else [{"metric": {}, "value": found}]

    def query_range(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        """The series of a query, second by second."""
        span = {"start": str(start), "end": str(end), "step": "1"}
        return list(self._get("query_range", query=expression, **span)["data"]["result"])

    def label_values(self, label: str, match: str) -> set[str]:
        return set(self._get(f"label/{label}/values", **{"match[]": match})["data"])

    def firing(self) -> set[tuple[str, str, str]]:
        """Name, mirror and reason of each alert that fires now."""
        alerts = [one["labels"] for one in self._get("alerts")["data"]["alerts"] if one["state"] == "firing"]
        return {(one["alertname"], one.get("mirror", ""), one.get("reason", "")) for one in alerts}

    def annotations(self, alert: str) -> dict[str, str]:
        """What the first alert of a name says."""
        alerts = self._get("alerts")["data"]["alerts"]
        return next(dict(one["annotations"]) for one in alerts if one["labels"]["alertname"] == alert)

    def _get(self, path: str, **parameters: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", PORT)
        connection.sock = self.host.open_socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            connection.sock.settimeout(10)
            connection.sock.connect(("127.0.0.1", PORT))
            connection.request("GET", f"/api/v1/{path}?{urlencode(parameters)}")
            return json.load(connection.getresponse())
        finally:
            connection.close()

    def _answers(self) -> bool:
        assert self._process.status() is None, self._process.output()
        try:
            return bool(self.query("vector(1)"))
        except (OSError, RuntimeError, json.JSONDecodeError):
            return False
