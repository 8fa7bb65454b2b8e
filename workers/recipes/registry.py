"""Which recipes there are. Read by the supervisor and by the child processes that make models."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RECIPES", "Recipe", "RecipeError"]


class RecipeError(Exception):
    """A model could not be made; the text is one line that names the recipe and the fix."""


@dataclass(frozen=True)
class Recipe:
    """How to get one model that is not a file.

    Attributes:
        name: as configurations write it.
        summary: what the model is, in one line.
        module: the module that makes it, with a function ``make(names, directory, report)``.
        version: part of the file's name; raise it when the model changes.
        labels: name of the label file that belongs to it, without suffix; empty if there is none.
    """

    name: str
    summary: str
    module: str
    version: int
    labels: str = ""

    @property
    def file_name(self) -> str:
        """The model's file in the cache."""
        return f"{self.name}-v{self.version}.onnx"

    @property
    def labels_name(self) -> str:
        """The label file in the cache (one name per line), empty if there is none."""
        return f"{self.labels}.txt" if self.labels else ""


def _efficientnet(name: str, pixels: int) -> Recipe:
    summary = f"{name[:17].replace('_', '-')}, ImageNet weights, image [n, 3, {pixels}, {pixels}]"
    return Recipe(name, summary, "workers.recipes.efficientnet", 1, "imagenet-labels-v1")


def _digits(kind: str, summary: str) -> Recipe:
    return Recipe(f"digits_{kind}", summary, "workers.recipes.digits", 1, "digits-labels-v1")


def _mlp(index: int) -> Recipe:
    summary = "a tiny network with random weights, x [n, 784], for measurements of overhead"
    return Recipe(f"mlp_{index}", summary, "workers.recipes.mlp", 1)


def _control(problem: str, index: int, summary: str) -> Recipe:
    return Recipe(f"{problem}_{index}", summary, "workers.recipes.control", 1)


_ALL = (
    _efficientnet("efficientnet_lite0", 224),
    _efficientnet("efficientnet_lite1", 240),
    _efficientnet("efficientnet_lite2", 260),
    *(_efficientnet(f"efficientnet_lite{index}_224", 224) for index in range(3)),
    _digits("mlp", "a wide perceptron"),
    _digits("deep", "a deep, narrow perceptron with tanh"),
    _digits("cnn", "a convolutional network"),
    _digits("residual", "a residual perceptron"),
    _digits("attention", "attention over the rows of the image"),
    *(_mlp(index) for index in range(5)),
    *(_control("cartpole", index, "balances a pole on a cart") for index in range(5)),
    *(_control("pendulum", index, "swings a pendulum up") for index in range(4)),
)

#: Every recipe by its name.
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}
