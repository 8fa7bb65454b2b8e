"""A scrape of a server's metrics, and what docs/metrics.md says of them."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from serving import Client, wait_for

DOCUMENT = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
_ROW = re.compile(r"^\| `(ensembled_\w+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)
_TICKED = re.compile(r"`([\w-]+)`")


class Scrape:
    """What Prometheus would see now.

    Attributes:
        text: as it came.
        values: by name and labels.
        types: by name, as Prometheus calls the family.
    """

    def __init__(self, client: Client) -> None:
        response = client.get("/metrics")
        assert response.status_code == 200, response.text
        self.text = response.text
        self.types: dict[str, str] = {}
        self.values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(self.text):
            suffix = "_total" if family.type == "counter" else ""
            self.types[family.name + suffix] = family.type
            for sample in family.samples:
                self.values[sample.name, frozenset(sample.labels.items())] = sample.value

    def value(self, name: str, **labels: str) -> float:
        """The one sample with these labels, or 0 if there is none; of version 1 by default."""
        name = f"ensembled_{name}"
        assert any(name.startswith(known) for known in self.types), name
        if "model" in labels and "version" not in labels:
            labels["version"] = "" if labels["model"] == "(none)" else "1"
        return self.values.get((name, frozenset(labels.items())), 0.0)

    def labels(self, name: str) -> set[str]:
        """The names of the labels that samples of a family have, as far as there are samples."""
        parts = {name, *(f"{name}{part}" for part in ("_bucket", "_sum", "_count"))}
        return {
            label
            for sample, labels in self.values
            if sample in parts
            for label, _ in labels
            if label != "le"
        }


def whole_scrape(client: Client) -> Scrape:
    """A scrape with what the kernel is asked for: if that takes long, a scrape goes without it."""

    def scraped() -> Scrape | None:
        scrape = Scrape(client)
        return scrape if scrape.labels("ensembled_process_threads") else None

    return wait_for(scraped, "what processes take")


def wait_counted(client: Client) -> None:
    """Wait until every batch is counted: its rows may be answered before its worker has told."""
    name = "ensembled_device_open_jobs"

    def no_open_jobs() -> bool:
        values = Scrape(client).values
        return not any(value for (sample, _), value in values.items() if sample == name)

    wait_for(no_open_jobs, "that every batch is counted")


def documented_metrics() -> dict[str, tuple[str, set[str]]]:
    """The type and the labels of each metric of the documentation, by name."""
    rows = _ROW.findall(DOCUMENT)
    assert len({name for name, _, _ in rows}) == len(rows)
    return {name: (kind, set(_TICKED.findall(labels))) for name, kind, labels in rows}


def documented_words(section: str) -> set[str]:
    """The words in the first column of a section's table."""
    text = DOCUMENT.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    _, *cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {word for cell in cells for word in _TICKED.findall(cell)}


def documented_queries() -> list[str]:
    """The PromQL of the documentation."""
    return re.findall(r"```promql\n(.*?)```", DOCUMENT, re.DOTALL)
