"""CIFAR ResNets of older quadratic neurons, to compare Dit-ResNet with: every 3x3 convolution of the blocks is quadratic.

Stem, shortcuts, norms and head are the plain network's here, so that arms of a comparison differ by the convolution alone.
The published networks of Fan et al. and of QuadraLib have a head of 64 features; Fan's shortcuts have no weights, and its
linear parts start from He's normal weights, where these start from the plain network's own.
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model
from torch import nn

from ditcnn.layers import QResConv2d, QuadraLibConv2d, ReLinearConv2d
from ditcnn.models.cifar_resnet import DEPTHS, CifarResNet, cifar_cfg, create_cifar

__all__ = ["FanResNet", "QResResNet", "QuadraLibResNet"]


class FanResNet(CifarResNet):
    """`CifarResNet` of `ditcnn.layers.ReLinearConv2d`: Fan et al., arXiv 2110.06081. It starts linear in each neuron."""

    def block_conv(self, *args: int) -> nn.Module:
        """Return a convolution of the blocks."""
        return ReLinearConv2d(*args)


class QuadraLibResNet(CifarResNet):
    """`CifarResNet` of `ditcnn.layers.QuadraLibConv2d`: Xu et al., MLSys 2022."""

    def block_conv(self, *args: int) -> nn.Module:
        """Return a convolution of the blocks."""
        return QuadraLibConv2d(*args)


class QResResNet(CifarResNet):
    """`CifarResNet` of `ditcnn.layers.QResConv2d`: Bu and Karpatne, 2021, whose own networks have no convolutions."""

    def block_conv(self, *args: int) -> nn.Module:
        """Return a convolution of the blocks."""
        return QResConv2d(*args)


_FAMILIES: dict[str, type[CifarResNet]] = {"fan": FanResNet, "quadralib": QuadraLibResNet, "qres": QResResNet}
default_cfgs = generate_default_cfgs({f"{family}_resnet{depth}": cifar_cfg() for family in _FAMILIES for depth in DEPTHS})


def _register(family: str, model_cls: type[CifarResNet], depth: int) -> None:
    variant = f"{family}_resnet{depth}"

    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return create_cifar(model_cls, variant, pretrained, depth=depth, **kwargs)

    entry.__name__ = entry.__qualname__ = variant
    entry.__doc__ = f"ResNet-{depth} of quadratic convolutions for 32x32 images; see `{model_cls.__name__}`."
    globals()[variant] = register_model(entry)


for _family, _model_cls in _FAMILIES.items():
    for _depth in DEPTHS:
        _register(_family, _model_cls, _depth)
