"""Modules built on the quadratic form."""

from ditcnn.layers.conv import QuadraticConv2d, TermBeside, beside
from ditcnn.layers.foreign import HasTerm, warn_of_parent
from ditcnn.layers.form import QuadraticForm, QuadraticForm2d
from ditcnn.layers.linear import QuadraticLinear
from ditcnn.layers.norm import NORMS, Norm, SpatialLayerNorm
from ditcnn.layers.older import QResConv2d, QuadraLibConv2d, ReLinearConv2d, SlowConv2d
from ditcnn.layers.pixelwise import PixelwiseForm2d, PixelwiseTermBeside, beside_pixelwise, check_pixelwise_place

__all__ = [
    "NORMS",
    "HasTerm",
    "Norm",
    "PixelwiseForm2d",
    "PixelwiseTermBeside",
    "QResConv2d",
    "QuadraLibConv2d",
    "QuadraticConv2d",
    "QuadraticForm",
    "QuadraticForm2d",
    "QuadraticLinear",
    "ReLinearConv2d",
    "SlowConv2d",
    "SpatialLayerNorm",
    "TermBeside",
    "beside",
    "beside_pixelwise",
    "check_pixelwise_place",
    "warn_of_parent",
]
