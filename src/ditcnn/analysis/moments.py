"""How much the pixels of an image go together: mean products, the statistic that a pooled quadratic form sees."""

import torch
from torch import Tensor

__all__ = ["second_moments"]


def second_moments(images: Tensor, reach: int) -> Tensor:
    r"""Return each image's mean products of pixels up to ``reach`` apart, every pair of channel and shift once.

    .. math:: m_{cd\tau} = \frac1{HW} \sum_p x_c(p)\, x_d(p + \tau), \qquad |\tau_1|, |\tau_2| \le \text{reach}

    The image goes on periodically. With reach 0 these are the channels' products at a position, and a linear function of
    them is a form :math:`x^\top A x` averaged over positions.

    Args:
        images: ``[N, C, H, W]``.
        reach: The largest shift, in pixels, below half of H and W.

    Returns:
        ``[N, M]``, M = C(C+1)/2 + C^2 ((2 reach + 1)^2 - 1)/2.

    >>> second_moments(torch.tensor([[[[1.0]], [[2.0]]]]), reach=0)
    tensor([[1., 2., 4.]])
    """
    count, channels, height, width = images.shape
    once = torch.triu_indices(channels, channels)
    moments = []
    for down in range(reach + 1):
        for right in range(-reach, reach + 1):
            if down == 0 and right < 0:
                continue  # the same products as with the shift turned round
            shifted = images.roll((-down, -right), (2, 3))
            products = torch.einsum("nchw,ndhw->ncd", images, shifted) / (height * width)
            moments.append(products[:, once[0], once[1]] if (down, right) == (0, 0) else products.reshape(count, -1))
    return torch.cat(moments, dim=1)
