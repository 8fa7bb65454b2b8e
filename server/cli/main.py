"""The command line `ensembled`: every command with its arguments, in the order of the help.

Runs in the process of the command line; `serve` makes it the supervisor. Arguments flow in. The
work is done by the module of the command, which is imported only when the command runs, so that
`--help` stays instantaneous.
"""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from server.cli.application import AsJson, ConfigPath, Debug, app, errors_as_lines
from server.errors import ConfigError
from server.stdout import echo, typer_prints_to_stdout

if TYPE_CHECKING:
    from server.config import Config

__all__ = ["app", "main"]


def _file(help_text: str) -> Any:
    """An option that names a file."""
    return typer.Option(metavar="FILE", help=help_text)


OptionalConfigPath = Annotated[
    Path | None, typer.Argument(metavar="CONFIG", help="The configuration, YAML.")
]
DevicesPath = Annotated[Path | None, _file("Instead of CONFIG: the devices, JSON.")]
ProfilesPath = Annotated[Path | None, _file("With --devices: the members' profiles, JSON.")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="0 is any free port.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.")]

#: The longest measurement of `allocate --measure`.
_MEASURE_S = 4.0


class KeyScope(Enum):
    """What an API key permits."""

    INFER = "infer"
    ADMIN = "admin"
    URGENT = "urgent"


def main() -> None:
    """Run the command line."""
    with typer_prints_to_stdout():
        app()


def _load(path: Path) -> Config:
    from server.config import load_config  # noqa: PLC0415

    return load_config(path)


@app.command()
def serve(
    config: ConfigPath,
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    http_port: Port = None,
    grpc_port: Port = None,
    allocation: Annotated[
        Path | None, _file("Which member runs where, JSON, instead of CONFIG's.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Serve the ensembles of a configuration until told to stop."""
    with errors_as_lines(debug):
        from server.config import override_server  # noqa: PLC0415

        given = {"host": host, "http_port": http_port, "grpc_port": grpc_port}
        given = {key: value for key, value in given.items() if value is not None}

        def read() -> Config:
            loaded = override_server(_load(config), **given)
            if allocation is None:
                return loaded
            if not allocation.is_file():
                raise ConfigError(f"--allocation: there is no file {allocation}")
            return loaded.model_copy(update={"allocation": allocation.absolute()})

        loaded = read()
        import server.supervision.launch  # noqa: PLC0415

        raise typer.Exit(server.supervision.launch.serve(loaded, read))


@app.command()
def check(config: ConfigPath, debug: Debug = False) -> None:
    """Validate a configuration without starting anything."""
    with errors_as_lines(debug):
        loaded = _load(config)
        import server.supervision.launch  # noqa: PLC0415

        echo(server.supervision.launch.check(loaded))


@app.command()
def health(
    config: ConfigPath,
    *,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds to connect, and then to answer.")
    ] = 5.0,
    debug: Debug = False,
) -> None:
    """Ask the running server of a configuration whether it is ready: exit 0, else 1."""
    with errors_as_lines(debug):
        from server.cli.health import check_ready  # noqa: PLC0415

        echo(check_ready(_load(config), timeout_s=timeout))


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Name of the client.")],
    *,
    scope: Annotated[
        list[KeyScope] | None,
        typer.Option(help="What the key permits [infer]; may be repeated."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Make an API key: the entry for `server.api_keys_file` on stdout, the key itself on stderr."""
    with errors_as_lines(debug):
        from server.cli.key import make_key  # noqa: PLC0415

        made = make_key(name, tuple(one.value for one in scope or [KeyScope.INFER]))
        echo(made.entry)
        typer.echo(f"the key, which is shown only now: {made.key}", err=True)


@app.command()
def predict(
    ensemble: Annotated[str, typer.Argument(help="An ensemble, or a single member.")],
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Images; or arrays, .npy, .npz or .json."),
    ],
    *,
    url: Annotated[
        str,
        typer.Option(
            envvar="ENSEMBLED_URL", help="Of the server; http://, https://, grpc:// or grpcs://."
        ),
    ] = "http://127.0.0.1:8000",
    top: Annotated[int, typer.Option(min=1, help="How many classes to show.")] = 5,
    members: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these members of the ensemble.")
    ] = None,
    quorum: Annotated[
        int | None, typer.Option(min=1, help="Fewest members that an answer may rest on.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Deadline of the answer in seconds.")
    ] = None,
    root_certificates: Annotated[Path | None, _file("To trust (PEM), for https and grpcs.")] = None,
    certificate: Annotated[Path | None, _file("The client's own, for mutual TLS.")] = None,
    key: Annotated[Path | None, _file("The certificate's private key.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Ask a running server for an ensemble's prediction, and how much its members agree.

    An API key is taken from ENSEMBLED_API_KEY.
    """
    with errors_as_lines(debug):
        from server.cli.predict import predict  # noqa: PLC0415

        predict(
            ensemble,
            inputs,
            url=url,
            credentials={
                "root_certificates": root_certificates,
                "certificate": certificate,
                "key": key,
                "api_key": os.environ.get("ENSEMBLED_API_KEY") or None,
            },
            members=None if members is None else members.split(","),
            quorum=quorum,
            timeout_s=timeout,
            top=top,
            as_json=as_json,
        )


@app.command()
def profile(
    config: ConfigPath,
    output: Annotated[Path | None, _file("Write the profiles to a file, JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure again what was measured before.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Measure what each member costs on each kind of device: time and memory by batch size."""
    with errors_as_lines(debug):
        loaded = _load(config)
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
        typer.Option("--measure", help="Choose among good ones by measuring; needs CONFIG."),
    ] = False,
    measure_s: Annotated[
        float | None,
        typer.Option(min=0.1, help="Seconds of the longest measurement [4]; means --measure."),
    ] = None,
    output: Annotated[Path | None, _file("Write the result, JSON, for `serve`.")] = None,
    plot: Annotated[Path | None, _file("Draw the matrix, .svg or .png.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Find out which member should run on which device, and how good that is."""
    with errors_as_lines(debug):
        _check_sources(config, devices, profiles)
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
        )
        if devices is not None and profiles is not None:
            allocate_files(devices, profiles, options)
        elif config is not None:
            allocate_config(_load(config), options, config)


@app.command()
def simulate(
    config: OptionalConfigPath = None,
    *,
    devices: DevicesPath = None,
    profiles: ProfilesPath = None,
    allocation: Annotated[
        Path | None, _file("Which member runs where, JSON; else it is searched.")
    ] = None,
    connections: Annotated[
        int | None, typer.Option(min=1, help="Clients with one request in flight each.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Requests per second, at random.")] = None,
    trace: Annotated[Path | None, _file("Arrivals: lines of SECONDS[,ROWS].")] = None,
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
    """Predict how an allocation would perform, on devices that need not exist."""
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
            scenario = scenario_from_config(_load(config), allocation, seed=seed)
        simulate(
            scenario,
            make_arrivals(
                scenario.matrix, connections=connections, rate=rate, trace=trace, rows=rows
            ),
            seconds=seconds,
            deadline_ms=deadline_ms,
            lose=lose or [],
            seed=seed,
            as_json=as_json,
        )


@app.command()
def calibrate(
    config: ConfigPath,
    *,
    data: Annotated[Path, _file("Inputs by name (or x) and y, the classes; .npz.")],
    ensemble: Annotated[
        str | None, typer.Option(help="Which ensemble; optional if there is only one.")
    ] = None,
    holdout: Annotated[
        float, typer.Option(help="Share of the rows to evaluate on; the others are fitted on.")
    ] = 0.5,
    seed: Seed = 0,
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
        list[Path] | None, _file("Out-of-distribution inputs to detect; .npz.")
    ] = None,
    output: Annotated[Path | None, _file("Write the fitted keys, a YAML fragment.")] = None,
    plot: Annotated[Path | None, _file("Draw reliability, .svg or .png.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Fit an ensemble's temperatures, weights and cascade on data, and evaluate the result."""
    with errors_as_lines(debug):
        from server.calibration.fitting import FitOptions  # noqa: PLC0415
        from server.cli.calibrate import calibrate  # noqa: PLC0415

        calibrate(
            _load(config),
            config,
            data,
            FitOptions(weighting=weights, max_loss=max_loss, bags=bags, seed=seed),
            ensemble=ensemble,
            holdout=holdout,
            outside=outside or (),
            output=output,
            plot=plot,
            as_json=as_json,
        )


def _check_sources(config: Path | None, devices: Path | None, profiles: Path | None) -> None:
    given = [file is not None for file in (config, devices, profiles)]
    if given not in ([True, False, False], [False, True, True]):
        raise ConfigError("give either CONFIG, or both --devices and --profiles")
