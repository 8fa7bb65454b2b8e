"""Changes of what the system under test serves: another configuration, and what becomes of it.

Runs in the campaign. All members add the same number more, so an answer tells which deployment has
given it, and a mixture of two is no right answer of any. The server's log tells what became of a
change.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import yaml

from benchmarks.chaos.scene import Scene

__all__ = ["Changes"]

_SERVED, _FAILED = b" is served", b"nothing is changed: "


class Changes:
    """The configuration file of a server, and its log.

    Attributes:
        shift: what all members add in the deployment that is served.
    """

    def __init__(self, scene: Scene, config: Path, log_file: Path) -> None:
        self._scene, self._config, self._log_file = scene, config, log_file
        self.shift = 0.0

    def write(self, shift: float) -> int:
        """Write the configuration of another deployment; return where the log ends."""
        self._config.write_text(yaml.safe_dump(self._scene.shifted(shift)))
        return self._log_file.stat().st_size if self._log_file.exists() else 0

    async def wait(self, position: int, deadline_s: float) -> bool | None:
        """Whether a change has come up, as the log says from there on; None if it does not say."""
        deadline = time.monotonic() + deadline_s
        while time.monotonic() < deadline:
            with self._log_file.open("rb") as log:
                log.seek(position)
                text = log.read()
            if _SERVED in text or _FAILED in text:
                return _SERVED in text
            await asyncio.sleep(0.01)
        return None
