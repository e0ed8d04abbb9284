"""Networks with the quadratic term; importing them registers their names with timm."""

from ditcnn.models.cifar_resnet import CifarResNet, DitResNet

__all__ = ["CifarResNet", "DitResNet"]
