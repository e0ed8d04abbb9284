"""The pixel-wise form: products of the pixels under one channel's kernel window, which the paper compares with its own."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from ditcnn.layers.conv import TermBeside, change_class, pads_as_tensorflow
from ditcnn.layers.foreign import as_leaf
from ditcnn.layers.form import QuadraticForm
from ditcnn.ops import in_working_precision

__all__ = ["PixelwiseForm2d", "PixelwiseTermBeside", "beside_pixelwise", "check_pixelwise_place"]


class PixelwiseForm2d(QuadraticForm):
    r"""Pixel-wise quadratic form of a feature map, zero at the start.

    .. math:: q_{nchw} = \sum_{ab} A_{cab}\, x_{nc,\,(h,w)+a}\, x_{nc,\,(h,w)+b}

    a and b run over the window of a depthwise convolution, so each channel has one matrix, and no two channels meet.
    Source: Liu et al., NeurIPS 2024, Table 5, where it does less well than the channel-wise form.

    Args:
        channels: C.
        kernel_size, stride, padding, dilation: The window's, (rows, columns) each, as in ``nn.Conv2d``.
        rate: As in `QuadraticForm`.

    Shapes:
        ``[N, C, H, W]`` -> ``[N, C, H', W']`` as the convolution's; ``weight`` is A, ``[C, K, K]`` K pixels in a window,
        by rows. Twice N C K H' W' numbers are held for the backward pass, and K^2 multiplications a position and channel.

    >>> PixelwiseForm2d(8, (3, 3), padding=(1, 1))(torch.zeros(2, 8, 5, 5)).shape
    torch.Size([2, 8, 5, 5])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        rate: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(kernel_size[0] * kernel_size[1], channels, rate=rate, device=device, dtype=dtype)
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation

    def forward(self, x: Tensor) -> Tensor:
        """Return the form at every position; precision is handled as in `ditcnn.quadratic_form`."""
        if isinstance(x, Proxy):
            return cast(Tensor, as_leaf(self, x))
        if x.ndim != 4 or x.shape[1] != self.out_features:
            raise ValueError(f"x must have shape [N, {self.out_features}, H, W]; got {list(x.shape)}.")
        return in_working_precision(self._products, x, self.weight)

    def _products(self, x: Tensor, weight: Tensor) -> Tensor:
        windows = F.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)
        windows = windows.unflatten(1, (self.out_features, self.in_features))  # [N, C, K, H'W']
        y: Tensor = ((weight @ windows) * windows).sum(2).unflatten(2, self._map_size(x))
        return y

    def _map_size(self, x: Tensor) -> tuple[int, int]:
        rows, columns = (
            (x.shape[axis - 2] + 2 * self.padding[axis] - self.dilation[axis] * (self.kernel_size[axis] - 1) - 1)
            // self.stride[axis]
            + 1
            for axis in (0, 1)
        )
        return rows, columns


class PixelwiseTermBeside(TermBeside):
    r"""What turns a depthwise convolution's class into one with the pixel-wise term: :math:`y = \mathrm{conv}(x) + Q(x)`."""

    prefix = "Pixelwise"

    def term(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the term, whose window is the convolution's own."""
        y: Tensor = self.quadratic(x)
        return y


def check_pixelwise_place(conv: nn.Conv2d) -> None:
    """Raise ``ValueError`` unless a convolution is depthwise with one output a channel and pads with zeros by numbers."""
    if not conv.groups == conv.in_channels == conv.out_channels:
        raise ValueError(
            f"the pixel-wise term stands beside a depthwise convolution, in_channels = out_channels = groups; got "
            f"{conv.in_channels}, {conv.out_channels} and {conv.groups}. The channel-wise one goes beside any."
        )
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros" or pads_as_tensorflow(conv):
        raise ValueError(
            f"the pixel-wise term needs zero padding given in numbers; got a {type(conv).__name__} with "
            f"padding={conv.padding!r} and padding_mode={conv.padding_mode!r}."
        )


def beside_pixelwise(conv: nn.Conv2d, *, rate: float = 1.0) -> None:
    """Put the pixel-wise term beside a depthwise convolution, in place, as `ditcnn.layers.beside` does the channel-wise one.

    Raises:
        ValueError: The convolution is none that `check_pixelwise_place` lets pass.
    """
    check_pixelwise_place(conv)
    window: dict[str, Any] = {name: getattr(conv, name) for name in ("stride", "padding", "dilation")}
    term = PixelwiseForm2d(
        conv.in_channels,
        cast(tuple[int, int], conv.kernel_size),
        rate=rate,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
        **window,
    )
    change_class(conv, PixelwiseTermBeside)
    conv.quadratic = term.train(conv.training)
