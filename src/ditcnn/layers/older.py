r"""Quadratic convolutions of earlier work, to compare with; ``*`` is convolution, ``.`` the product of elements.

Each stands in the place of an ``nn.Conv2d`` and takes its arguments. In all a product of two linear sums w'x v'x has the
symmetric matrix (wv' + vw')/2, of rank at most two (Fan et al. add a diagonal), where the term of Dit-CNN has a whole one.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

__all__ = ["QResConv2d", "QuadraLibConv2d", "ReLinearConv2d", "SlowConv2d"]


class SlowConv2d(nn.Conv2d):
    """``nn.Conv2d`` with a learning rate of its own, ``rate`` times the model's; `ditcnn.parameter_groups` applies it."""

    def __init__(self, *args: Any, rate: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rate = rate


class ReLinearConv2d(nn.Module):
    r"""The quadratic convolution of Fan et al. (ReLinear, arXiv 2110.06081).

    .. math:: y = (W_r * x + b_r) \cdot (W_g * x + b_g) + W_b * x^2 + c

    It starts as the linear convolution, :math:`W_g = 0, b_g = 1, W_b = 0, c = 0`, and the parts g and b train at a much
    smaller rate: 1e-4 of the model's, as in the authors' script for CIFAR (1e-5 beside 0.1).

    Args:
        args, kwargs: As in ``nn.Conv2d``; the formula has the biases, so ``bias`` is not among them.
        rate: Learning rate of the parts g and b as a multiple of the model's.

    Shapes:
        As ``nn.Conv2d``; three times its parameters.
    """

    def __init__(self, *args: Any, rate: float = 1e-4, **kwargs: Any) -> None:
        super().__init__()
        self.r = nn.Conv2d(*args, **kwargs)
        self.g = SlowConv2d(*args, rate=rate, **kwargs)
        self.b = SlowConv2d(*args, rate=rate, **kwargs)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x."""
        y: Tensor = self.r(x) * self.g(x) + self.b(x * x)
        return y

    def reset_parameters(self) -> None:
        """Draw the part r as ``nn.Conv2d`` does; make the others those of a linear convolution."""
        self.r.reset_parameters()
        for part, bias in ((self.g, 1.0), (self.b, 0.0)):
            nn.init.zeros_(part.weight)
            assert part.bias is not None
            nn.init.constant_(part.bias, bias)


class _Products(nn.Module):
    """Convolutions side by side without biases, of which a forward pass makes products."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        shape = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        self.add_convolutions(lambda: nn.Conv2d(*shape, bias=False))

    def add_convolutions(self, make: Callable[[], nn.Conv2d]) -> None:
        """Register the convolutions, made one after the other."""
        raise NotImplementedError


class QuadraLibConv2d(_Products):
    r"""The quadratic convolution of QuadraLib (Xu et al., MLSys 2022).

    .. math:: y = \mathrm{BN}(W_a * x) \cdot \mathrm{BN}(W_b * x) + \mathrm{BN}(W_c * x)

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: As in ``nn.Conv2d``; the norms have
            biases.

    Shapes:
        As ``nn.Conv2d``; three times its weights, and six numbers a channel.
    """

    def add_convolutions(self, make: Callable[[], nn.Conv2d]) -> None:
        """Register a, b and c, each with its norm."""
        self.a, self.b, self.c = (_with_norm(make()) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x."""
        y: Tensor = self.a(x) * self.b(x) + self.c(x)
        return y


class QResConv2d(_Products):
    r"""The quadratic residual layer of Bu and Karpatne (QRes, 2021), as a convolution.

    .. math:: y = W_1 * x \cdot W_2 * x + W_1 * x

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: As in ``nn.Conv2d``; there is no bias.

    Shapes:
        As ``nn.Conv2d``; twice its weights.
    """

    def add_convolutions(self, make: Callable[[], nn.Conv2d]) -> None:
        """Register w1 and w2."""
        self.w1, self.w2 = make(), make()

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x."""
        linear: Tensor = self.w1(x)
        y: Tensor = linear * self.w2(x) + linear
        return y


def _with_norm(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels))
