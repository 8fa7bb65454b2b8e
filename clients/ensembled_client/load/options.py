"""The command line of `ensembled-load`, which it turns into `LoadOptions`. Runs in the parent.

Load processes get copies of the options. Also the errors that end the command with one line and an
exit status.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ensembled_client.errors import EnsembledClientError
from ensembled_client.load.summary import Gates
from ensembled_client.transport import Address, with_api_key

__all__ = [
    "EXIT_FAILED",
    "EXIT_GATE",
    "LoadOptions",
    "LoadTarget",
    "LoadTestError",
    "UsageError",
    "authorization",
    "parse_error_limit",
    "parse_options",
]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_GATE = 3

_PROTOCOLS = ("binary", "json", "grpc")
_GRPC_PORT = 8001
# From the environment: a command line is visible to every user of the machine.
_API_KEY_VARIABLE = "ENSEMBLED_API_KEY"
_CLOSED_CONNECTIONS = 8
_OPEN_CONNECTIONS = 256
_DURATION_S = 10.0
_PLOT_SUFFIXES = {".svg", ".png", ".pdf"}

_EPILOG = """\
Exit status: 0 the test ran and every gate passed; 1 it could not run; 2 the options are wrong;
3 a gate failed. Ctrl-C ends a test early, with its report.

examples:
  ensembled-load http://localhost:8000 digits                        # 8 connections for 10 s
  ensembled-load http://localhost:8000 digits --rate 500 --arrivals poisson --deadline-ms 20
  ensembled-load http://localhost:8000 imagenet --input a.jpg b.jpg --sweep 1,2,4,8 --plot s.svg
  ensembled-load grpc://localhost:8001 digits --max-p99-ms 50 --max-errors 0 --json
"""


class LoadTestError(Exception):
    """The test could not run: no server, no such model, an unreadable file."""

    exit_status = EXIT_FAILED


class UsageError(LoadTestError):
    """An option is invalid, or options exclude each other."""

    exit_status = EXIT_USAGE


@dataclass(frozen=True)
class LoadTarget:
    """An ensemble or member at a server; `protocol` is ``binary``, ``json`` or ``grpc``."""

    url: str
    address: Address
    protocol: str
    model: str

    @classmethod
    def of(cls, url: str, model: str, protocol: str | None) -> LoadTarget:
        """Parse a URL, ``http[s]://HOST[:PORT][/PREFIX]`` or ``grpc[s]://HOST[:PORT]``.

        Without a `protocol` it is gRPC or binary HTTP, as the URL says. Raises UsageError if the
        URL is malformed, or does not fit the protocol.
        """
        try:
            address = Address.of(url)
        except EnsembledClientError as error:
            raise UsageError(error.message) from None
        if address.is_grpc and urlsplit(url).port is None:
            address = dataclasses.replace(address, port=_GRPC_PORT)
        protocol = protocol or ("grpc" if address.is_grpc else "binary")
        if address.is_grpc != (protocol == "grpc"):
            wanted = "grpc://HOST:8001" if protocol == "grpc" else "http://HOST:8000"
            raise UsageError(f"the protocol {protocol} needs a URL like {wanted}, not {url}")
        return cls(url, address, protocol, model)

    @property
    def model_path(self) -> str:
        """The path of the model over HTTP."""
        return f"{self.address.path}/v2/models/{quote(self.model, safe='')}"


def authorization() -> dict[str, str]:
    """Return the header with the environment's API key; empty if there is none.

    Raises UsageError if the key contains characters that no header can.
    """
    try:
        return with_api_key(None, os.environ.get(_API_KEY_VARIABLE) or None)
    except EnsembledClientError as error:
        raise UsageError(f"{_API_KEY_VARIABLE}: {error.message}") from None


@dataclass(frozen=True)
class LoadOptions:
    """A test or a sweep of tests; ``--help`` describes most fields."""

    target: LoadTarget
    arrivals: str  # ``closed``, ``constant``, ``poisson`` or ``trace``
    loads: tuple[float, ...]  # connections, or an open loop's requests per second; none for a trace
    connections: int  # an open loop's limit
    trace: Path | None
    duration_s: float | None  # of the measurement; None: until `count` requests or the trace's end
    count: int | None
    warmup_s: float
    processes: int
    patience_s: float
    rows: int
    input: Sequence[Path]
    payloads: int
    seed: int
    shapes: Sequence[tuple[str, tuple[int, ...]]]
    lengths: tuple[int, int] | None
    image_size: tuple[int, int]
    parameters: dict[str, Any]  # of every request, as the protocol names them
    deadline_ms: float | None
    gates: Gates
    json: bool
    output: Path | None
    plot: Path | None
    quiet: bool  # no progress display: not wanted, or no terminal

    @property
    def is_open(self) -> bool:
        """Whether requests follow a schedule."""
        return self.arrivals != "closed"


def parse_options(arguments: Sequence[str] | None) -> LoadOptions:
    """Parse a command line; None for that of this process.

    Raises UsageError if options exclude each other; SystemExit after ``--help``, or with status 2
    if an option is unknown or malformed.
    """
    given = _new_parser().parse_args(arguments)
    arrivals = _arrivals(given)
    limit, is_share = given.max_errors or (None, False)
    values = vars(given) | {
        "target": LoadTarget.of(given.url, given.model, given.protocol),
        "arrivals": arrivals,
        "loads": _loads(given, arrivals),
        "connections": given.connections or _OPEN_CONNECTIONS,
        "duration_s": _duration_s(given),
        "parameters": _parameters(given),
        "gates": Gates(given.max_p99_ms, given.min_rate, limit, is_share),
        "quiet": given.quiet or not sys.stderr.isatty(),
    }
    return LoadOptions(
        **{field.name: values[field.name] for field in dataclasses.fields(LoadOptions)}
    )


def _arrivals(given: argparse.Namespace) -> str:
    if given.trace is not None:
        for name in ("rate", "arrivals", "sweep"):
            if getattr(given, name) is not None:
                raise UsageError(f"--trace and --{name} exclude each other")
        return "trace"
    if given.rate is not None and given.sweep is not None:
        raise UsageError("--rate and --sweep exclude each other: --arrivals makes it sweep rates")
    if given.rate is None and given.arrivals is None:
        return "closed"
    if given.rate is None and given.sweep is None:
        raise UsageError("--arrivals needs --rate, or --sweep with rates")
    return str(given.arrivals or "constant")


def _loads(given: argparse.Namespace, arrivals: str) -> tuple[float, ...]:
    if arrivals == "trace":
        return ()
    if given.sweep is None:
        return (given.rate or float(given.connections or _CLOSED_CONNECTIONS),)
    if arrivals == "closed":
        if given.connections is not None:
            raise UsageError("--connections and --sweep exclude each other in a closed loop")
        if any(load != math.floor(load) for load in given.sweep):
            raise UsageError("--sweep: connections are whole numbers (rates need --arrivals)")
    return tuple(given.sweep)


def _duration_s(given: argparse.Namespace) -> float | None:
    if given.duration is not None and given.count is not None:
        raise UsageError("--duration and --count exclude each other")
    if given.duration is None and given.count is None and given.trace is None:
        return _DURATION_S
    return None if given.duration is None else float(given.duration)


def _parameters(given: argparse.Namespace) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    if given.timeout is not None:
        parameters["timeout"] = max(1, round(given.timeout * 1e6))  # microseconds
    if given.members is not None:
        parameters["members"] = given.members
    return parameters


def _new_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ensembled-load",
        description="Loads a model with requests, and reports how the server and the load tester "
        "itself performed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", metavar="URL", help="http[s]://HOST:PORT or grpc[s]://HOST:PORT")
    parser.add_argument("model", metavar="MODEL", help="an ensemble, or one of its members")
    parser.add_argument(
        "--protocol",
        choices=_PROTOCOLS,
        help="by default binary tensors over HTTP, gRPC for a grpc:// URL",
    )
    _add_load(parser.add_argument_group("load"))
    _add_requests(parser.add_argument_group("requests"))
    _add_results(parser.add_argument_group("results"))
    _add_gates(parser.add_argument_group("gates, for continuous integration"))
    return parser


def _add_load(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--connections",
        type=_count,
        metavar="N",
        help="closed loop: clients that each wait for their response (8); open loop: the most "
        "requests in flight (256)",
    )
    add("--rate", type=_positive, metavar="R", help="open loop: requests per second")
    add(
        "--arrivals",
        choices=("constant", "poisson"),
        help="open loop: equal gaps (default), or random ones",
    )
    add(
        "--trace",
        type=Path,
        metavar="FILE",
        help="open loop: recorded arrivals, 'seconds[,rows]' a line, or a JSON list",
    )
    add(
        "--sweep",
        type=_positives,
        metavar="A,B,...",
        help="one test for each number of connections; with --arrivals, for each rate",
    )
    add("--duration", type=_positive, metavar="S", help="seconds to measure (10, or the trace's)")
    add("--count", type=_count, metavar="N", help="requests to measure, instead of a duration")
    add(
        "--warmup",
        dest="warmup_s",
        type=_not_negative,
        default=1.0,
        metavar="S",
        help="seconds before the measurement (1)",
    )
    add("--processes", type=_count, default=1, metavar="K", help="that generate the load (1)")
    add(
        "--patience",
        dest="patience_s",
        type=_positive,
        default=30.0,
        metavar="S",
        help="seconds after which a missing response is an error (30)",
    )


def _add_requests(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--rows", type=_count, default=1, metavar="N", help="per request (1)")
    add(
        "--input",
        type=Path,
        nargs="+",
        default=(),
        metavar="FILE",
        help="one .npz or .npy file, or images; random data otherwise",
    )
    add("--payloads", type=_count, default=16, metavar="N", help="distinct requests (16)")
    add("--seed", type=int, default=0, metavar="N", help="of all random numbers (0)")
    add(
        "--shape",
        dest="shapes",
        type=_shape,
        action="append",
        default=[],
        metavar="INPUT:A,B,...",
        help="where the model leaves dimensions open, without the rows",
    )
    add(
        "--length",
        dest="lengths",
        type=_lengths,
        metavar="MIN-MAX",
        help="of open dimensions, drawn for each request: log-normal, clipped to this range",
    )
    add(
        "--image-size",
        type=_size,
        default=(256, 256),
        metavar="WxH",
        help="of random images (256x256)",
    )
    add("--timeout", type=_positive, metavar="S", help="the deadline in every request, seconds")
    add("--members", metavar="A,B,...", help="only these members of the ensemble")


def _add_results(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--deadline-ms", type=_positive, metavar="MS", help="report the goodput within it")
    add("--json", action="store_true", help="JSON on stdout, and nothing else")
    add("--output", type=Path, metavar="FILE", help="the same JSON into a file")
    add("--plot", type=_plot, metavar="FILE", help="a plot: .svg, .png or .pdf (matplotlib)")
    add("--quiet", action="store_true", help="no progress display")


def _add_gates(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--max-p99-ms", type=_positive, metavar="MS", help="the highest p99 latency")
    add("--min-rate", type=_positive, metavar="R", help="the fewest good responses per second")
    add("--max-errors", type=parse_error_limit, metavar="N|P%", help="their number or share")


# argparse prints the message of an ArgumentTypeError after the usage; a UsageError passes through.


def _not_negative(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"should be a number, 0 or more, not {text!r}")
    return number


def _positive(text: str) -> float:
    number = _not_negative(text)
    if number == 0:
        raise argparse.ArgumentTypeError("should be above 0")
    return number


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"should be a whole number, 1 or more, not {text!r}")
    return int(text)


def _positives(text: str) -> tuple[float, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.rpartition(":")
    if not name:
        raise argparse.ArgumentTypeError(f"should be like x:3,224,224, not {text!r}")
    return name, tuple(_count(size) for size in sizes.split(","))


def _lengths(text: str) -> tuple[int, int]:
    least, _, most = text.partition("-")
    lengths = _count(least), _count(most or least)
    if lengths[0] > lengths[1]:
        raise argparse.ArgumentTypeError(f"should ascend, like 16-512, not {text!r}")
    return lengths


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    return _count(width), _count(height)


def _plot(text: str) -> Path:
    if Path(text).suffix.lower() not in _PLOT_SUFFIXES:
        raise UsageError(f"--plot {text}: should end with .svg, .png or .pdf")
    return Path(text)


def parse_error_limit(text: str) -> tuple[float, bool]:
    """Return the limit and whether it is a share: ``12``, or ``0.5%``; UsageError if neither."""
    is_share = text.endswith("%")
    try:
        number = float(text.removesuffix("%")) / (100 if is_share else 1)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf or (is_share and number > 1):
        raise UsageError(f"--max-errors {text}: should be like 10 or 0.5%")
    return number, is_share
