"""Commands that make ensembles better or new: `calibrate`.

Runs in the process of the command line. Arguments flow in, the modules of the commands do the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from server.cli.application import check_output, check_plot, errors_as_lines
from server.cli.arguments import AsJson, ConfigPath, Debug, Seed, file_option, load

__all__ = ["commands"]

commands = typer.Typer()


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
