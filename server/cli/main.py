"""The command line `ensembled`: every command with its arguments, in the order of the help.

Runs in the process of the command line; `serve` makes it the supervisor. Arguments flow in. The
work is done by the module of the command, which is imported only when the command runs, so that
`--help` stays instantaneous.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from server.cli.application import (
    AsJson,
    ConfigPath,
    Debug,
    app,
    check_output,
    check_plot,
    errors_as_lines,
)
from server.errors import ConfigError
from server.stdout import echo, typer_prints_to_stdout

if TYPE_CHECKING:
    from server.config import Config

__all__ = ["app", "main"]


def _file(help_text: str) -> Any:
    """An option that names a file."""
    return typer.Option(metavar="FILE", help=help_text)


OptionalConfigPath = Annotated[
    Path | None,
    typer.Argument(metavar="CONFIG", help="Configuration: a YAML file, or a model repository."),
]
DevicesPath = Annotated[Path | None, _file("Devices (JSON), instead of CONFIG.")]
ProfilesPath = Annotated[Path | None, _file("Profiles of the members (JSON), with --devices.")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0 chooses a free one.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.")]


ServerUrl = Annotated[
    str,
    typer.Option(
        envvar="ENSEMBLED_URL", help="URL of the server: http://, https://, grpc:// or grpcs://."
    ),
]
RootCertificates = Annotated[
    Path | None, _file("Certificate authorities to trust (PEM), for https and grpcs.")
]
Certificate = Annotated[Path | None, _file("Client certificate, for mutual TLS.")]
CertificateKey = Annotated[Path | None, _file("Private key of the client certificate.")]
AdminKey = Annotated[
    str | None,
    typer.Option(
        envvar="ENSEMBLED_API_KEY", help="API key with the scope admin; safer as the variable."
    ),
]
_URL = "http://127.0.0.1:8000"


class KeyScope(StrEnum):
    """What an API key permits."""

    INFER = auto()
    ADMIN = auto()
    URGENT = auto()


#: The longest measurement of `allocate --measure`.
_MEASURE_S = 4.0


def main() -> None:
    """Run the command line."""
    with typer_prints_to_stdout():
        app()


def _load(path: Path, *, with_conformal: bool = True) -> Config:
    from server.config import load_config  # noqa: PLC0415

    return load_config(path, with_conformal=with_conformal)


@app.command()
def serve(
    config: ConfigPath,
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    http_port: Port = None,
    grpc_port: Port = None,
    allocation: Annotated[
        Path | None, _file("Allocation (JSON) to use instead of CONFIG's.")
    ] = None,
    without_conformal: Annotated[
        bool, typer.Option("--without-conformal", hidden=True)  # while it is being fitted
    ] = False,
    debug: Debug = False,
) -> None:
    """Serve the ensembles of a configuration until a signal stops the server."""
    with errors_as_lines(debug):
        from server.config import override_server, read_config  # noqa: PLC0415

        given = {"host": host, "http_port": http_port, "grpc_port": grpc_port}
        given = {key: value for key, value in given.items() if value is not None}

        def read(document: Mapping[str, Any] | None) -> Config:
            found = read_config(config, with_conformal=not without_conformal, document=document)
            loaded = override_server(found, **given)
            if allocation is None:
                return loaded
            if not allocation.is_file():
                raise ConfigError(f"--allocation: there is no file {allocation}")
            return loaded.model_copy(update={"allocation": allocation.absolute()})

        import server.supervision.launch  # noqa: PLC0415

        # A server for a measurement leaves nothing behind, and continues nothing.
        keeps_state = not without_conformal
        raise typer.Exit(server.supervision.launch.serve(config, read, keeps_state=keeps_state))


@app.command()
def check(config: ConfigPath, debug: Debug = False) -> None:
    """Validate a configuration without starting anything."""
    with errors_as_lines(debug):
        loaded = _load(config)
        import server.supervision.launch  # noqa: PLC0415

        echo(server.supervision.launch.check(loaded))


@app.command()
def apply(
    config: ConfigPath,
    *,
    url: ServerUrl = _URL,
    key: AdminKey = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show only what would change.")
    ] = False,
    root_certificates: RootCertificates = None,
    certificate: Certificate = None,
    certificate_key: CertificateKey = None,
    debug: Debug = False,
) -> None:
    """Have a running server, which was started with CONFIG, serve what it says now.

    Shows what changes, and returns when that is served: exit status 0; 2 if it was refused, 1
    without an answer. What was served before still is then.
    """
    with errors_as_lines(debug):
        from server.cli.apply import apply  # noqa: PLC0415

        apply(
            config,
            url=url,
            credentials=_credentials(root_certificates, certificate, certificate_key, key),
            dry_run=dry_run,
        )


@app.command()
def rollout(
    model: Annotated[str, typer.Argument(help="Name of an ensemble or a member.")],
    action: Annotated[
        Literal["promote", "rollback", "percent"],
        typer.Argument(help="promote, rollback, or percent with the new share."),
    ],
    percent: Annotated[
        float | None, typer.Argument(min=0, max=100, help="The new share, in per cent.")
    ] = None,
    *,
    url: ServerUrl = _URL,
    key: AdminKey = None,
    root_certificates: RootCertificates = None,
    certificate: Certificate = None,
    certificate_key: CertificateKey = None,
    debug: Debug = False,
) -> None:
    """Promote the new version of a model that a running server tries, or roll it back.

    Returns when that is served: exit status 0; 2 if it was refused, 1 without an answer.
    """
    with errors_as_lines(debug):
        from server.cli.apply import change_rollout  # noqa: PLC0415

        change_rollout(
            model,
            action,
            percent,
            url=url,
            credentials=_credentials(root_certificates, certificate, certificate_key, key),
        )


@app.command()
def describe(
    target: Annotated[
        str, typer.Argument(metavar="CONFIG|URL", help="Configuration, or URL of a server.")
    ],
    model: Annotated[
        str,
        typer.Argument(help="Name of an ensemble or a member; a version of it is NAME@VERSION."),
    ],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    debug: Debug = False,
) -> None:
    """Show a model's inputs, outputs and labels, and example requests for several clients.

    A configuration's models are inspected, and nothing is started. The API key of a server, if it
    needs one, is read from ENSEMBLED_API_KEY.
    """
    with errors_as_lines(debug):
        from server.cli.describe import describe  # noqa: PLC0415

        describe(target, model, as_json=as_json)


@app.command()
def health(
    config: ConfigPath,
    *,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds to connect, and for the answer.")
    ] = 5.0,
    debug: Debug = False,
) -> None:
    """Check whether the server of a configuration is ready: exit status 0, else 1."""
    with errors_as_lines(debug):
        from server.cli.health import check_ready  # noqa: PLC0415

        echo(check_ready(_load(config), timeout_s=timeout))


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Name of the client.")],
    *,
    scope: Annotated[
        list[KeyScope] | None,
        typer.Option(help="Scope of the key [infer]; may be repeated."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Create an API key: its entry for `server.api_keys_file` on stdout, the key on stderr."""
    with errors_as_lines(debug):
        from server.cli.key import make_key  # noqa: PLC0415

        made = make_key(name, scope or [KeyScope.INFER])
        echo(made.entry)
        typer.echo(f"the key, which is shown only now: {made.key}", err=True)


@app.command()
def predict(
    ensemble: Annotated[
        str,
        typer.Argument(help="Name of an ensemble or a member; a version of it is NAME@VERSION."),
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE...]", help="Images, or arrays (.npy, .npz or .json)."),
    ] = None,
    *,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Rows instead of files: a list such as texts, or lists by input name.",
        ),
    ] = None,
    url: ServerUrl = _URL,
    top: Annotated[int, typer.Option(min=1, help="Number of classes to show.")] = 5,
    members: Annotated[
        str | None, typer.Option(metavar="A,B", help="Use only these members of the ensemble.")
    ] = None,
    quorum: Annotated[
        int | None, typer.Option(min=1, help="Minimum number of members for an answer.")
    ] = None,
    coverage: Annotated[
        float | None, typer.Option(help="Show intervals, or sets of classes, of this coverage.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Deadline of the answer, in seconds.")
    ] = None,
    root_certificates: RootCertificates = None,
    certificate: Certificate = None,
    key: Annotated[Path | None, _file("Private key of the client certificate.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Request a prediction from a running server, and show how much the members agree.

    The API key, if one is needed, is read from ENSEMBLED_API_KEY.
    """
    with errors_as_lines(debug):
        from server.cli.predict import predict  # noqa: PLC0415

        predict(
            ensemble,
            inputs or [],
            data=data,
            url=url,
            credentials={
                "root_certificates": root_certificates,
                "certificate": certificate,
                "key": key,
                "api_key": os.environ.get("ENSEMBLED_API_KEY") or None,
            },
            top=top,
            as_json=as_json,
            members=None if members is None else members.split(","),
            quorum=quorum,
            timeout=timeout,
            coverage=coverage,
        )


@app.command("import")
def import_model(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="Model file or directory, or FILE.py:CLASS.")
    ],
    *,
    config: Annotated[
        Path | None, _file("Configuration to add the member to, instead of printing its entry.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the member [the file's].")] = None,
    output_name: Annotated[
        str | None, typer.Option(help="Which of the model's outputs to use.")
    ] = None,
    trust_pickle: Annotated[
        bool,
        typer.Option("--trust-pickle", help="Open a pickle, which can run any code."),
    ] = False,
    debug: Debug = False,
) -> None:
    """Tell what a model is and takes, and write its entry in a configuration's members."""
    with errors_as_lines(debug):
        import server.cli.import_model  # noqa: PLC0415

        server.cli.import_model.import_model(
            path, config=config, name=name, output_name=output_name, trust_pickle=trust_pickle
        )


@app.command()
def profile(
    config: ConfigPath,
    output: Annotated[Path | None, _file("Write the profiles to this file (JSON).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore cached measurements.")] = False,
    debug: Debug = False,
) -> None:
    """Measure the time and memory of each member, by kind of device and batch size."""
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
        typer.Option(help="Search algorithm; auto runs all and ends early near the bound."),
    ] = "auto",
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="Optimize the latency at this rate, in rows per second."),
    ] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(min=0.001, help="With --rate: minimize answers later than this.")
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
    output: Annotated[Path | None, _file("Write the allocation (JSON), for `serve`.")] = None,
    plot: Annotated[Path | None, _file("Plot the matrix (.svg or .png).")] = None,
    as_json: AsJson = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Have a running server use it; needs CONFIG.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --apply: show only what would change.")
    ] = False,
    url: ServerUrl = _URL,
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
        )
        if devices is not None and profiles is not None:
            allocate_files(devices, profiles, options)
        elif config is not None:
            allocation = allocate_config(_load(config), options, config)
            if apply:
                from server.cli.apply import apply_allocation  # noqa: PLC0415

                apply_allocation(
                    allocation.matrix,
                    url=url,
                    credentials=_credentials(root_certificates, certificate, certificate_key, key),
                    dry_run=dry_run,
                )


@app.command()
def simulate(
    config: OptionalConfigPath = None,
    *,
    devices: DevicesPath = None,
    profiles: ProfilesPath = None,
    allocation: Annotated[Path | None, _file("Allocation (JSON); searched for if absent.")] = None,
    connections: Annotated[
        int | None, typer.Option(min=1, help="Number of clients with one request in flight each.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Requests per second, with random arrivals.")
    ] = None,
    trace: Annotated[Path | None, _file("Arrivals, as lines of SECONDS[,ROWS].")] = None,
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
            scenario = scenario_from_config(_load(config), allocation, seed=seed)
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


@app.command()
def calibrate(
    config: ConfigPath,
    *,
    data: Annotated[Path, _file("Inputs by name (or x), and classes y (.npz).")],
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
        list[Path] | None, _file("Out-of-distribution inputs to detect (.npz).")
    ] = None,
    output: Annotated[Path | None, _file("Write the fitted keys, as a YAML fragment.")] = None,
    conformal: Annotated[
        Path | None, _file("Write what sets of classes, or intervals, need (.json).")
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option(help="Coverage of sets and intervals [0.9]."),
    ] = None,
    method: Annotated[
        Literal["lac", "aps", "raps"], typer.Option(help="Method of the sets of classes.")
    ] = "lac",
    plot: Annotated[Path | None, _file("Plot a reliability diagram (.svg or .png).")] = None,
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
            _load(config, with_conformal=False),
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


def _credentials(
    root_certificates: Path | None,
    certificate: Path | None,
    certificate_key: Path | None,
    api_key: str | None,
) -> dict[str, Any]:
    """The credentials of a client of a running server, by the names that the client has."""
    return {
        "root_certificates": root_certificates,
        "certificate": certificate,
        "key": certificate_key,
        "api_key": api_key or None,
    }


def _check_sources(config: Path | None, devices: Path | None, profiles: Path | None) -> None:
    given = [file is not None for file in (config, devices, profiles)]
    if given not in ([True, False, False], [False, True, True]):
        raise ConfigError("give either CONFIG, or both --devices and --profiles")
