"""Other ways to compute x'Ax, to compare with: plain functions, x ``[T, C]``, A ``[O, C, C]`` -> ``[T, O]``."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["RIVALS", "published"]


def published(x: Tensor, weight: Tensor) -> Tensor:
    """Evaluate as the published layers do: all C^2 products of a position by ``bmm``, then one linear map of them."""
    products = torch.bmm(x[:, :, None], x[:, None, :]).flatten(1)
    return F.linear(products, weight.flatten(1))


def bilinear(x: Tensor, weight: Tensor) -> Tensor:
    """Evaluate as ``nn.Bilinear`` of x with itself."""
    return F.bilinear(x, x, weight)


def einsum(x: Tensor, weight: Tensor) -> Tensor:
    """Evaluate as one ``torch.einsum``."""
    return torch.einsum("ti,oij,tj->to", x, weight, x)


def conv1x1(x: Tensor, weight: Tensor) -> Tensor:
    """Evaluate as a 1x1 convolution of the map of all products, as quadratic networks of other authors do."""
    products = (x.T[:, None] * x.T[None]).flatten(0, 1)
    return F.conv1d(products[None], weight.flatten(1)[:, :, None])[0].T


RIVALS = {"published": published, "nn.Bilinear": bilinear, "einsum": einsum, "1x1 convolution": conv1x1}
