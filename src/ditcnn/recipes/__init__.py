"""What each run is: settings by component, and the published ones as data."""

from ditcnn.recipes.published import RECIPES, NamedRecipe, make_recipe, recipes
from ditcnn.recipes.settings import OWN, Recipe, parse_arguments

__all__ = ["OWN", "RECIPES", "NamedRecipe", "Recipe", "make_recipe", "parse_arguments", "recipes"]
