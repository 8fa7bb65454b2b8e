"""The section `server.repository`: what clients may change of the models that are served.

Runs in the process that reads the configuration file; the section flows in as a mapping and out as
a frozen model.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from server.config.base import Section

__all__ = ["RepositoryConfig"]


class RepositoryConfig(Section):
    """What clients with the scope `admin` may load and unload (without API keys: any client)."""

    control: Literal["none", "explicit"] = "none"
    """Whether clients may load and unload models by name (`explicit`) or not; a model that is
    loaded comes from the configuration, and a reload of the configuration undoes it all."""
    overrides: bool = False
    """With `control: explicit`: whether a request to load may bring a configuration and model files
    of its own. A model can run code of its author, and a section can name any file and any Python
    class on this machine: allow this only to those who may do that."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.overrides and self.control != "explicit":
            raise ValueError("overrides has no meaning without `control: explicit`, add that")
        return self
