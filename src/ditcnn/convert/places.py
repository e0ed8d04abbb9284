"""Where the term can go in a model, and at what price."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ditcnn.layers import TermBeside

__all__ = ["Place", "candidate_places"]


@dataclass(frozen=True)
class Place:
    """A convolution that a term can stand beside.

    Attributes:
        name: Name of the convolution, for `ditcnn.add_quadratic`.
        in_channels: C.
        out_channels: O.
        map_size: (H, W) of the convolution's output: the positions that the term is taken at.
        parameters: Parameters of the term: O C^2, or R (C + O) with a rank.
        macs: Multiplications and additions of the term for one image and one visit, H W O C^2 as the paper counts, or
            H W R (C + O). ditcnn computes the whole form with about half of them, as A is symmetric.
    """

    name: str
    in_channels: int
    out_channels: int
    map_size: tuple[int, int]
    parameters: int
    macs: int


@torch.no_grad()
def candidate_places(model: nn.Module, example: Tensor | tuple[Any, ...], *, rank: int | None = None) -> list[Place]:
    """Return the convolutions that a forward pass visits and that have no term yet, in the order of the visit.

    The model is run once in eval mode and left as it was.

    Args:
        model: Any model.
        example: Its input, or a tuple of its inputs; on the model's device (``meta`` will do).
        rank: Price the low-rank form of this rank in place of whole matrices.

    >>> conv, = candidate_places(nn.Sequential(nn.Conv2d(3, 8, 3)), torch.zeros(1, 3, 6, 6))
    >>> conv.name, conv.map_size, conv.parameters, conv.macs
    ('0', (4, 4), 72, 1152)
    """
    found: dict[str, Place] = {}

    def visit(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(conv: nn.Module, inputs: Any, output: Tensor) -> None:
            assert isinstance(conv, nn.Conv2d)
            found.setdefault(name, _price(name, conv, (output.shape[-2], output.shape[-1]), rank))

        return hook

    convs = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and not isinstance(m, TermBeside)]
    hooks = [conv.register_forward_hook(visit(name)) for name, conv in convs]
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()(*example if isinstance(example, tuple) else (example,))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return list(found.values())


def _price(name: str, conv: nn.Conv2d, map_size: tuple[int, int], rank: int | None) -> Place:
    channels, outputs = conv.in_channels, conv.out_channels
    parameters = outputs * channels**2 if rank is None else rank * (channels + outputs)
    return Place(name, channels, outputs, map_size, parameters, map_size[0] * map_size[1] * parameters)
