"""What the study found, in sentences that are worked out from its figures.

Pure; a `Study` flows in, sentences flow out, so the words can't part from the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks.study.markdown import devices_used, gib_text, percent_text
from benchmarks.study.outcomes import SOLVERS, Outcome, Study

__all__ = ["all_findings"]

#: Less than this share of what the model promises is worth a warning.
_BROKEN = 0.5


def all_findings(study: Study) -> Iterator[str]:
    """Yield the findings, each a sentence or two of Markdown."""
    yield from _findings_of_twelve(study.twelve)
    yield from _findings_of_one(study.one)
    yield from _findings_of_sweep(study)
    mixed = study.mixed
    if mixed.rate("exact") and mixed.rate("worst-fit"):
        yield f"**GPUs of two kinds** ({mixed.title}): exact reaches {_against(mixed)}."
    yield from _findings_of_play(study)


def _findings_of_twelve(outcomes: Sequence[Outcome]) -> Iterator[str]:
    whole = outcomes[0]
    fitting = {one.rule: one.batch for one in whole.naive if one.rows_per_s is not None}
    if (everywhere := fitting.get("every network on every GPU")) is not None:
        yield (
            "**Twelve heavy networks on four V100 with all of their memory**: every network on "
            f"every GPU, the simplest placement, fits only up to batch size {everywhere}."
        )
    tried = [(one.rows_per_s, one) for one in whole.naive if one.rows_per_s is not None]
    exact = whole.rate("exact")
    if exact and tried:
        rate, best = max(tried, key=lambda pair: pair[0])
        yield (
            f"There, exact reaches {_against(whole)}; it is {percent_text(whole.gap)} below the "
            f"proven bound. It reaches {exact / rate:.2f} times the rate of the best single batch "
            f"size for all ({best.rule}, {best.batch}), found by trying five."
        )
    for one in outcomes:
        if all(tried.rows_per_s is None for tried in one.naive):
            found = [solver for solver in SOLVERS if one.rate(solver) is not None]
            yield (
                f"**With {gib_text(one.memory_bytes)} on each GPU** no single batch size of "
                f"{_batches(one)} fits in either placement. Solvers that find a placement: "
                f"{', '.join(found) or 'none'}."
            )


def _findings_of_one(one: Outcome) -> Iterator[str]:
    exact, greedy = one.solution("exact"), one.solution("greedy")
    if exact.matrix and greedy.matrix:
        yield (
            f"**One network on {len(one.devices)} GPUs**: exact uses "
            f"{devices_used(exact.matrix)} of them, the bounded greedy search "
            f"{devices_used(greedy.matrix)}, worst-fit one. Exact reaches {_against(one)}."
        )


def _findings_of_sweep(study: Study) -> Iterator[str]:
    parts = []
    for to in SOLVERS[:-1]:
        ratios = [(ratio, one) for one in study.sweep if (ratio := one.ratio("exact", to))]
        if ratios:
            high, where = max(ratios, key=lambda pair: pair[0])
            middle = median(ratio for ratio, _ in ratios)
            parts.append(
                f"{middle:.2f} times the rows/s of {to} (at most {high:.2f}: {where.title})"
            )
    if parts:
        yield f"**Over the sweep**, exact reaches in the median {', '.join(parts)}."
    gaps = [one.gap for one in study.sweep if one.gap is not None]
    if gaps:
        proven = sum(gap < 1e-3 for gap in gaps)
        yield (
            f"Exact ends within 0.1% of the proven bound in {proven} of {len(gaps)} cases of the "
            f"sweep; the widest gap is {percent_text(max(gaps))}."
        )


def _findings_of_play(study: Study) -> Iterator[str]:
    shares = [
        (one.saturated_rows_per_s / promised, one.solver, outcome)
        for outcome in study.outcomes()
        for one in outcome.simulated
        if (promised := outcome.rate(one.solver))
    ]
    exact = [share for share, solver, _ in shares if solver == "exact"]
    if not exact:
        return
    yield (
        f"**In the simulator**, exact's matrices reach {100 * min(exact):.0f}% to "
        f"{100 * max(exact):.0f}% of the rate that the model predicts."
    )
    low, solver, where = min(shares, key=lambda one: one[0])
    if low < _BROKEN:
        yield (
            f"**Warning:** in the simulator, the matrix of {solver} for {where.title} reaches "
            f"only {100 * low:.0f}% of its predicted rate."
        )


def _against(outcome: Outcome) -> str:
    """What exact does beside all others that found a place, in words."""
    ratios = [
        (ratio, one.solver)
        for one in outcome.solutions
        if one.solver != "exact" and (ratio := outcome.ratio("exact", one.solver))
    ]
    (first, solver), *others = ratios
    return ", ".join(
        [f"{first:.2f} times the rows/s of {solver}", *(f"{r:.2f} of {name}" for r, name in others)]
    )


def _batches(outcome: Outcome) -> str:
    batches = sorted({one.batch for one in outcome.naive})
    return f"{batches[0]} to {batches[-1]}"
