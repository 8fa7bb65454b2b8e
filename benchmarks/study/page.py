"""Writes the study's page: findings in words, tables, plots.

Pure; a `Study` flows in, Markdown flows out.
"""

from __future__ import annotations

from textwrap import fill

from benchmarks.study.about import model_section, repeat_section, trust_section
from benchmarks.study.findings import all_findings
from benchmarks.study.markdown import devices_used, gib_text, percent_text, rate_text, table
from benchmarks.study.outcomes import Outcome, Study

__all__ = ["PLOT_DIRECTORY", "page"]

#: Of the plots, beside the page.
PLOT_DIRECTORY = "placement-study"

_WIDTH = 100
_SHOWN_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16)


def page(study: Study) -> str:
    """Return the Markdown page of a study."""
    sections = (
        _head(study),
        _findings(study),
        _question(),
        model_section(),
        _twelve(study),
        _one(study),
        _sweep(study),
        _mixed(study),
        _simulated(study),
        trust_section(),
        repeat_section(),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(study: Study) -> str:
    run = (
        f"Commit {study.commit}, {study.date[:10]}; exact search limited to "
        f"{study.sweep_limit_s:g} s a case in the sweep and {study.extremes_limit_s:g} s in the "
        f"others, greedy search with seed {study.seed}; {study.elapsed_s:.0f} s in all on "
        f"{study.hardware.cores} cores of {study.hardware.cpu}. All figures, and every matrix, "
        f"are in [results.json]({PLOT_DIRECTORY}/results.json)."
    )
    return f"""# Placement study: twelve networks on four GPUs, one on sixteen

<!-- Written by `python -m benchmarks.study`; edit benchmarks/study instead. -->

This page helps you judge what the placement search is worth, by comparing it with simpler
placements.

> **Every rate on this page is estimated.** No GPU was measured: the cost of a network on a GPU is
> computed by a formula from published figures. The page shows how placements compare, not how fast
> yours is.

{fill(run, _WIDTH, break_on_hyphens=False)}"""


def _findings(study: Study) -> str:
    bullets = (
        fill(f"- {one}", _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        for one in all_findings(study)
    )
    return "\n".join(["## Findings", "", *bullets])


def _question() -> str:
    return """## Question

The paper on which this server is based (Pochelu, Petiton and Conche,
[arXiv 2208.14049](https://arxiv.org/abs/2208.14049)) shows its allocation at two extremes: twelve
heavy networks on four GPUs, and one network on sixteen. In between, everyone who serves an ensemble
has to decide which network runs on which GPU, how many times, and with what batch size. The same
cases are solved by

- **worst-fit**: each network once, with the smallest batch size, on the GPU with the most free
  memory;
- **batch sizes only**: the placement of worst-fit with the best batch sizes for it;
- **greedy**: the paper's bounded greedy search from worst-fit, limited here to ten steps of at most
  a hundred neighbours, each of which changes one cell; **patient greedy**, for few cases, has a
  hundred steps;
- **exact**: rebuilds placements from the solution of the linear program below, proves a **bound**
  that no placement can exceed, and closes the gap by branch and bound if the problem is small. It
  may sacrifice a thousandth of the rows/s for fewer instances.

The paper reports that its greedy search reaches up to 2.7 times the rate of tuning batch sizes
alone. That was measured, with other networks on other GPUs, so it can't be compared with the ratios
here."""


def _twelve(study: Study) -> str:
    head = ("memory of each GPU", *_asked(study.twelve[0]), "bound", "exact below bound")
    rows = [
        (gib_text(one.memory_bytes), *_rates(one), percent_text(one.gap)) for one in study.twelve
    ]
    tried = study.twelve[0].naive
    naive_head = (
        "one batch size for all",
        "batch",
        *(gib_text(o.memory_bytes) for o in study.twelve),
    )
    naive = [
        (one.rule, str(one.batch), *(rate_text(o.naive[i].rows_per_s) for o in study.twelve))
        for i, one in enumerate(tried)
    ]
    members = ", ".join(study.twelve[0].members)
    return f"""## Twelve networks on four GPUs

{fill(members, _WIDTH)}

on four V100 of 16 GB, with their whole memory and with less, as if other tenants used the rest.
Rows/s, estimated:

{table(head, rows)}

![Rows/s by solver and memory, estimated]({PLOT_DIRECTORY}/twelve.svg)

The obvious placements, rows/s, estimated:

{table(naive_head, naive)}

![The matrix, estimated]({PLOT_DIRECTORY}/matrix.svg)"""


def _one(study: Study) -> str:
    one = study.one
    rows = [
        (
            solver,
            rate_text(one.rate(solver)),
            str(devices_used(one.solution(solver).matrix or ())),
            f"{one.solution(solver).elapsed_s:.2f}",
        )
        for solver in _asked(one)
    ]
    return f"""## One network on sixteen GPUs

{one.members[0]} on {len(one.devices)} V100. Rows/s, estimated; the bound is {rate_text(one.bound)}.

{table(("solver", "rows/s", "GPUs used", "search, s"), rows)}

![Rows/s by solver, estimated]({PLOT_DIRECTORY}/one.svg)

Each step of the greedy search changes one cell, so with ten steps it reaches eleven GPUs at most,
with no step left for batch sizes."""


def _sweep(study: Study) -> str:
    head = ("networks", "GPUs", *_asked(study.sweep[0]), "bound", "exact below bound", "exact, s")
    rows = [
        (
            str(size),
            str(len(one.devices)),
            *_rates(one),
            percent_text(one.gap),
            f"{one.solution('exact').elapsed_s:.1f}",
        )
        for size in study.sizes
        for one in study.sweep_of(size)
        if len(one.devices) in _SHOWN_COUNTS
    ]
    return f"""## From 1 to 16 GPUs

Ensembles of {", ".join(map(str, study.sizes))} networks, each a prefix of the next. Ten steps
change ten cells, so the more cells there are to fill, the further the bounded greedy search falls
behind; with many networks it is even behind batch sizes only, which continues until nothing
improves. Rows/s of the ensemble, estimated:

![Rows/s by number of GPUs, estimated]({PLOT_DIRECTORY}/sweep.svg)

{table(head, rows)}"""


def _mixed(study: Study) -> str:
    rows = [(study.mixed.title, *_rates(study.mixed), percent_text(study.mixed.gap))]
    head = ("case", *_asked(study.mixed), "bound", "exact below bound")
    return f"## GPUs of two kinds\n\nRows/s, estimated:\n\n{table(head, rows)}"


def _simulated(study: Study) -> str:
    rows = [
        (
            outcome.title,
            one.solver,
            rate_text(outcome.rate(one.solver)),
            rate_text(one.saturated_rows_per_s),
            f"{one.p50_ms:,.0f}",
            f"{one.p99_ms:,.0f}",
        )
        for outcome in study.outcomes()
        for one in outcome.simulated
    ]
    if not rows:
        return ""
    load = next(one.load for outcome in study.outcomes() for one in outcome.simulated)
    head = ("case", "matrix of", "model, rows/s", "saturated, rows/s", "p50, ms", "p99, ms")
    return f"""## Under load

The performance model describes averages over long times; a server has to reach them row by row.
The simulator runs single-row requests through the server's dispatch on these matrices, where only
predictions take time: once with clients that keep every instance's batch full, and once with random
arrivals (Poisson) at {load:.0%} of the rows/s that the model predicts for the matrix, measuring the
time from arrival to answer. Like the profiles, all results are estimates:

{table(head, rows)}"""


def _asked(outcome: Outcome) -> list[str]:
    """The solvers that a case was put to."""
    return [one.solver for one in outcome.solutions]


def _rates(outcome: Outcome) -> list[str]:
    rates = [rate_text(outcome.rate(solver)) for solver in _asked(outcome)]
    return [*rates, rate_text(outcome.bound)]
