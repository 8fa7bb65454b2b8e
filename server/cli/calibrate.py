"""`ensembled calibrate`: fits an ensemble on data, and tells how good it is on other data.

Runs in the process of the command line. A configuration and .npz files flow in; tables or JSON on
stdout, a fragment of YAML and a picture flow out.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from server.calibration.calibration import Calibration, Source, calibrate_ensemble
from server.calibration.fitting import Options
from server.cli.calibrate_tables import show
from server.cli.output import check_output, stdout_console, write_output
from server.config import Config
from server.errors import ConfigError
from server.stdout import echo

__all__ = ["Telling", "calibrate"]


@dataclass(frozen=True)
class Telling:
    """How the user wants to be told.

    Attributes:
        output: where to write the YAML, if anywhere.
        plot: where to draw the reliability diagram, if anywhere: .svg or .png.
        as_json: print JSON instead of tables.
    """

    output: Path | None = None
    plot: Path | None = None
    as_json: bool = False

    def __post_init__(self) -> None:
        """Refuse what can't be written, before anything takes its time.

        Raises:
            ConfigError: if a file can't be written there, or drawn without matplotlib.
        """
        check_output("--output", self.output)
        check_output("--plot", self.plot)
        if self.plot is not None and self.plot.suffix not in {".svg", ".png"}:
            raise ConfigError(f"--plot {self.plot}: should end in .svg or .png")
        if self.plot is not None and find_spec("matplotlib") is None:
            raise ConfigError("--plot needs matplotlib: pip install 'ensembled[plot]'")


def calibrate(
    config: Config, path: Path, source: Source, options: Options, telling: Telling
) -> None:
    """Calibrate an ensemble, and tell what came of it.

    Args:
        config: the configuration.
        path: of its file.
        source: what, and with which data.
        options: of the fit.
        telling: how.

    Raises:
        ConfigError: if the configuration or a file is wrong.
        StartError: if a member can't run or fails.
    """
    found = calibrate_ensemble(config, path, source, options)
    if telling.as_json:
        echo(json.dumps(_document(found)))
    else:
        show(stdout_console(), found)
        for note in found.notes:
            print(f"note: {note}", file=sys.stderr)
        echo(found.yaml, end="")
    if telling.output is not None:
        write_output("--output", telling.output, found.yaml)
    if telling.plot is not None:
        _draw(telling.plot, found)


def _draw(path: Path, found: Calibration) -> None:
    from server.calibration.plot import draw_reliability  # noqa: PLC0415 (matplotlib is an extra)

    subject, report = found.subject, found.report
    if not report.before or not report.after:
        raise ConfigError(f"--plot: answers of rule {subject.config.rule} are no probabilities")
    try:
        draw_reliability(path, subject.name, {"before": report.before, "after": report.after})
    except OSError as error:
        raise ConfigError(f"--plot {path}: {error.strerror}") from None


def _document(found: Calibration) -> dict[str, Any]:
    subject, report = found.subject, found.report
    cascade = None
    if report.cascade is not None:
        stages = {"stages": subject.stages, "order": subject.order}
        cascade = {**stages, **asdict(report.cascade)}
    return {
        "ensemble": subject.name,
        "rows": {"fitting": len(found.fitting), "held_out": len(found.held)},
        "members": {name: asdict(one) for name, one in report.members.items()},
        "rule": found.fit.rule.name,
        "combined": {name: asdict(one) for name, one in report.combined.items()},
        "cascade": cascade,
        "outside": found.detection,
        "reliability": {
            "before": [asdict(one) for one in report.before],
            "after": [asdict(one) for one in report.after],
        },
        "notes": list(found.notes),
        "yaml": found.yaml,
    }
