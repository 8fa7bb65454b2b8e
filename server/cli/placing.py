"""`ensembled profile`, `allocate` and `simulate`: what members cost and where they should run.

Runs in the process of the command line; what does the work is imported when a command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from server.cli.application import app, errors_as_lines
from server.cli.options import AsJson, ConfigPath, Debug
from server.errors import ConfigError

__all__ = ["allocate", "profile", "simulate"]

OptionalConfigPath = Annotated[
    Path | None, typer.Argument(metavar="CONFIG", help="The configuration, YAML.")
]
DevicesPath = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Instead of CONFIG: the devices, JSON.")
]
ProfilesPath = Annotated[
    Path | None, typer.Option(metavar="FILE", help="With --devices: what members cost, JSON.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of all chance.")]

#: Seconds of the longest measurement of `allocate --measure`.
_MEASURE_S = 4.0


@app.command()
def profile(
    config: ConfigPath,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the profiles to a file, JSON.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure what was measured before, too.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Measure what each member costs on each kind of device: time and memory by batch size."""
    with errors_as_lines(debug):
        from server.config import load_config  # noqa: PLC0415

        loaded = load_config(config)
        import server.cli.profile  # noqa: PLC0415

        server.cli.profile.profile(loaded, output=output, as_json=as_json, fresh=fresh)


@app.command()
def allocate(
    config: OptionalConfigPath = None,
    *,
    devices: DevicesPath = None,
    profiles: ProfilesPath = None,
    solver: Annotated[
        Literal["auto", "worst-fit", "greedy", "exact"],
        typer.Option(help="How to search; auto tries all and ends early when it is good."),
    ] = "auto",
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="Rows per second: search for the best latency at this rate."),
    ] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(min=0.001, help="With --rate: when an answer is late.")
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds that the search may take [10].")
    ] = None,
    seed: Seed = 0,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Let the server decide between good ones; needs CONFIG."),
    ] = False,
    measure_s: Annotated[
        float | None,
        typer.Option(min=0.1, help="Seconds of the longest measurement [4]; means --measure."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the result, JSON, for `serve`.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the matrix, .svg or .png.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Find out which member should run on which device, and how good that is."""
    with errors_as_lines(debug):
        _refuse_both(config, devices, profiles)
        from server.cli.allocate import Request, allocate_config, allocate_files  # noqa: PLC0415

        longest_s = measure_s or (_MEASURE_S if measure else None)
        if longest_s is not None and config is None:
            raise ConfigError("--measure needs CONFIG: what a file describes can't be served")
        request = Request(
            solver=solver,
            time_limit_s=time_limit,
            seed=seed,
            as_json=as_json,
            output=output,
            plot=plot,
            rate_rows_s=rate,
            deadline_ms=deadline_ms,
            measure_s=longest_s,
        )
        if devices is not None and profiles is not None:
            allocate_files(devices, profiles, request)
        elif config is not None:
            from server.config import load_config  # noqa: PLC0415

            allocate_config(load_config(config), request, config)


@app.command()
def simulate(
    config: OptionalConfigPath = None,
    *,
    devices: DevicesPath = None,
    profiles: ProfilesPath = None,
    allocation: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Which member runs where, JSON; else it is searched."),
    ] = None,
    connections: Annotated[
        int | None, typer.Option(min=1, help="Clients that each wait for their answer.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Requests per second, at random.")] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Arrivals: lines of SECONDS[,ROWS].")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=10_000, help="Rows of a request.")] = 1,
    seconds: Annotated[float | None, typer.Option(max=86_400, help="How long to simulate.")] = None,
    deadline_ms: Annotated[float | None, typer.Option(help="When an answer is late.")] = None,
    lose: Annotated[
        list[str] | None,
        typer.Option(metavar="DEVICE@T[:T2]", help="A device fails at T seconds, is back at T2."),
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Tell what an allocation would give, on devices that need not be there."""
    with errors_as_lines(debug):
        _refuse_both(config, devices, profiles)
        from server.cli.simulate import Load, simulate  # noqa: PLC0415

        if devices is not None and profiles is not None:
            from server.cli.simulate_inputs import described  # noqa: PLC0415

            subject = described(devices, profiles, allocation, seed=seed)
        elif config is not None:
            from server.config import load_config  # noqa: PLC0415

            loaded = load_config(config)
            from server.cli.simulate_inputs import configured  # noqa: PLC0415

            subject = configured(loaded, allocation, seed=seed)
        simulate(
            subject,
            Load(connections, rate, trace, rows),
            seconds=seconds,
            deadline_ms=deadline_ms,
            lose=lose or [],
            seed=seed,
            as_json=as_json,
        )


def _refuse_both(config: Path | None, devices: Path | None, profiles: Path | None) -> None:
    given = [file is not None for file in (config, devices, profiles)]
    if given not in ([True, False, False], [False, True, True]):
        raise ConfigError("give either CONFIG, or both --devices and --profiles")
