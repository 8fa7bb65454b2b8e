"""Reads a YAML file in which every key is there once.

Runs in the process that reads the configuration, and in the supervisor when it reads it again. The
path of a file flows in, plain values flow out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from server.errors import ConfigError

__all__ = ["read_yaml"]


class _Loader(yaml.SafeLoader):
    """YAML's safe subset, in which a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file, None if it is empty.

    Raises:
        ConfigError: if it can't be read, or is not YAML.
    """
    try:
        return yaml.load(path.read_bytes(), Loader=_Loader)  # noqa: S506 (a safe loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the file: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise ConfigError(f"{path}{place}: {problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a 13th month, endless brackets
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
