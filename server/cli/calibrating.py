"""`ensembled calibrate`: temperatures, weights and cascades, fitted on data.

Runs in the process of the command line; what does the work is imported when the command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from server.cli.application import app, errors_as_lines
from server.cli.options import AsJson, ConfigPath, Debug

__all__ = ["calibrate"]


@app.command()
def calibrate(
    config: ConfigPath,
    *,
    data: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Inputs by name (or x) and y, the classes; .npz."),
    ],
    ensemble: Annotated[
        str | None, typer.Option(help="Which ensemble; may be left out if there is one.")
    ] = None,
    holdout: Annotated[
        float, typer.Option(help="Share of the rows to judge by; the others are fitted on.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Of all chance.")] = 0,
    max_loss: Annotated[
        float,
        typer.Option(min=0, max=1, help="Of a cascade's accuracy, as a share of the rows."),
    ] = 0.002,
    weights: Annotated[
        Literal["keep", "fitted", "selected"] | None,
        typer.Option(
            help="Which weights to write: the rule as it is, fitted ones, or those of the greedy "
            "selection [fitted for a weighted mean, else keep]."
        ),
    ] = None,
    bags: Annotated[
        int, typer.Option(min=0, help="Random bags of members for the greedy selection.")
    ] = 0,
    outside: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Inputs from elsewhere, to be told apart; .npz."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what was fitted, a part of a YAML.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw reliability, .svg or .png.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Fit an ensemble's temperatures, weights and cascade on data, and tell how good it is."""
    with errors_as_lines(debug):
        from server.calibration.calibration import Source  # noqa: PLC0415
        from server.calibration.fitting import Options  # noqa: PLC0415
        from server.cli.calibrate import Telling, calibrate  # noqa: PLC0415
        from server.config import load_config  # noqa: PLC0415

        calibrate(
            load_config(config),
            config,
            Source(data, ensemble, holdout, tuple(outside or ())),
            Options(weighting=weights, max_loss=max_loss, bags=bags, seed=seed),
            Telling(output, plot, as_json),
        )
