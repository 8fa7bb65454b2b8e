"""Commands about what members cost, and where they run: `profile`, `allocate` and `simulate`.

Runs in the process of the command line. Arguments flow in, the modules of the commands do the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from server.cli.application import errors_as_lines
from server.cli.arguments import (
    LOCAL_URL,
    AdminKey,
    AsJson,
    Certificate,
    CertificateKey,
    ConfigPath,
    Debug,
    RootCertificates,
    Seed,
    ServerUrl,
    credentials_of,
    file_option,
    load,
)
from server.errors import ConfigError

__all__ = ["commands"]

commands = typer.Typer()

OptionalConfigPath = Annotated[
    Path | None,
    typer.Argument(metavar="CONFIG", help="Configuration: a YAML file, or a model repository."),
]
DevicesPath = Annotated[Path | None, file_option("Devices (JSON), instead of CONFIG.")]
ProfilesPath = Annotated[
    Path | None, file_option("Profiles of the members (JSON), with --devices.")
]

#: The longest measurement of `allocate --measure`.
_MEASURE_S = 4.0


@commands.command()
def profile(
    config: ConfigPath,
    *,
    output: Annotated[Path | None, file_option("Write the profiles to this file (JSON).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore cached measurements.")] = False,
    budget: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Measure for so many seconds at most, first what may change the allocation, and "
            "end once nothing could; predict the rest.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Measure the time and memory of each member, by kind of device and batch size."""
    with errors_as_lines(debug):
        loaded = load(config)
        import server.cli.profile  # noqa: PLC0415

        server.cli.profile.profile(
            loaded, output=output, as_json=as_json, fresh=fresh, budget_s=budget
        )


@commands.command()
def power(
    config: ConfigPath,
    *,
    eta: Annotated[
        float, typer.Option(min=0, max=1, help="Weight of energy against time: 1 is energy alone.")
    ] = 0.5,
    set_limits: Annotated[
        bool,
        typer.Option("--set-limits", help="Set power limits while measuring, then the former one."),
    ] = False,
    steps: Annotated[
        int, typer.Option(min=2, max=32, help="With --set-limits: number of power limits.")
    ] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    debug: Debug = False,
) -> None:
    """Suggest a power limit and batch sizes for GPUs; limits are set only with --set-limits."""
    with errors_as_lines(debug):
        loaded = load(config)
        import server.cli.power  # noqa: PLC0415

        server.cli.power.power(loaded, eta=eta, steps=steps, set_limits=set_limits, as_json=as_json)


@commands.command()
def allocate(
    config: OptionalConfigPath = None,
    *,
    devices: DevicesPath = None,
    profiles: ProfilesPath = None,
    solver: Annotated[
        Literal["auto", "worst-fit", "greedy", "exact"],
        typer.Option(help="Search algorithm; auto runs all and ends early near the bound."),
    ] = "auto",
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="Optimize the latency at this rate, in rows per second."),
    ] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(min=0.001, help="With --rate: minimize answers later than this.")
    ] = None,
    min_rows_per_s: Annotated[
        float | None,
        typer.Option(min=0.001, help="Optimize the energy of a row, with so many rows per second."),
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds for the search [10].")
    ] = None,
    seed: Seed = 0,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Choose by measuring good allocations; needs CONFIG."),
    ] = False,
    measure_s: Annotated[
        float | None,
        typer.Option(min=0.1, help="Seconds of the longest measurement [4]; implies --measure."),
    ] = None,
    output: Annotated[Path | None, file_option("Write the allocation (JSON), for `serve`.")] = None,
    plot: Annotated[Path | None, file_option("Plot the matrix (.svg or .png).")] = None,
    as_json: AsJson = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Have a running server use it; needs CONFIG.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --apply: show only what would change.")
    ] = False,
    url: ServerUrl = LOCAL_URL,
    key: AdminKey = None,
    root_certificates: RootCertificates = None,
    certificate: Certificate = None,
    certificate_key: CertificateKey = None,
    debug: Debug = False,
) -> None:
    """Find the best allocation of members to devices, and a bound on how good it can be."""
    with errors_as_lines(debug):
        _check_sources(config, devices, profiles)
        if apply and (config is None or as_json):
            raise ConfigError("--apply needs CONFIG, and excludes --json (use --output)")
        if dry_run and not apply:
            raise ConfigError("--dry-run needs --apply")
        from server.cli.allocate import (  # noqa: PLC0415
            AllocateOptions,
            allocate_config,
            allocate_files,
        )

        longest_s = measure_s or (_MEASURE_S if measure else None)
        if longest_s is not None and config is None:
            raise ConfigError("--measure needs CONFIG: what a file describes can't be served")
        options = AllocateOptions(
            solver=solver,
            time_limit_s=time_limit,
            seed=seed,
            as_json=as_json,
            output=output,
            plot=plot,
            rate_rows_s=rate,
            deadline_ms=deadline_ms,
            measure_s=longest_s,
            min_rows_per_s=min_rows_per_s,
        )
        if devices is not None and profiles is not None:
            allocate_files(devices, profiles, options)
        elif config is not None:
            allocation = allocate_config(load(config), options, config)
            if apply:
                from server.cli.apply import apply_allocation  # noqa: PLC0415

                apply_allocation(
                    allocation.matrix,
                    url=url,
                    credentials=credentials_of(
                        root_certificates, certificate, certificate_key, key
                    ),
                    dry_run=dry_run,
                )


@commands.command()
def simulate(
    config: OptionalConfigPath = None,
    *,
    devices: DevicesPath = None,
    profiles: ProfilesPath = None,
    allocation: Annotated[
        Path | None, file_option("Allocation (JSON); searched for if absent.")
    ] = None,
    connections: Annotated[
        int | None, typer.Option(min=1, help="Number of clients with one request in flight each.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Requests per second, with random arrivals.")
    ] = None,
    trace: Annotated[Path | None, file_option("Arrivals, as lines of SECONDS[,ROWS].")] = None,
    rows: Annotated[int, typer.Option(min=1, max=10_000, help="Rows per request.")] = 1,
    seconds: Annotated[
        float | None, typer.Option(max=86_400, help="Length of the simulation.")
    ] = None,
    deadline_ms: Annotated[float | None, typer.Option(help="Count later answers as late.")] = None,
    lose: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEVICE@T[:T2]", help="A device fails at T seconds and returns at T2."
        ),
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Simulate the performance of an allocation, on devices that need not exist."""
    with errors_as_lines(debug):
        _check_sources(config, devices, profiles)
        from server.cli.simulate import (  # noqa: PLC0415
            make_arrivals,
            scenario_from_config,
            scenario_from_files,
            simulate,
        )

        if devices is not None and profiles is not None:
            scenario = scenario_from_files(devices, profiles, allocation, seed=seed)
        elif config is not None:
            scenario = scenario_from_config(load(config), allocation, seed=seed)
        arrivals = make_arrivals(
            scenario.matrix, connections=connections, rate=rate, trace=trace, rows=rows
        )
        simulate(
            scenario,
            arrivals=arrivals,
            seconds=seconds,
            deadline_ms=deadline_ms,
            lose=lose or [],
            as_json=as_json,
        )


def _check_sources(config: Path | None, devices: Path | None, profiles: Path | None) -> None:
    given = [file is not None for file in (config, devices, profiles)]
    if given not in ([True, False, False], [False, True, True]):
        raise ConfigError("give either CONFIG, or both --devices and --profiles")
