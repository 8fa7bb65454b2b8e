"""`ensembled variants`: prints how far copies at lower precision move, and writes those on offer.

Runs in the process of the command line. A configuration and data flow in; a table or JSON on
stdout, files with the configuration, the library and the copies flow out.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from server.cli.application import (
    check_output,
    file_errors,
    make_table,
    stdout_console,
    write_output,
)
from server.config import load_config, read_config
from server.errors import ConfigError
from server.profiling.progress import progress_on_stderr
from server.stdout import echo
from server.variants.checking import Quality
from server.variants.comparison import CheckedCopy
from server.variants.pipeline import VariantFindings, VariantOptions, find_variants
from server.variants.writing import configuration_text, library_text, move_models

__all__ = ["variants"]

_MIB = 1 << 20


def variants(
    path: Path,
    data: Path,
    options: VariantOptions,
    *,
    output: Path | None,
    library: Path | None,
    as_json: bool,
) -> None:
    """Make copies of a configuration's members, check them, print that, and write what is offered.

    Raises:
        ConfigError: if the configuration, an option or a file is wrong.
        StartError: if a member can't run.
    """
    check_output("--output", output)
    check_output("--library", library)
    if output is not None and library is not None and output.resolve() == library.resolve():
        raise ConfigError(f"--library {library}: is the file of --output, give another one")
    kept = output or library
    with tempfile.TemporaryDirectory(prefix="ensembled-variants-") as made:
        with progress_on_stderr() as on_profile:
            found = find_variants(
                load_config(path),
                data,
                options,
                Path(made),
                on_progress=lambda what: print(what, file=sys.stderr, flush=True),
                on_profile=on_profile,
            )
        offered = [one for one in found.checked if one.is_offered]
        if kept is not None and offered:
            with file_errors(f"{kept}: its models"):
                offered = move_models(offered, kept.absolute().with_suffix(""))
    _print(found, as_json=as_json)
    if kept is not None and not offered:
        raise ConfigError("no copy is offered, so that nothing is written")
    if output is not None:
        directory = output.absolute().parent
        limit = options.max_disagreement
        text = configuration_text(read_config(path), offered, limit, directory)
        write_output("--output", output, text)
    if library is not None:
        text = library_text(load_config(path), offered, library.absolute().parent)
        write_output("--library", library, text)


def _print(found: VariantFindings, *, as_json: bool) -> None:
    if as_json:
        echo(msgspec.json.encode(_document(found)).decode())
        return
    console = stdout_console()
    for table in (_movement_table(found), _cost_table(found.checked)):
        if table.row_count:
            console.print(table)
    for name, reason in _reasons(found):
        console.print(f"{name}: {reason}", markup=False, highlight=False)


def _document(found: VariantFindings) -> dict[str, Any]:
    return {
        "rows": {"calibration": found.calibration_rows, "checked": found.checked_rows},
        "copies": [
            {
                "member": one.copy.member.name,
                "variant": one.copy.precision,
                "offered": one.is_offered,
                "reason": one.reason,
                "bytes": list(one.nbytes),
                **asdict(one.movement),
                "quality": None if one.quality is None else [asdict(each) for each in one.quality],
                "rows_per_s": {kind: list(both) for kind, both in one.rows_per_s.items()},
            }
            for one in found.checked
        ],
        "left_out": dict(found.left_out),
    }


def _movement_table(found: VariantFindings) -> Table:
    table = make_table(
        "member",
        "copy",
        numbers=("differs", "95% interval", "mean diff.", "max diff.", "quality", "MiB"),
        title=f"copies, compared with their members on {found.checked_rows} rows",
    )
    for one in found.checked:
        share = one.movement.disagreement
        table.add_row(
            one.copy.member.name,
            one.copy.precision,
            f"{share.share:.2%}",
            f"{share.low:.2%} to {share.high:.2%}",
            f"{one.movement.mean_difference:.3g}",
            f"{one.movement.max_difference:.3g}",
            "-" if one.quality is None else " -> ".join(map(_quality, one.quality)),
            " -> ".join(f"{size / _MIB:.1f}" for size in one.nbytes),
            style=None if one.is_offered else "dim",
        )
    return table


def _quality(one: Quality) -> str:
    if one.interval is None:
        return f"{one.measure} {one.value:.4g}"
    half = (one.interval.high - one.interval.low) / 2
    return f"{one.value:.2%} (± {half:.2%})"


def _cost_table(checked: Sequence[CheckedCopy]) -> Table:
    table = make_table(
        "member", "copy", "device kind", numbers=("rows/s", "of the copy", "times as fast")
    )
    for one in checked:
        for kind, (own, other) in one.rows_per_s.items():
            table.add_row(
                one.copy.member.name,
                one.copy.precision,
                kind,
                f"{own:.1f}",
                f"{other:.1f}",
                f"{other / own:.2f}",
            )
    return table


def _reasons(found: VariantFindings) -> Iterator[tuple[str, str]]:
    for one in found.checked:
        if one.reason:
            yield f"{one.copy.name} is not offered", one.reason
    for name, reason in found.left_out.items():
        yield f"{name} is left out", reason
