"""What each run is: settings by component, and the published ones as data."""

import sys
from types import ModuleType

from ditcnn.recipes.published import RECIPES, NamedRecipe, make_recipe, recipes
from ditcnn.recipes.settings import OWN, Recipe, parse_arguments

__all__ = ["OWN", "RECIPES", "NamedRecipe", "Recipe", "make_recipe", "parse_arguments", "recipes"]


class _Callable(ModuleType):
    """`ditcnn.recipes()` and this package have one name."""

    def __call__(self) -> dict[str, Recipe]:
        """Return the recipes by name."""
        return recipes()


sys.modules[__name__].__class__ = _Callable
