"""The architectures of the digit networks. Imported only where they are trained.

Each takes raw pixels 0..16, FP32 [n, 64], and returns logits [n, 10].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["EPOCHS", "NETWORKS"]


class _Scale(nn.Module):
    """Pixels 0..16 to -1..1."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 8 - 1


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        inside: Tensor = self.inside(x)
        return x + inside


class _RowAttention(nn.Module):
    """Each of the eight rows of the image looks at the others, once."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(torch.randn(8, width) * 0.2)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.head = nn.Sequential(nn.Flatten(), nn.LayerNorm(8 * width), nn.Linear(8 * width, 10))
        self.scale = width**-0.5

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.relu(self.embed(x.reshape(-1, 8, 8)) + self.position)
        queries, keys, values = self.queries_keys_values(rows).chunk(3, dim=-1)
        weights = (queries @ keys.transpose(1, 2) * self.scale).softmax(-1)
        answer: Tensor = self.head(rows + weights @ values)
        return answer


def _mlp() -> nn.Module:
    return nn.Sequential(
        _Scale(), nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 10)
    )


def _deep() -> nn.Module:
    layers: list[nn.Module] = [_Scale(), nn.Linear(64, 32), nn.Tanh()]
    for _ in range(4):
        layers += [nn.Linear(32, 32), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(32, 10))


def _cnn() -> nn.Module:
    return nn.Sequential(
        _Scale(),
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def _residual() -> nn.Module:
    return nn.Sequential(
        _Scale(),
        nn.Linear(64, 48),
        _Residual(48),
        _Residual(48),
        nn.LayerNorm(48),
        nn.Linear(48, 10),
    )


#: Builds an untrained network of each kind.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": _mlp,
    "deep": _deep,
    "cnn": _cnn,
    "residual": _residual,
    "attention": lambda: _RowAttention(24),
}

#: Passes over the training set; enough for each kind to converge.
EPOCHS = {"mlp": 12, "deep": 15, "cnn": 15, "residual": 12, "attention": 20}
