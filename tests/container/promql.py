"""What docs/metrics.md says about metrics, and what a PromQL expression takes for granted."""

from __future__ import annotations

import re
from collections.abc import Iterator

from promql_parser import AggregateExpr, Call, Expr, VectorSelector, parse, walk

from tests.container.building import PROJECT

__all__ = ["documented", "problems"]

_ROW = re.compile(r"\| (`ensembled_\w+`) \| (counter|gauge|histogram) \|([^|]*)\|")
_TICKED = re.compile(r"`(\w+)`")
#: What Prometheus adds to every series.
_ADDED = {"instance", "job"}
_OF_COUNTERS = {"rate", "increase"}
_PARTS = {"_bucket": {"le"}, "_sum": set(), "_count": set()}


def documented() -> dict[str, tuple[str, set[str]]]:
    """The type and the labels of each series, by name; a histogram's series one by one."""
    series = {"up": ("gauge", set(_ADDED))}
    for name, kind, labels in _ROW.findall((PROJECT / "docs/metrics.md").read_text()):
        its = {*_TICKED.findall(labels), *_ADDED}
        if kind == "histogram":
            for suffix, more in _PARTS.items():
                series[name.strip("`") + suffix] = ("counter", its | more)
        else:
            series[name.strip("`")] = (kind, its)
    return series


def problems(expression: str) -> list[str]:
    """What is wrong with an expression, beside its syntax.

    Raises:
        ValueError: if it can't be parsed.
    """
    return list(_problems(parse(expression), documented()))


def _problems(expression: Expr, series: dict[str, tuple[str, set[str]]]) -> Iterator[str]:
    counted = set()
    for node in _nodes(expression):
        if isinstance(node, Call) and node.func.name in _OF_COUNTERS:
            counted |= {each.name for each in _selectors(node)}
        if isinstance(node, AggregateExpr) and node.modifier is not None:
            known = [series[each.name][1] for each in _selectors(node) if each.name in series]
            for label in node.modifier.labels:
                if not all(label in labels for labels in known):
                    yield f"no label {label} to aggregate by in {node.expr}"
    for selector in _selectors(expression):
        if selector.name not in series:
            yield f"{selector.name} is not documented"
            continue
        kind, labels = series[selector.name]
        for matcher in selector.matchers.matchers:
            if matcher.name not in labels:
                yield f"{selector.name} has no label {matcher.name}"
        if (kind == "counter") != (selector.name in counted):
            yield f"{selector.name} is a {kind}"


def _selectors(expression: Expr) -> list[VectorSelector]:
    return [node for node in _nodes(expression) if isinstance(node, VectorSelector)]


def _nodes(expression: Expr) -> list[Expr]:
    found: list[Expr] = []

    def visit(node: Expr) -> bool:
        found.append(node)
        return True

    walk(expression, visit)
    return found
