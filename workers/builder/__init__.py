"""Makes model files by running recipes, Python functions that a configuration names."""

from workers.builder.builder import BuiltModel, build_models, build_models_with_progress
from workers.builder.recipe import Recipe, RecipeError, find_recipe

__all__ = [
    "BuiltModel",
    "Recipe",
    "RecipeError",
    "build_models",
    "build_models_with_progress",
    "find_recipe",
]
