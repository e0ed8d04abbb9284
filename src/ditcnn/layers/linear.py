"""A quadratic neuron for vectors."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from ditcnn.layers.foreign import HasTerm, as_leaf, plain_or_blank
from ditcnn.layers.form import QuadraticForm
from ditcnn.ops import saturate

__all__ = ["QuadraticLinear"]


class QuadraticLinear(HasTerm, nn.Linear):
    r"""Quadratic neurons: :math:`y_o = x^\top A_o x + w_o^\top x + b_o`, a drop-in for ``nn.Linear``.

    A starts at zero, so the layer begins as the linear one; ``weight`` and ``bias`` keep their names. Source: Liu et al.,
    NeurIPS 2024, equation 1.

    ``nn.TransformerEncoderLayer`` in eval mode multiplies by ``weight`` and passes over a layer's forward, unless there is a
    hook in it: so each of these has one, which does nothing. ``type(layer)(...)`` is a plain ``nn.Linear``.

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
        self.register_forward_pre_hook(_do_nothing)
        if type(self) is QuadraticLinear:
            self.__class__ = _Built

    def forward(self, x: Tensor) -> Tensor:
        """Return the neurons' outputs."""
        if isinstance(x, Proxy):
            return cast(Tensor, as_leaf(self, x))
        if x.is_nested:  # as torch's encoder hands on sequences of unequal lengths
            return torch.nested.as_nested_tensor([self.forward(vectors) for vectors in x.unbind()], layout=x.layout)
        y = super().forward(x)
        return saturate(y + self.quadratic(x), y.dtype)

    def remove_quadratic(self) -> None:
        """Become the plain layer."""
        del self.quadratic
        for key in [key for key, hook in self._forward_pre_hooks.items() if hook is _do_nothing]:
            del self._forward_pre_hooks[key]
        self.__class__ = self.plain_class  # type: ignore[assignment]

    def reset_parameters(self) -> None:
        """Draw weight and bias as ``nn.Linear`` does; set A to zero."""
        super().reset_parameters()
        if hasattr(self, "quadratic"):  # absent while nn.Linear is being built
            self.quadratic.reset_parameters()


class _Built(QuadraticLinear):
    """The class of a layer once it is built."""

    plain_class = nn.Linear
    __new__ = plain_or_blank

    def __reduce__(self) -> tuple[Any, ...]:
        return _blank, (), self.__getstate__()  # type: ignore[no-untyped-call]


_Built.__name__ = _Built.__qualname__ = "QuadraticLinear"


def _blank() -> QuadraticLinear:
    """Return an empty layer, for pickle and deepcopy to fill."""
    return cast(QuadraticLinear, _Built.__new__(_Built))


def _do_nothing(layer: nn.Module, inputs: Any) -> None: ...
