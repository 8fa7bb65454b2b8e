"""Commands that make ensembles better or new: `calibrate`, `grow`.

Runs in the process of the command line. Arguments flow in, the modules of the commands do the work.
"""

from __future__ import annotations

import os
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from server.cli.application import check_output, check_plot, errors_as_lines
from server.cli.arguments import AsJson, ConfigPath, Debug, Seed, byte_size, file_option, load
from server.errors import ConfigError

__all__ = ["commands"]

commands = typer.Typer()


class CopyPrecision(StrEnum):
    """The precision of a copy."""

    INT8 = "int8"
    INT8_DYNAMIC = "int8-dynamic"
    FP16 = "fp16"


@commands.command()
def calibrate(
    config: ConfigPath,
    *,
    data: Annotated[Path, file_option("Inputs by name (or x), and classes y (.npz).")],
    ensemble: Annotated[
        str | None, typer.Option(help="Name of the ensemble; optional if there is only one.")
    ] = None,
    holdout: Annotated[
        float, typer.Option(help="Share of the rows used for evaluation instead of fitting.")
    ] = 0.5,
    seed: Seed = 0,
    max_loss: Annotated[
        float,
        typer.Option(min=0, max=1, help="Accuracy a cascade may lose, as a share of the rows."),
    ] = 0.002,
    weights: Annotated[
        Literal["keep", "fitted", "selected"] | None,
        typer.Option(
            help="Which weights to write: the rule as it is, fitted ones, or those of the greedy "
            "selection [fitted for a weighted mean, else keep]."
        ),
    ] = None,
    bags: Annotated[
        int, typer.Option(min=0, help="Number of random bags of members for the greedy selection.")
    ] = 0,
    outside: Annotated[
        list[Path] | None, file_option("Out-of-distribution inputs to detect (.npz).")
    ] = None,
    output: Annotated[
        Path | None, file_option("Write the fitted keys, as a YAML fragment.")
    ] = None,
    conformal: Annotated[
        Path | None, file_option("Write what sets of classes, or intervals, need (.json).")
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option(help="Coverage of sets and intervals [0.9]."),
    ] = None,
    method: Annotated[
        Literal["lac", "aps", "raps"], typer.Option(help="Method of the sets of classes.")
    ] = "lac",
    plot: Annotated[Path | None, file_option("Plot a reliability diagram (.svg or .png).")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Fit an ensemble's temperatures, weights, cascade and coverage on data, and evaluate them."""
    with errors_as_lines(debug):
        check_output("--output", output)
        check_output("--conformal", conformal)
        check_plot(plot)
        from server.calibration.conformal import ConformalOptions  # noqa: PLC0415
        from server.calibration.fitting import FitOptions  # noqa: PLC0415
        from server.calibration.pipeline import calibrate_ensemble  # noqa: PLC0415
        from server.cli.calibrate import print_calibration  # noqa: PLC0415

        found = calibrate_ensemble(
            load(config, with_conformal=False),
            config,
            data,
            FitOptions(weighting=weights, max_loss=max_loss, bags=bags, seed=seed),
            ensemble=ensemble,
            holdout=holdout,
            outside=outside or (),
            conformal=ConformalOptions(conformal, method, coverage),
        )
        files = {"--output": output, "--plot": plot, "--conformal": conformal}
        print_calibration(found, files, as_json=as_json)


@commands.command()
def grow(
    function: Annotated[
        str,
        typer.Argument(help="Function that trains: package.module:NAME or FILE.py:NAME."),
    ],
    *,
    library: Annotated[Path, typer.Option(metavar="DIR", help="Directory of the library.")],
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials after which the library is complete.")
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(min=1, metavar="SECONDS", help="Time to work on the library, in all."),
    ] = None,
    data: Annotated[
        Path | None, file_option("Validation rows (.npz), on which kept members shall differ.")
    ] = None,
    margin: Annotated[
        float, typer.Option(min=0, help="How much worse than the best a member's metric may be.")
    ] = 0.02,
    keep: Annotated[int, typer.Option(min=1, help="Most members to keep.")] = 32,
    disk: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Most bytes of their files, such as 20GiB.")
    ] = None,
    minimize: Annotated[bool, typer.Option("--minimize", help="A lower metric is better.")] = False,
    trial_budget: Annotated[
        int, typer.Option(min=1, help="Metrics that a whole trial yields, such as its epochs.")
    ] = 27,
    pruning: Annotated[
        Literal["hyperband", "asha", "none"], typer.Option(help="Which trials are stopped early.")
    ] = "hyperband",
    grace: Annotated[int, typer.Option(min=1, help="Metrics before a trial may be stopped.")] = 1,
    reduction: Annotated[
        int, typer.Option(min=2, help="One of so many trials goes on at each rung.")
    ] = 3,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that train [one per GPU, else per group of cores]."),
    ] = None,
    fixed: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An entry of every configuration."),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Database of the trials [SQLite, in the library]."),
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train many models by a function of yours, and keep the good and different ones.

    The same command continues what was interrupted. Exit status 0 if the library has members.
    """
    with errors_as_lines(debug):
        if trials is None and budget is None:
            raise ConfigError("give --trials or --budget, which say when the library is complete")
        if grace > trial_budget:
            raise ConfigError(f"--grace {grace} is more than --trial-budget {trial_budget}")
        if find_spec("optuna") is None:
            raise ConfigError("grow needs Optuna: pip install 'ensembled[grow]'")
        from server.cli.grow import (  # noqa: PLC0415
            fixed_entries,
            grow_library,
            reference,
        )
        from server.growth.grower import GrowOptions  # noqa: PLC0415
        from server.growth.keeping import KeepOptions  # noqa: PLC0415
        from server.growth.trials import StudySpec  # noqa: PLC0415

        name, imports = reference(function)
        options = GrowOptions(
            function=name,
            imports=imports,
            library=Path(os.path.realpath(library)),
            study=StudySpec(
                storage=storage or "",
                minimize=minimize,
                budget=trial_budget,
                grace=grace,
                reduction=reduction,
                pruning=pruning,
                seed=seed,
            ),
            keep=KeepOptions(margin, keep, byte_size("--disk", disk), minimize),
            trials=trials,
            budget_s=budget,
            workers=workers,
            data=None if data is None else data.absolute(),
            fixed=fixed_entries(fixed or []),
        )
        grow_library(options, as_json=as_json)


@commands.command()
def variants(
    config: ConfigPath,
    *,
    data: Annotated[
        Path, file_option("Inputs by name (or x), and perhaps classes or numbers y (.npz).")
    ],
    calibration: Annotated[
        Path | None, file_option("Inputs to calibrate on [up to half of --data].")
    ] = None,
    precision: Annotated[
        list[CopyPrecision] | None,
        typer.Option(help="Precision of the copies [all]; may be repeated."),
    ] = None,
    member: Annotated[
        list[str] | None, typer.Option(help="Member to copy [all]; may be repeated.")
    ] = None,
    max_disagreement: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of rows that an offered copy may answer otherwise."),
    ] = 0.02,
    tolerance: Annotated[
        float, typer.Option(min=0, help="By how much numbers that agree may differ, relatively.")
    ] = 0.01,
    seed: Seed = 0,
    output: Annotated[
        Path | None, file_option("Write CONFIG with the copies as variants (.yaml), for `serve`.")
    ] = None,
    library: Annotated[
        Path | None, file_option("Write members and copies side by side (.yaml), for `select`.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make copies of members at lower precision, and check how far they move and what they gain."""
    with errors_as_lines(debug):
        import server.cli.variants  # noqa: PLC0415
        from server.variants.pipeline import VariantOptions  # noqa: PLC0415

        server.cli.variants.variants(
            config,
            data,
            VariantOptions(
                precisions=[one.value for one in precision or CopyPrecision],
                members=member or (),
                max_disagreement=max_disagreement,
                tolerance=tolerance,
                calibration=calibration,
                seed=seed,
            ),
            output=output,
            library=library,
            as_json=as_json,
        )
