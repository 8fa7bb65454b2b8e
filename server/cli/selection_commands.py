"""The command that selects from a library: `select`.

Runs in the process of the command line. Arguments flow in, `server.cli.select` does the work.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from server.cli.application import errors_as_lines
from server.cli.arguments import AsJson, Debug, Seed, byte_size, file_option

__all__ = ["commands"]

commands = typer.Typer()


@commands.command()
def select(
    library: Annotated[
        Path,
        typer.Argument(
            metavar="LIBRARY",
            help="Members to select from: a YAML file with `members`, or a directory of models.",
        ),
    ],
    *,
    data: Annotated[Path, file_option("Inputs by name (or x), and what is true, y (.npz).")],
    test: Annotated[
        Path | None, file_option("Rows to judge on (.npz); else a share of those of --data.")
    ] = None,
    devices: Annotated[
        Path | None,
        file_option("Devices (JSON) as for `allocate`, or auto [the library's, or this host's]."),
    ] = None,
    profiles: Annotated[
        Path | None, file_option("Profiles of the members (JSON), instead of measuring.")
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Quality: accuracy, log_loss, brier, rmse, or package.module:function "
            "[accuracy, or rmse of numbers].",
        ),
    ] = None,
    costs: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="What the front is about beside quality: rows_per_s, p99_ms, memory_bytes, "
            "joules_per_row, devices.",
        ),
    ] = "rows_per_s",
    from_production: Annotated[
        Path | None,
        file_option(
            "Configuration whose servers' history says what --rate and --min-rows-per-s are, "
            "unless they are given, and how long members take."
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Rows per second that the latency is for.")
    ] = None,
    min_rows_per_s: Annotated[float | None, typer.Option(help="The least throughput.")] = None,
    max_p99_ms: Annotated[
        float | None, typer.Option(help="The longest 99th percentile of the latency, at --rate.")
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option(metavar="BYTES", help="The most memory, such as 8GiB.")
    ] = None,
    max_joules: Annotated[float | None, typer.Option(help="The most energy per row.")] = None,
    max_devices: Annotated[int | None, typer.Option(help="The most devices.")] = None,
    most_members: Annotated[
        int, typer.Option(min=1, max=64, help="The most members of an ensemble.")
    ] = 64,
    cascades: Annotated[
        bool, typer.Option("--cascades/--no-cascades", help="Whether to look for cascades.")
    ] = True,
    weights: Annotated[
        bool, typer.Option("--weights/--no-weights", help="Whether to fit weights.")
    ] = True,
    seed: Seed = 0,
    time_limit: Annotated[
        float, typer.Option(min=0.1, help="Seconds for the search, after predicting and profiling.")
    ] = 60.0,
    pick: Annotated[
        str | None, typer.Option(metavar="knee|best|N", help="Which point to write to --output.")
    ] = None,
    output: Annotated[
        Path | None, file_option("Write the picked point: a configuration, and its allocation.")
    ] = None,
    plot: Annotated[Path | None, file_option("Plot the front and more (.svg or .png).")] = None,
    html: Annotated[Path | None, file_option("Write a report (.html).")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Find which members of a library to serve, with which weights, cascade and allocation.

    Shows the front: the ensembles of which no other is better at no higher cost. Exit status 2 if
    none satisfies the constraints.
    """
    with errors_as_lines(debug):
        from server.cli.select import (  # noqa: PLC0415
            SelectOutputs,
            cost_names,
            read_pool,
            read_production,
            run_selection,
        )
        from server.selection.options import Constraints, SelectOptions  # noqa: PLC0415
        from server.selection.pipeline import SelectRequest  # noqa: PLC0415

        served, busy_rows_per_s = read_production(from_production)
        options = SelectOptions(
            costs=cost_names(costs),
            constraints=Constraints(
                min_rows_per_s=busy_rows_per_s if min_rows_per_s is None else min_rows_per_s,
                max_p99_s=None if max_p99_ms is None else max_p99_ms / 1e3,
                max_memory_bytes=byte_size("--max-memory", max_memory),
                max_joules_per_row=max_joules,
                max_devices=max_devices,
            ),
            rate_rows_s=busy_rows_per_s if rate is None else rate,
            most_members=most_members,
            cascades=cascades,
            weights=weights,
            seed=seed,
            time_limit_s=time_limit,
        )
        request = SelectRequest(
            library=library,
            data=data,
            test=test,
            pool=replace(read_pool(devices, profiles), served=served),
            measure=measure,
            options=options,
        )
        run_selection(
            request,
            SelectOutputs(picked=pick, output=output, plot=plot, html=html, as_json=as_json),
        )
