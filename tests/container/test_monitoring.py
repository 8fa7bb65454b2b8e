"""The dashboard and the alerts ask for metrics that there are, in words Prometheus knows."""

import json
import re
import shutil
import subprocess

import pytest
import yaml

from tests.container.building import PROJECT
from tests.container.promql import problems

PROMETHEUS = PROJECT / "configs/prometheus"
DASHBOARD = json.loads((PROJECT / "configs/grafana/dashboards/ensembled.json").read_text())
ALERTS = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
VARIABLES = {each["name"] for each in DASHBOARD["templating"]["list"]}


def panels():
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def filled(expression: str) -> str:
    """An expression as Grafana sends it: with values for the dashboard's variables."""
    filled = expression.replace("$__rate_interval", "1m")
    for name in VARIABLES:
        filled = filled.replace(f"${name}", ".*")
    assert "$" not in filled, expression
    return filled


def shown():
    """The expressions of the dashboard, by title."""
    found = [
        (f"{panel['title']} {target['refId']}", filled(target["expr"]))
        for panel in panels()
        for target in panel["targets"]
    ]
    return found + [
        (each["name"], filled(each["expr"])) for each in DASHBOARD["annotations"]["list"]
    ]


@pytest.mark.parametrize(("title", "expression"), shown())
def test_a_panel_asks_for_what_is_documented(title, expression):
    assert problems(expression) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_an_alert_asks_for_what_is_documented(rule):
    assert problems(rule["expr"]) == []


def test_legends_name_labels_that_the_expression_keeps():
    for panel in panels():
        for target in panel["targets"]:
            kept = re.findall(r"\bby \(([^)]*)\)", target["expr"])
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                if kept:
                    assert all(label in by.replace(" ", "").split(",") for by in kept), panel[
                        "title"
                    ]


def test_panels_do_not_overlap_and_have_numbers_of_their_own():
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_grafana_finds_prometheus_and_the_dashboard():
    provisioning = PROJECT / "configs/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    compose = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
    host, port = re.fullmatch(r"http://(\w+):(\d+)", source["url"]).groups()
    assert compose["services"][host]["ports"] == [f"127.0.0.1:{port}:{port}"]
    scraping = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"].split()[0] == scraping["global"]["scrape_interval"]
    (provider,) = yaml.safe_load((provisioning / "dashboards/ensembled.yml").read_text())[
        "providers"
    ]
    mounts = [each.split(":") for each in compose["services"]["grafana"]["volumes"]]
    assert ["./configs/grafana/dashboards", provider["options"]["path"], "ro"] in mounts
    sources = {each.get("datasource", {}).get("uid") for each in DASHBOARD["panels"]} - {None}
    assert sources == {"${datasource}"}


def test_a_wrong_expression_is_found():
    assert problems("ensembled_ready") == []
    assert problems("ensembled_redy") == ["ensembled_redy is not documented"]
    assert problems("ensembled_requests_total") == ["ensembled_requests_total is a counter"]
    assert problems("rate(ensembled_ready[1m])") == ["ensembled_ready is a gauge"]
    assert problems('ensembled_ready{model="a"}') == ["ensembled_ready has no label model"]
    assert len(problems("sum by (modell) (ensembled_model_ready)")) == 1
    with pytest.raises(ValueError, match="rate"):
        problems("rate(ensembled_requests_total)")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")
def test_promtool_takes_the_configuration_and_all_expressions(tmp_path):
    def promtool(*arguments):
        result = subprocess.run(
            ["promtool", *map(str, arguments)], check=False, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stdout + result.stderr

    promtool("check", "config", PROMETHEUS / "prometheus.yml")
    rules = [
        {"record": f"panel:{number}", "expr": expression}
        for number, (_, expression) in enumerate(shown())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", path)
