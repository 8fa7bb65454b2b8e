"""The command `ensembled-load`, in the parent: report on stdout, progress and errors on stderr."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ensembled_client.load.options import EXIT_FAILED, EXIT_GATE, LoadTestError

__all__ = ["main"]

_EXIT_INTERRUPTED = 130
_REQUIRED = {"hdrh": "load", "httptools": "load", "PIL": "load", "rich": "load"}
_REQUIRED_GRPC = {"grpc": "grpc", "google.protobuf": "grpc"}
_REQUIRED_PLOT = {"matplotlib": "plot"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    try:
        _check_installed(_REQUIRED)
        return _main(arguments)
    except LoadTestError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("error: interrupted, nothing was measured", file=sys.stderr)
        return _EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_FAILED


def _check_installed(modules: dict[str, str]) -> None:
    for module, extra in modules.items():
        try:
            found = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:  # not even the package it is in
            found = False
        if not found:
            raise LoadTestError(
                f"{module} is not installed: pip install 'ensembled-client[{extra}]'"
            )


def _main(arguments: Sequence[str] | None) -> int:
    from ensembled_client.load.options import parse_options  # noqa: PLC0415  (needs the extra)

    options = parse_options(arguments)
    if options.target.protocol == "grpc":
        _check_installed(_REQUIRED_GRPC)
    if options.plot is not None:
        _check_installed(_REQUIRED_PLOT)
    for path in (options.output, options.plot):
        _check_writable(path)

    from ensembled_client.load import report, runner  # noqa: PLC0415

    summaries = runner.run_tests(options)
    failures = [options.gates.failures(summary) for summary in summaries]
    document = json.dumps(report.command_document(options, summaries, failures), indent=1)
    if options.output is not None:
        _write(options.output, document + "\n")
    if options.plot is not None:
        report.save_plot(options.plot, summaries, options)
    is_sweep = len(options.loads) > 1
    if options.json:
        print(document)
    elif is_sweep:
        print(report.sweep_text(summaries, options))
    else:
        print(report.report_text(summaries[0], options))
    for summary, lines in zip(summaries, failures, strict=True):
        where = f" at {summary.load:g}" if is_sweep else ""
        for line in lines:
            print(f"gate failed{where}: {line}", file=sys.stderr)
    return EXIT_GATE if any(failures) else 0


def _check_writable(path: Path | None) -> None:
    """Better to know before the test than after it."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        reason = "is a directory" if path.is_dir() else "its directory does not exist"
        raise LoadTestError(f"{path}: {reason}")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise LoadTestError(f"{path}: {error.strerror}") from None
