"""Quadratic ("dendritic") neurons for convolutional networks.

Importing the package registers its models with timm: ``timm.create_model("dit_resnet20")``.
"""

from ditcnn import models
from ditcnn.convert import Place, add_quadratic, candidate_places, quadratic_terms, remove_quadratic
from ditcnn.groups import parameter_groups
from ditcnn.layers import QuadraticConv2d, QuadraticForm, QuadraticForm2d, QuadraticLinear
from ditcnn.ops import low_rank_form, quadratic_form

__version__ = "0.1.0"
__all__ = [
    "Place",
    "QuadraticConv2d",
    "QuadraticForm",
    "QuadraticForm2d",
    "QuadraticLinear",
    "add_quadratic",
    "candidate_places",
    "low_rank_form",
    "models",
    "parameter_groups",
    "quadratic_form",
    "quadratic_terms",
    "remove_quadratic",
]
