"""Recipes make the models of our configurations that are not files: exported or trained once.

Used by the supervisor, which imports no runtime for it: what is missing is made by child
processes (`python -m workers.recipes`) that report progress on stdout, and kept in the cache.
"""

from workers.recipes.kitchen import RecipeResult, ensure, ensure_with_progress
from workers.recipes.registry import RECIPES, Recipe, RecipeError

__all__ = ["RECIPES", "Recipe", "RecipeError", "RecipeResult", "ensure", "ensure_with_progress"]
