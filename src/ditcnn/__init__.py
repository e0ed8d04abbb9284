"""Quadratic ("dendritic") neurons for convolutional networks.

Importing the package registers its models with timm: ``timm.create_model("dit_resnet20")``.
"""

from ditcnn import models
from ditcnn.layers import QuadraticForm2d
from ditcnn.ops import quadratic_form

__version__ = "0.1.0"
__all__ = ["QuadraticForm2d", "models", "quadratic_form"]
