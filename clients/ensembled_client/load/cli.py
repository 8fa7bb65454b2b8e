"""The command `ensembled-load`: runs in the parent process.

Options flow in; the report flows out on stdout, progress and complaints on stderr, and the exit
status tells a continuous integration how it went (see `errors`).
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ensembled_client.load.errors import EXIT_FAILED, EXIT_GATE, LoadTestError

__all__ = ["main"]

_INTERRUPTED = 130
_NEEDED = {"hdrh": "load", "rich": "load"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    try:
        _check_installed(_NEEDED)
        return _main(arguments)
    except LoadTestError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("error: broken off, nothing was measured", file=sys.stderr)
        return _INTERRUPTED
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
    from ensembled_client.load.options import parse  # noqa: PLC0415  (needs the extra)
    from ensembled_client.load.report import document_of, sweep_text, text_of  # noqa: PLC0415

    options = parse(arguments)
    needed = (
        {"grpc": "grpc", "google.protobuf": "grpc"} if options.target.protocol == "grpc" else {}
    )
    _check_installed(needed | ({"matplotlib": "plot"} if options.plot else {}))
    _check_writable(options.output, options.plot)

    from ensembled_client.load.run import run_all  # noqa: PLC0415

    is_sweep = len(options.loads) > 1
    summaries = run_all(options, lambda _: None)
    failures = [options.gates.failures(one) for one in summaries]
    documents = [document_of(one, bad) for one, bad in zip(summaries, failures, strict=True)]
    _write(options.output, _whole(options, documents))
    if options.plot is not None:
        from ensembled_client.load.plot import save_plot  # noqa: PLC0415  (matplotlib is slow)

        save_plot(options.plot, summaries, options)
    if options.as_json:
        print(json.dumps(_whole(options, documents), indent=1))
    else:
        print(sweep_text(summaries, options) if is_sweep else text_of(summaries[0], options))
    for summary, lines in zip(summaries, failures, strict=True):
        for line in lines:
            where = f" at {summary.load:g}" if is_sweep else ""
            print(f"gate not passed{where}: {line}", file=sys.stderr)
    return EXIT_GATE if any(failures) else 0


def _check_writable(*paths: Path | None) -> None:
    """Better to know before the test than after it."""
    for path in paths:
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            reason = "is a directory" if path.is_dir() else "its directory does not exist"
            raise LoadTestError(f"{path}: {reason}")


def _whole(options: Any, documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The document of a command: what was asked for, and the figures of each test."""
    return {
        "url": options.target.url,
        "model": options.target.model,
        "protocol": options.target.protocol,
        "arrivals": options.arrivals,
        "rows": options.rows,
        "processes": options.processes,
        "warmup_s": options.warmup_s,
        "seed": options.seed,
        "tests": list(documents),
    }


def _write(path: Path | None, document: dict[str, Any]) -> None:
    if path is None:
        return
    try:
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise LoadTestError(f"{path}: {error.strerror}") from None
