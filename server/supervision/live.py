"""The deployments that are alive: the one that serves, one that comes, and those that drain.

Used in the supervisor; pure. Every process that starts is told of all of them, except a front-end,
whose clients know none but the current one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from server.inference.spec import DeploymentSpec
from workers.runtime.spec import Load

__all__ = ["LiveDeployments"]


@dataclass
class LiveDeployments:
    """What is served; `coming` is being brought up, no request goes there yet."""

    current: DeploymentSpec
    coming: DeploymentSpec | None = None
    draining: list[DeploymentSpec] = field(default_factory=list)

    def __iter__(self) -> Iterator[DeploymentSpec]:
        """All of them, the oldest first."""
        yield from self.draining
        yield self.current
        if self.coming is not None:
            yield self.coming

    def switch(self) -> DeploymentSpec:
        """The one that comes takes the place of the current one, which drains and is returned."""
        assert self.coming is not None
        former = self.current
        self.draining.append(former)
        self.current, self.coming = self.coming, None
        return former

    def loads(self, device: str, *, is_down: bool = False) -> tuple[Load, ...]:
        """What the worker of a device has to load.

        One that is down gets nothing but the deployment that comes, if there is one: it may be what
        mends the others, which are not served there anyway.
        """
        wanted = [self.coming] if is_down and self.coming is not None else self
        return tuple(
            Load(one.generation, one.instances[device]) for one in wanted if device in one.instances
        )

    def generations(self) -> tuple[Load, ...]:
        """What the combiner has to load."""
        return tuple(Load(one.generation) for one in self)

    def uses(self, device: str) -> bool:
        """Whether anything lives on a device."""
        return any(device in one.instances for one in self)
