"""Quadratic ("dendritic") neurons for convolutional networks.

Importing the package registers its models with timm: ``timm.create_model("dit_resnet20")``. What the package offers is
imported at its first use, and the models right after timm, so that the command line's help need not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ditcnn.system.after_import import after_import

if TYPE_CHECKING:
    from ditcnn import models
    from ditcnn.convert import Place, add_quadratic, candidate_places, quadratic_terms, remove_quadratic
    from ditcnn.groups import parameter_groups
    from ditcnn.layers import QuadraticConv2d, QuadraticForm, QuadraticForm2d, QuadraticLinear
    from ditcnn.ops import low_rank_form, quadratic_form
    from ditcnn.recipes import Recipe, recipes
    from ditcnn.train.fit import Result, fit
    from ditcnn.use import evaluate, load, predict

__version__ = "0.1.0"
__all__ = [
    "Place",
    "QuadraticConv2d",
    "QuadraticForm",
    "QuadraticForm2d",
    "QuadraticLinear",
    "Recipe",
    "Result",
    "add_quadratic",
    "candidate_places",
    "evaluate",
    "fit",
    "load",
    "low_rank_form",
    "models",
    "parameter_groups",
    "predict",
    "quadratic_form",
    "quadratic_terms",
    "recipes",
    "remove_quadratic",
]

_MODULES = {
    "ditcnn.convert": ("Place", "add_quadratic", "candidate_places", "quadratic_terms", "remove_quadratic"),
    "ditcnn.groups": ("parameter_groups",),
    "ditcnn.layers": ("QuadraticConv2d", "QuadraticForm", "QuadraticForm2d", "QuadraticLinear"),
    "ditcnn.ops": ("low_rank_form", "quadratic_form"),
    "ditcnn.recipes": ("Recipe",),
    "ditcnn.train.fit": ("Result", "fit"),
    "ditcnn.use": ("evaluate", "load", "predict"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
_SUBMODULES = ("convert", "groups", "layers", "models", "ops", "recipes")  # usable after ``import ditcnn`` alone


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"ditcnn.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'ditcnn' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})


after_import("timm", lambda: importlib.import_module("ditcnn.models"), within="ditcnn")
