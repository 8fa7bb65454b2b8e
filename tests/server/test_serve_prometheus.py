"""A real Prometheus scrapes a real server."""

import contextlib
import shutil
import socket
import subprocess
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from scraping import documented_queries
from serving import configuration, fake, wait_for

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="needs prometheus (Debian: prometheus)"
    ),
]

ALERTS = Path(__file__).parents[2] / "configs/prometheus/alerts.yml"
X = np.array([[5, 6], [7, 8]], np.float32)


class Prometheus:
    """A running Prometheus with a directory of its own."""

    def __init__(self, target: str, directory: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": [
                {"job_name": "ensembled", "static_configs": [{"targets": [target]}]}
            ],
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.log = directory / "stderr.txt"
        with self.log.open("wb") as stderr:
            self._popen = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={directory / 'prometheus.yml'}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address={self.url.removeprefix('http://')}",
                ],
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        self._http = httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    def get(self, path, **parameters):
        return self._http.get(path, params=parameters).raise_for_status().json()["data"]

    def is_ready(self):
        assert self._popen.poll() is None, self.log.read_text()
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, query):
        """The values of a query, by labels."""
        return {
            tuple(sorted(each["metric"].items())): float(each["value"][1])
            for each in self.get("/api/v1/query", query=query)["result"]
        }

    def close(self):
        self._http.close()
        self._popen.terminate()
        try:
            self._popen.wait(20)
        finally:
            self._popen.kill()
            self._popen.wait()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@pytest.fixture
def scraped(serve, tmp_path):
    """A server and the Prometheus that scrapes it."""
    server = serve(configuration({"a": fake(0), "b": fake(2)}))
    directory = tmp_path / "prometheus"
    directory.mkdir()
    with contextlib.closing(Prometheus(f"{server.host}:{server.port}", directory)) as prometheus:
        wait_for(prometheus.is_ready, "Prometheus")
        yield server, prometheus


def test_prometheus_scrapes_the_server(scraped):
    server, prometheus = scraped
    for _ in range(7):
        assert server.predict("all", X).status == 200
    wait_for(
        lambda: (
            prometheus.ask('sum(ensembled_requests_total{model="all", outcome="ok"})') == {(): 7}
        ),
        "what was asked",
    )
    assert prometheus.ask('sum(ensembled_rows_total{model="all"})') == {(): 14}
    assert prometheus.ask('up{job="ensembled"} == 1')
    (target,) = prometheus.get("/api/v1/targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    (group,) = wait_for(lambda: prometheus.get("/api/v1/rules")["groups"], "the rules")
    wait_for(
        lambda: all(
            rule["health"] == "ok"
            for group in prometheus.get("/api/v1/rules")["groups"]
            for rule in group["rules"]
        ),
        "every rule to be evaluated",
    )
    for query in documented_queries():
        prometheus.ask(query)
    answered = (
        'histogram_quantile(0.99, rate(ensembled_request_duration_seconds_bucket{model="all"}[1m]))'
    )

    def quantile():
        server.predict("all", X)
        return [value for value in prometheus.ask(answered).values() if value > 0]

    assert wait_for(quantile, "a quantile")[0] < 60
