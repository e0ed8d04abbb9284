"""Networks with the quadratic term; importing them registers their names with timm."""

from ditcnn.models.cifar_resnet import CifarResNet, DitResNet
from ditcnn.models.dit_convnext import DitConvNeXt
from ditcnn.models.with_quadratic import with_quadratic

__all__ = ["CifarResNet", "DitConvNeXt", "DitResNet", "with_quadratic"]
