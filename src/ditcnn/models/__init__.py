"""Networks with the quadratic term; importing them registers their names with timm."""

from ditcnn.models.cifar_resnet import CifarResNet, DitResNet
from ditcnn.models.cifarnet import CifarNet, DitCifarNet
from ditcnn.models.dit_convnext import DitConvNeXt
from ditcnn.models.older_resnet import FanResNet, QResResNet, QuadraLibResNet
from ditcnn.models.widths import widths_of_equal_cost
from ditcnn.models.with_quadratic import with_quadratic

__all__ = [
    "CifarNet",
    "CifarResNet",
    "DitCifarNet",
    "DitConvNeXt",
    "DitResNet",
    "FanResNet",
    "QResResNet",
    "QuadraLibResNet",
    "widths_of_equal_cost",
    "with_quadratic",
]
