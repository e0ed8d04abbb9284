"""Modules built on the quadratic form."""

from ditcnn.layers.conv import QuadraticConv2d, TermBeside, beside
from ditcnn.layers.form import QuadraticForm, QuadraticForm2d
from ditcnn.layers.linear import QuadraticLinear
from ditcnn.layers.norm import NORMS, Norm, SpatialLayerNorm

__all__ = [
    "NORMS",
    "Norm",
    "QuadraticConv2d",
    "QuadraticForm",
    "QuadraticForm2d",
    "QuadraticLinear",
    "SpatialLayerNorm",
    "TermBeside",
    "beside",
]
