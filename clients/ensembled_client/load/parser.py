"""The command line of `ensembled-load`: names, defaults and help."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from ensembled_client.load.target import PROTOCOLS

__all__ = ["new_parser"]

_EPILOG = """\
Exit status: 0 the test was run, and all gates were passed; 1 it could not be run; 2 the options
are wrong; 3 a gate was not passed. Ctrl-C ends a test early, with its report.

examples:
  ensembled-load http://localhost:8000 digits                        # 8 connections for 10 s
  ensembled-load http://localhost:8000 digits --rate 500 --arrivals poisson --deadline-ms 20
  ensembled-load http://localhost:8000 imagenet --input a.jpg b.jpg --sweep 1,2,4,8 --plot s.svg
  ensembled-load grpc://localhost:8001 digits --max-p99-ms 50 --max-errors 0 --json
"""


def new_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        prog="ensembled-load",
        description="Puts load on a model, and tells how the server fared, and the tester itself.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", metavar="URL", help="http[s]://HOST:PORT or grpc[s]://HOST:PORT")
    parser.add_argument("model", metavar="MODEL", help="an ensemble, or one of its members")
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        help="by default binary tensors over HTTP, gRPC for a grpc:// URL",
    )
    _add_load(parser.add_argument_group("load"))
    _add_requests(parser.add_argument_group("requests"))
    _add_results(parser.add_argument_group("results"))
    _add_gates(parser.add_argument_group("gates, for continuous integration"))
    return parser


def _add_load(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--connections",
        type=_whole,
        metavar="N",
        help="closed loop: clients that each wait for their answer (8); open loop: the most "
        "requests in flight (256)",
    )
    group.add_argument("--rate", type=_positive, metavar="R", help="open loop: requests per second")
    group.add_argument(
        "--arrivals",
        choices=("constant", "poisson"),
        help="open loop: equal gaps (default), or random ones",
    )
    group.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="open loop: recorded arrivals, 'seconds[,rows]' a line, or a JSON list",
    )
    group.add_argument(
        "--sweep",
        type=_numbers,
        metavar="A,B,...",
        help="one test for each number of connections; with --arrivals, for each rate",
    )
    group.add_argument(
        "--duration", type=_positive, metavar="S", help="seconds to measure (10, or the trace's)"
    )
    group.add_argument("--count", type=_whole, metavar="N", help="requests to measure, instead")
    group.add_argument(
        "--warmup", type=_not_negative, default=1.0, metavar="S", help="seconds before that (1)"
    )
    group.add_argument(
        "--processes", type=_whole, default=1, metavar="K", help="that make the load (1)"
    )
    group.add_argument(
        "--patience",
        type=_positive,
        default=30.0,
        metavar="S",
        help="seconds after which a missing answer is an error (30)",
    )


def _add_requests(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--rows", type=_whole, default=1, metavar="N", help="per request (1)")
    group.add_argument(
        "--input",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="one .npz or .npy file, or images; random data otherwise",
    )
    group.add_argument(
        "--payloads", type=_whole, default=16, metavar="N", help="different ones in rotation (16)"
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of all random (0)")
    group.add_argument(
        "--shape",
        type=_shape,
        action="append",
        metavar="INPUT:A,B,...",
        help="where the model leaves dimensions open, without the rows",
    )
    group.add_argument(
        "--image-size",
        type=_size,
        default=(256, 256),
        metavar="WxH",
        help="of made-up images (256x256)",
    )
    group.add_argument(
        "--timeout", type=_positive, metavar="S", help="the deadline that requests carry, seconds"
    )
    group.add_argument("--members", metavar="A,B,...", help="only these members of the ensemble")


def _add_results(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--deadline-ms", type=_positive, metavar="MS", help="tell the goodput: answers within it"
    )
    group.add_argument("--json", action="store_true", help="JSON on stdout, and nothing else")
    group.add_argument("--output", type=Path, metavar="FILE", help="the same JSON into a file")
    group.add_argument(
        "--plot", type=Path, metavar="FILE", help="a picture: .svg, .png or .pdf (matplotlib)"
    )
    group.add_argument("--quiet", action="store_true", help="no progress display")


def _add_gates(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--max-p99-ms", type=_positive, metavar="MS", help="the highest p99")
    group.add_argument(
        "--min-rate", type=_positive, metavar="R", help="the fewest good answers per second"
    )
    group.add_argument("--max-errors", metavar="N|P%", help="the most errors, or their share")


# argparse tells what was wrong by the name of these functions' metavar and their message.


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return number


def _positive(text: str) -> float:
    number = _number(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"should be above 0, not {text}")
    return number


def _not_negative(text: str) -> float:
    number = _number(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"should be 0 or more, not {text}")
    return number


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"should be a whole number, 1 or more, not {text!r}")
    return int(text)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.rpartition(":")
    if not name:
        raise argparse.ArgumentTypeError(f"should be like x:3,224,224, not {text!r}")
    return name, tuple(_whole(size) for size in sizes.split(","))


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    return _whole(width), _whole(height)
