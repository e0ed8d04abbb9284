"""A quadratic neuron for vectors."""

import torch
from torch import Tensor, nn

from ditcnn.layers.form import QuadraticForm
from ditcnn.ops import saturate

__all__ = ["QuadraticLinear"]


class QuadraticLinear(nn.Linear):
    r"""Quadratic neurons: :math:`y_o = x^\top A_o x + w_o^\top x + b_o`, a drop-in for ``nn.Linear``.

    A starts at zero, so the layer begins as the linear one; ``weight`` and ``bias`` keep their names. Source: Liu et al.,
    NeurIPS 2024, equation 1.

    Args:
        in_features: C.
        out_features: O.
        bias: Learn b.
        rank, rate: As in `QuadraticForm`.

    Shapes:
        ``[..., C]`` -> ``[..., O]``. ``weight`` ``[O, C]``, ``bias`` ``[O]``; A is ``quadratic.weight``, ``[O, C, C]``, or
        with a rank ``quadratic.u`` and ``quadratic.v``.

    >>> layer = QuadraticLinear(784, 10)
    >>> layer(torch.zeros(5, 784)).shape
    torch.Size([5, 10])
    """

    plain_class = nn.Linear

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        rank: int | None = None,
        *,
        rate: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.quadratic = QuadraticForm(in_features, out_features, rank=rank, rate=rate, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return the neurons' outputs."""
        y = super().forward(x)
        return saturate(y + self.quadratic(x), y.dtype)

    def remove_quadratic(self) -> None:
        """Become the plain layer."""
        del self.quadratic
        self.__class__ = self.plain_class  # type: ignore[assignment]

    def reset_parameters(self) -> None:
        """Draw weight and bias as ``nn.Linear`` does; set A to zero."""
        super().reset_parameters()
        if hasattr(self, "quadratic"):  # absent while nn.Linear is being built
            self.quadratic.reset_parameters()
