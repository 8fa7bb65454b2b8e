"""Throw damaged requests at a server: ``python -m tests.fuzz --requests 100000 --seed 1``.

Exits with 1 if anything was found that must not be: a status that the protocol's table does not
have, a refusal in another shape, a client left waiting, a wrong answer to the canary, a process
that died or has grown.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from tests.fuzz.campaign import campaign


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where the report goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
        report = campaign(options.requests, options.seed, Path(directory))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    print(table(report))
    return 1 if report["violations"] else 0


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"{'kind':30} {'slowest':>8}  outcomes"]
    for kind, found in report["kinds"].items():
        outcomes = "  ".join(f"{name} {count}" for name, count in found["outcomes"].items())
        lines.append(f"{kind:30} {found['slowest_s']:>7.2f}s  {outcomes}")
    lines.append("")
    lines.append(f"{'process':30} {'MiB':>13} {'descriptors':>12} {'threads':>10}  MiB/100,000")
    for row in report["processes"]:
        old, new, slope = row["before"], row["after"], row["slope_mib_per_100k"]
        lines.append(
            f"{row['process']:30} {old['rss_mib']:5.0f} -> {new['rss_mib']:4.0f} "
            f"{old['descriptors']:5} -> {new['descriptors']:3} "
            f"{old['threads']:3} -> {new['threads']:3}  "
            f"{'' if slope is None else f'{slope:+.1f}'}"
        )
    lines.append("")
    lines.append(
        f"{report['requests']} requests from seed {report['seed']} in {report['seconds']} s, "
        f"{report['canary_answers']} right answers to the canary, "
        f"{len(report['violations'])} violations"
    )
    lines += [f"  {found['kind']}: {found['what']}" for found in report["violations"]]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
